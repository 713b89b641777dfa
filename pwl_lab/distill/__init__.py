"""Distillation: curricula as data, their targets and losses, cohorts of students, probes of what a teacher says."""
