"""Errors on nodes made for the solver, as docs/solvers.md has them: geometric means over the twelve problems.

PYTHONPATH=tests python -m benchmarks.optimized      a minute on two cores
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.problems import DATA, MODELS, problem
from benchmarks.work_precision import error
from deis import Table, grids, tables
from formats.tables import markdown_table

NFES = (4, 5, 6, 8, 10, 15, 20)
SOLVERS: dict[str, Callable[..., Table]] = {
    "iPNDM3": partial(tables.ipndm, order=3),
    "tAB4": partial(tables.t_ab, order=4),
}


def mean_error(solver: Callable[..., Table], nfe: int) -> float:
    """The geometric mean over the problems of the error of `solver`, on its own nodes for each diffusion."""
    errors = []
    for model in MODELS:
        sde = problem(model, next(iter(DATA))).continuous
        table = solver(sde, grids.optimized(sde, nfe, solver))
        errors += [error(problem(model, data), sde, table) for data in DATA]
    return float(np.exp(np.mean(np.log(errors))))


if __name__ == "__main__":
    rows = [[name, *(f"{mean_error(solver, nfe):.4f}" for nfe in NFES)] for name, solver in SOLVERS.items()]
    print(markdown_table(["calls", *map(str, NFES)], rows, "l" + "r" * len(NFES)))
