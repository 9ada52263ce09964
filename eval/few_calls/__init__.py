"""Solvers for one trained network, chosen or learned by its own fine solutions."""
