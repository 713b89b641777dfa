"""pwl_lab: progressive weight loading and distillation through an extracted curriculum, to run, measure and teach."""

__version__ = "0.1.0"
