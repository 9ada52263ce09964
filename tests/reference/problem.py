"""The mixture under every SDE: where errors are measured and orders of convergence are read off."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

import deis
from deis import SDE, Table

from .mixture import MIXTURE

EpsFn = Callable[[np.ndarray, float], np.ndarray]

# as they are used
SDES = {
    "vp_linear": deis.vp_linear(),
    "vp_cosine": deis.vp_cosine(),
    "sub_vp": deis.sub_vp(),
    "ve": deis.ve(),
    "edm": deis.edm(),
    "discrete": deis.DiscreteVPSDE(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))),
}

# where eps varies enough for every step to show its order
SHORT = {
    "vp_linear": deis.vp_linear(t_0=0.05, T=0.45),
    "sub_vp": deis.sub_vp(t_0=0.15, T=0.5),
    "ve": deis.ve(t_0=0.3, T=0.7),
    "edm": deis.edm(t_0=0.1, T=2.0),
}


def linear_alpha_fns(xp: Any) -> tuple[Callable, Callable]:
    """alpha_bar(t) of the linear schedule and its inverse, as a user would write them with the library xp."""

    def t2alpha(t):
        return xp.exp(-0.1 * t - 0.5 * (20.0 - 0.1) * t**2)

    def alpha2t(alpha_bar):
        return ((0.1**2 - 2 * (20.0 - 0.1) * xp.log(alpha_bar)) ** 0.5 - 0.1) / (20.0 - 0.1)

    return t2alpha, alpha2t


def start(sde: SDE, batch: int = 8) -> np.ndarray:
    """x_T: [batch, 2] noised data."""
    rng = np.random.default_rng(0)
    return sde.s(sde.T) * MIXTURE.sample(rng, batch) + sde.sigma(sde.T) * rng.normal(size=(batch, 2))


@cache
def flow(sde_name: str, ts: tuple[float, ...]) -> np.ndarray:
    """Exact states at T and the times ts of the trajectories through `start` under SHORT[sde_name]."""
    sde = SHORT[sde_name]
    return MIXTURE.flow(sde, start(sde), np.array([sde.T, *ts]))


def run(table: Table, eps_fn: EpsFn, x: np.ndarray, draws: Sequence[np.ndarray] | np.ndarray = ()) -> np.ndarray:
    """The equations of `deis.table` in float64; draws: standard normal noise of each row."""
    v = x / table.s[0]
    return _run(table, eps_fn, 0, v, v, [], draws)


def error(sde_name: str, table: Table) -> float:
    """RMS error of a table's result under SHORT[sde_name]."""
    sde = SHORT[sde_name]
    return _rms(run(table, MIXTURE.eps_fn(sde), start(sde)) - flow(sde_name, (sde.t_0,))[-1])


def error_from_exact_history(sde_name: str, table: Table, first: int, corrected: bool) -> float:
    """`error_after` under SHORT[sde_name]."""
    sde = SHORT[sde_name]
    return error_after(sde, table, first, corrected, flow(sde_name, (*table.t[1 : first + 1], sde.t_0)))


def error_after(sde: SDE, table: Table, first: int, corrected: bool, states: np.ndarray) -> float:
    """RMS error of a multistep table from row `first` on, all before it exact: what its warm start does not disturb.

    corrected: the accepted state of a row is that of the node before. states: the exact ones at the first `first` + 1
        nodes, and at the end.
    """
    eps_fn = MIXTURE.eps_fn(sde)
    us = [state / s for state, s in zip(states[:-1], table.s, strict=False)]
    history = [table.a[i] * us[i] + table.b[i] * eps_fn(states[i], table.t[i]) for i in range(first)][::-1]
    got = _run(table, eps_fn, first, us[-1], table.q[first - 1] * us[-2] if corrected else us[-1], history, ())
    return _rms(got - states[-1])


def _run(
    table: Table,
    eps_fn: EpsFn,
    first: int,
    u: np.ndarray,
    v: np.ndarray,
    history: list[np.ndarray],
    draws: Sequence[np.ndarray] | np.ndarray,
) -> np.ndarray:
    for i in range(first, table.nfe):
        history = [table.a[i] * u + table.b[i] * eps_fn(table.s[i] * u, table.t[i]), *history]
        noise = table.g[i] * draws[i] if table.g[i] else 0.0
        assert not np.any(table.P[i, len(history) :]), f"row {i} weighs an evaluation that was not made"
        assert not np.any(table.Q[i, len(history) :]), f"row {i} weighs an evaluation that was not made"
        u = table.p[i] * v + sum(w * m for w, m in zip(table.P[i], history, strict=False)) + noise
        v = table.q[i] * v + sum(w * m for w, m in zip(table.Q[i], history, strict=False)) + noise
    return table.s[-1] * u


def slopes(num_steps: Sequence[int], errors: Sequence[float]) -> np.ndarray:
    """Local orders of convergence between successive numbers of steps."""
    return -np.diff(np.log(errors)) / np.diff(np.log(num_steps))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))
