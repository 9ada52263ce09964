"""What is left of a table where a run begins in its middle."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from deis.table import Table, eps_table
from deis.tables.pure_noise import _joined as joined


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
    rho = table.rho[nodes]
    head = eps_table(table.name, table.t[nodes], table.s[nodes], rho, np.diff(rho)[:, None])
    return head if rest is None else joined(table.name, [head, rest])
