"""Metrics of samples, and of a network as a density."""
