"""Notebooks without a person: check their parameters, execute them, say truly how it ended, export what came out."""
