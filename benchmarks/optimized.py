"""Errors of what is recommended, and on nodes made for a solver, as docs/solvers.md has them: geometric means over the
twelve problems.

PYTHONPATH=tests python -m benchmarks.optimized      four minutes on two cores
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.problems import DATA, MODELS, problem
from benchmarks.work_precision import error
from deis import SDE, Table, grids, tables
from formats.tables import markdown_table

NFES = (4, 5, 6, 8, 10, 15, 20, 50)
MOST_CALLS = 20  # of nodes made for a solver, which take longer and gain less with more


def on_optimized(solver: Callable[..., Table], sde: SDE, nfe: int) -> Table:
    return solver(sde, grids.optimized(sde, nfe, solver))


ROWS: dict[str, Callable[[SDE, int], Table]] = {
    "recommended": tables.recommended,
    "iPNDM3, optimized": partial(on_optimized, partial(tables.ipndm, order=3)),
    "tAB4, optimized": partial(on_optimized, partial(tables.t_ab, order=4)),
}


def mean_error(table_of: Callable[[SDE, int], Table], nfe: int) -> float:
    """The geometric mean over the problems of the error of the table that each diffusion has for `nfe` calls."""
    errors = []
    for model in MODELS:
        sde = problem(model, next(iter(DATA))).continuous
        table = table_of(sde, nfe)
        errors += [error(problem(model, data), sde, table) for data in DATA]
    return float(np.exp(np.mean(np.log(errors))))


def cell(name: str, nfe: int) -> str:
    return "" if "optimized" in name and nfe > MOST_CALLS else f"{mean_error(ROWS[name], nfe):.2g}"


if __name__ == "__main__":
    rows = [[name, *(cell(name, nfe) for nfe in NFES)] for name in ROWS]
    print(markdown_table(["calls", *map(str, NFES)], rows, "l" + "r" * len(NFES)))
