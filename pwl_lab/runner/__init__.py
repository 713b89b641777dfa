"""Notebooks without a person: check their parameters, execute them, say truly how it ended, export what came out.

There is one way in, `execute.run_notebook`; all else builds on it. Read it in this order: `parameters` (what a run is
given), `run_folder` (what it leaves), `execute`, `client` and `kernel` (the processes), `verdict` (how it ended), `page`; then
`series`; then the batches: `grid`, `location`, `points`, `batch`, `report`.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # papermill's and nbconvert's remarks concern nobody here
