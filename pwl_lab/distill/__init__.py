"""Distillation: curricula as data, their targets and losses, cohorts of students, probes of a teacher's output."""
