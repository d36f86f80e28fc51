"""Metrics, intervals and the linear solver: arrays in, numbers out."""
