"""Tables for given nodes, and what is left of a table where a run begins in its middle."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from deis.sde import SDE
from deis.table import Table
from deis.tables import METHODS, PAPER_NAMES

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


def begun_at(row: int, table: Table, restart: Callable[[float], Table | None]) -> Table:
    """What is left of a table for a run that begins at x_t of row `row`, with the times that are left.

    restart: from a node's time to the same method's table on the nodes from there, or None.
    No evaluation before `row` is there. So the method starts anew where its own table has the times that are left. Else
    the rows stay as they are, and the weights of the missing evaluations go to the oldest one that is there. A step of
    which only later stages are left is finished by DDIM.
    """
    if row == 0:
        return table
    for first in range(row, table.nfe):
        again = restart(table.t.item(first))
        if again is not None and np.array_equal(again.t[:-1], table.t[first:-1]):
            return _joined(table, row, first, again)
        before = first - 1
        if table.p[before] == table.q[before] and np.array_equal(table.P[before], table.Q[before]):
            return _joined(table, row, first, _without_past(table, first))
    return _joined(table, row, table.nfe, None)


def _takes_denoise(build: Callable[..., Table]) -> bool:
    parameters = inspect.signature(build).parameters
    gathered = [p.annotation for p in parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
    return "denoise" in parameters or any("denoise" in get_args(kind)[0].__annotations__ for kind in gathered)


def _denoised(table: Table) -> Table:
    """The table with one more row, which evaluates at the result and steps to sigma = 0: x is the predicted x_0."""
    step = {"a": 0.0, "b": 1.0, "p": 1.0, "q": 1.0, "g": 0.0}
    columns = {name: np.append(getattr(table, name), value) for name, value in step.items()}
    last = np.zeros((1, table.lags))
    last[0, 0] = -table.rho[-1]
    columns |= {"P": np.concatenate([table.P, last]), "Q": np.concatenate([table.Q, last])}
    ends = {"t": table.t[-1], "s": 1.0, "rho": 0.0}
    return replace(table, **columns, **{name: np.append(getattr(table, name), end) for name, end in ends.items()})


def _without_past(table: Table, first: int) -> Table:
    """The rows from `first` on, weights of evaluations before it given to the oldest one after it."""
    left = {name: getattr(table, name)[first:] for name in table.shapes()}
    for name in ("P", "Q"):
        left[name] = left[name].copy()
        for i, weights in enumerate(left[name]):
            weights[min(i, table.lags - 1)] += weights[i + 1 :].sum()
            weights[i + 1 :] = 0
    return replace(table, **left)


def _joined(table: Table, row: int, first: int, rest: Table | None) -> Table:
    """DDIM through the nodes of rows `row` to `first`, and then the table `rest`."""
    if row == first and rest is not None:
        return rest
    nodes = slice(row, first + 1)
    t, s, rho = table.t[nodes], table.s[nodes], table.rho[nodes]
    one, zero = np.ones(first - row), np.zeros(first - row)
    P = np.diff(rho)[:, None]
    head = Table(table.name, t, s, rho, a=zero, b=one, p=one, q=one, P=P, Q=P, g=zero)
    if rest is None:
        return head
    columns = {
        name: np.concatenate([getattr(head, name)[: len(one)], getattr(rest, name)])
        for name in ("t", "s", "rho", "a", "b", "p", "q", "g")
    }
    lags = max(head.lags, rest.lags)
    for name in ("P", "Q"):
        columns[name] = np.concatenate(
            [np.pad(rows, [(0, 0), (0, lags - rows.shape[1])]) for rows in (getattr(head, name), getattr(rest, name))]
        )
    return Table(table.name, **columns)
