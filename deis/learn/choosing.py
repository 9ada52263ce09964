"""The best untrained table for a network at a number of calls: all are tried, the worse ones on few trajectories."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from deis import tables
from deis.errors import checked
from deis.grids import optimized
from deis.learn.batches import Condition, batches
from deis.sampler import State, sample
from deis.schedule import INTEGER_PHASES, Nodes, timesteps
from deis.sde import SDE
from deis.table import Table

OPTIMIZED = [("ipndm", {"order": 3}), ("ipndm", {"order": 4}), ("t_ab", {"order": 3}), ("t_ab", {"order": 4})]
"""The solvers that are tried on nodes that are made for them, up to FEW calls: that takes a second or two for each."""

FEW = 20

GRIDS: tuple[tuple[str, float], ...] = (("t", 1.0), ("t", 2.0), ("t", 3.0), ("rho", 7.0), ("log", 1.0))
"""Phase and order of the grids that are tried, as `deis.timesteps` takes them."""

_SWITCHES: list[dict[str, Any]] = [
    {name: True for name, on in zip(("corrector", "lower_order_final"), both, strict=True) if on}
    for both in product((False, True), repeat=2)
]

SOLVERS: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {}),
    *(("t_ab", {"order": order} | extra) for order in (1, 2, 3) for extra in _SWITCHES),
    *(("rho_ab", {"order": order} | extra) for order in (1, 2, 3) for extra in _SWITCHES[:2]),
    *(("log_rho_ab", {"order": order} | extra) for order in (1, 2, 3, 4) for extra in _SWITCHES),
    *(("ipndm", {"order": order} | extra) for order in (2, 3, 4) for extra in _SWITCHES[:2]),
    ("dpm_solver_pp", {"order": 2}),
    *(("dpm_solver_pp", {"order": order, "exact": True}) for order in (2, 3)),
    *(("unipc", {"order": order, "prediction": kept}) for order in (2, 3) for kept in ("x_0", "eps")),
    *(("rho_rk", {"rk_method": name}) for name in ("2heun", "3kutta", "4rk")),
    *(("dpm_solver", {"order": order}) for order in (2, 3)),
    *(("dpm_solver_singlestep", {"order": order}) for order in (2, 3)),
    *((method, {}) for method in ("s_pndm", "plms", "gradient_estimation", "pfdiff")),
]
"""The solvers that are tried, as names in `deis.tables.METHODS` with their options.

`ipndm` has no corrector here, as its error is larger with it.
"""


class Choice(NamedTuple):
    """A table, the root mean square distance of its samples to the targets, and over how many trajectories it was."""

    error: float
    table: Table
    trajectories: int


@checked
def choose(
    sde: SDE,
    eps_fn: Callable[..., State],
    x_T: State,
    x_0: State,
    nfe: int,
    candidates: Iterable[Table] | None = None,
    batch_size: int = 8,
    condition: Condition | None = None,
) -> list[Choice]:
    """The tables of `nfe` network calls, best first: `choose(...)[0].table` is the one to take.

    All are run on the first batch of trajectories, then the best fifth of them, but eight at least, on four times as
    many, and so on. One compilation for all, and for all `nfe`.

    eps_fn: as in `deis.sample`. x_T, x_0: [batch, ...] noise, and the samples that the network gives from it by a
        solver of many steps. batch_size: trajectories that are computed together.
    candidates: the tables to choose from; None for `untrained(sde, nfe)`.
    condition: arrays [batch, ...], as labels; each batch's is a third argument of eps_fn.
    Raises ValueError for fewer trajectories than `batch_size`, or where nothing is to be chosen from that stays finite.
    """
    all_batches = batches(eps_fn, x_T, x_0, condition, batch_size)
    left = list(untrained(sde, nfe) if candidates is None else candidates)
    if not left:
        raise ValueError(f"no table makes {nfe} network calls; use an nfe from 1 to the number of the SDE's times")
    squares: dict[Table, float] = dict.fromkeys(left, 0.0)
    worse: list[Choice] = []
    done, todo = 0, 1
    while True:
        for batch, table in product(all_batches[done:todo], left):
            squares[table] += float(_mean_square(sample(table, batch.network, batch.x_T), batch.x_0))
        ranked = sorted((Choice(_root(squares[one] / todo), one, todo * batch_size) for one in left), key=_error)
        if math.isinf(ranked[0].error):
            raise ValueError("every table ended in NaN or infinite values, or the targets x_0 hold such")
        if todo == len(all_batches):
            return [*ranked, *sorted(worse, key=_error)]
        kept = max(len(ranked) // 5, 8)
        left, worse = [choice.table for choice in ranked[:kept]], worse + ranked[kept:]
        done, todo = todo, min(4 * todo, len(all_batches))


@checked
def untrained(sde: SDE, nfe: int) -> Iterator[Table]:
    """Every table of `nfe` calls: SOLVERS on every grid that the SDE has, and OPTIMIZED on nodes of their own.

    Its `about` says how it is made.
    """
    grids = [(phase, 1.0) for phase in INTEGER_PHASES] if sde.is_discrete else GRIDS
    for grid, solver in product(grids, SOLVERS):
        about = dict(zip(("ts_phase", "ts_order"), grid, strict=True))
        yield from _made(sde, nfe, solver, partial(timesteps, sde, phase=grid[0], order=grid[1]), about)
    for method, options in OPTIMIZED if nfe <= FEW else []:
        with suppress(ValueError):  # sigma = 0 at the end, too few whole times
            own = partial(tables.METHODS[method], **options)
            yield _saying(own(sde, optimized(sde, nfe, own)), method, options, {"ts_phase": "optimized"})


@checked
def on_nodes(sde: SDE, nfe: int, nodes: Callable[[int], Nodes]) -> Iterator[Table]:
    """The tables of `nfe` calls on the nodes that a function of the number of steps gives, as `gits`.

    They are those of SOLVERS that have neither a corrector nor a lower order at the end.
    """
    for solver in (one for one in SOLVERS if not _SWITCHES[-1].keys() & one[1].keys()):
        yield from _made(sde, nfe, solver, nodes, {})


def _made(
    sde: SDE, nfe: int, solver: tuple[str, dict[str, Any]], nodes: Callable[[int], Nodes], about: dict[str, Any]
) -> Iterator[Table]:
    """The solver's table of `nfe` calls, if it has one. about: how the nodes are made; {} for the nodes themselves."""
    method, options = solver

    def table(num_step: int) -> Table:
        return tables.METHODS[method](sde, nodes(num_step), **options)

    try:
        num_step = tables.fewest_steps(table, nfe)
        found = table(num_step)
    except ValueError:  # too few whole times, sigma = 0 under a logarithm
        return
    if found.nfe == nfe:
        about = about or {"ts": "[" + ",".join(f"{t:.6g}" for t in nodes(num_step)) + "]"}
        yield _saying(found, method, options, about)


def _saying(table: Table, method: str, options: dict[str, Any], nodes: dict[str, Any]) -> Table:
    """The table, whose `about` are the options of the command line that make it."""
    return replace(table, about={key: str(value) for key, value in ({"method": method} | options | nodes).items()})


def _error(choice: Choice) -> float:
    return choice.error


def _root(square: float) -> float:
    return math.sqrt(square) if math.isfinite(square) else math.inf


@jax.jit
def _mean_square(x: State, target: State) -> jax.Array:
    apart = [jnp.ravel((a - b).astype(jnp.float32)) for a, b in zip(*map(jax.tree.leaves, (x, target)), strict=True)]
    return jnp.mean(jnp.concatenate(apart) ** 2)
