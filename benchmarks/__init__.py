"""Measurements of speed and accuracy, each a command of its own."""
