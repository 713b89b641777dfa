"""Distillation: losses, random projections of hidden states, curricula as data, cohorts of students."""
