"""Unattended notebooks: check their parameters, execute them, record how each one ended, export the results.

Every notebook runs through `execute.run_notebook`; everything else builds on it. Read in this order: `parameters` (the
inputs of a run), `run_folder` (what it leaves), `execute`, `client` (the cells, and how the run ended) and `kernel`
(its processes), `verdict` (errors that no cell reported), `page`; then `series`; then the batches: `grid`, `location`,
`points`, `batch`, `report`.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # papermill's and nbconvert's messages are of no use here
