"""Solvers for one network: chosen among all untrained ones, or learned, from fine solutions of that network.

x_0 = deis.sample(fine_table, eps_fn, x_T)                          the targets
table = deis.choose(sde, eps_fn, x_T, x_0, nfe=5)[0].table           the best that needs no learning
table = deis.learn.fit(sde, eps_fn, table, x_T, x_0)                 better
"""

from deis.errors import needs

with needs("jax", "deis.learn"):
    import jax  # noqa: F401

from deis.learn.choosing import Choice, choose, on_nodes, untrained
from deis.learn.fitting import LOSSES, Progress, check, fit
from deis.learn.gits import StepErrors, gits, step_errors
from deis.learn.rows import PARTS

__all__ = ["LOSSES", "PARTS", "Choice", "Progress", "StepErrors", "check", "choose", "fit", "gits", "on_nodes"]
__all__ += ["step_errors", "untrained"]
