"""Fitting a score network: the objective, the optimiser's step, and how both are laid over devices."""
