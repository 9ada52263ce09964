"""Methods by their names and options, for grids that may end with a step to sigma = 0."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np

from deis.sde import SDE
from deis.table import Table, eps_table
from deis.tables import METHODS, PAPER_NAMES
from deis.tables.pure_noise import _joined as joined

Solver = Callable[[SDE, np.ndarray, bool], Table]
"""(sde, nodes, whether one more network call, at the last of them, leads to sigma = 0) -> table."""


def solver(method: str, options: Mapping[str, Any]) -> Solver:
    """The named method of `deis.tables.METHODS`, or of the paper's names, with its own options.

    Raises ValueError for an unknown name; the solver does so for options that the method does not have.
    """
    name, named = PAPER_NAMES.get(method.lower(), (method, {}))
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join((*METHODS, *PAPER_NAMES))}, got {method!r}")
    options = {"order" if key == "ab_order" else key: value for key, value in named.items()} | dict(options)
    build = METHODS[name]
    denoises = _takes_denoise(build)

    def table_of(sde: SDE, ts: np.ndarray, denoise: bool) -> Table:
        try:
            table = build(sde, ts, **options, **({"denoise": denoise} if denoises else {}))
        except TypeError as error:
            raise ValueError(f"options of method={method!r}: {error}") from error
        return _denoised(table) if denoise and not denoises else table

    return table_of


def _takes_denoise(build: Callable[..., Table]) -> bool:
    parameters = inspect.signature(build).parameters
    gathered = [p.annotation for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    return "denoise" in parameters or any("denoise" in get_args(kind)[0].__annotations__ for kind in gathered)


def _denoised(table: Table) -> Table:
    """The table with one more row, which evaluates at the result and steps to sigma = 0: x is the predicted x_0."""
    ends = np.repeat(table.t[-1:], 2), np.append(table.s[-1:], 1.0), np.append(table.rho[-1:], 0.0)
    return joined(table.name, [table, eps_table(table.name, *ends, -table.rho[-1:, None])])
