"""Notebooks without a person: check their parameters, execute them, say truly how each ended, export what came out.

Every notebook runs through `execute.run_notebook`; all else builds on it. Read in this order: `parameters` (what a run is
given), `run_folder` (what it leaves), `execute`, `client` (the cells, and how the run ended) and `kernel` (its processes),
`verdict` (errors that no cell reported), `page`; then `series`; then the batches: `grid`, `location`, `points`, `batch`,
`report`.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # papermill's and nbconvert's remarks concern nobody here
