"""pwl_lab: progressive weight loading and distillation by curriculum extraction, to run, measure and teach."""

__version__ = "0.1.0"
