"""The checks of the exercises, one module per notebook of the series, named like it.

A check takes the reader's function, tries it on small inputs of its own, and returns a sentence on what the right answer
shows; a wrong answer is refused with an ExerciseError. It knows what the usual mistakes give, and names them.
"""
