"""Discretisation error, on networks and on problems whose solution is known."""
