"""Checks of the exercises, one module per notebook of the series, with the same name.

A check takes the reader's function, tries it on small inputs, and returns a sentence on what the correct answer shows;
for a wrong answer it raises ExerciseError. It recognises common mistakes by their results, and names them.
"""
