"""Rows that can be moved: the same solver where all parameters are 0, any other nearby.

Every deterministic table says u_i = alpha_i v_0 + sum_j W_ij e_j, so that a row which sees the whole history of eps can
stand for any method's. The parameters move

    grid          the gaps of log rho between its fixed ends: softmax(log gap + theta)
    time          what the network is told: t_of_rho(rho_i exp(xi_i)), within [t_0, T]
    coefficients  P_ij + |rho_i - rho_{i+1}| phi_ij and q_i + psi_i

and as the grid moves, P_ij keeps its share of the step. Network times of their own are LD3's (arXiv 2405.15506),
coefficients BNS's (2403.01329), and all of it as corrections to theory's coefficients is of 2510.17699.
"""

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from deis.sde import SDE
from deis.table import Table, eps_table

PARTS = ("grid", "time", "coefficients")

_STEP = 1e-6  # of central differences

Params = Float64[np.ndarray, " params"]


class Base(NamedTuple):
    """A table in the form that the parameters move: p = q, P = Q, and the whole history of eps.

    P: [nfe, nfe] weights of the history, newest first, in units of the row's step. q: [nfe] weight of the state.
    step_of: [nfe] the row whose step is the unit: its own, or the one before where that is 0, as in the last row of a
        Runge-Kutta step.
    log_gaps: logarithms of the steps in log rho, without a last one to sigma = 0.
    """

    table: Table
    sde: SDE
    P: Float64[np.ndarray, "nfe nfe"]
    q: Float64[np.ndarray, " nfe"]
    step_of: np.ndarray
    log_gaps: Float64[np.ndarray, " gaps"]


def base_of(table: Table, sde: SDE) -> Base:
    """The table in the form whose parameters move: p = q, P = Q, and the whole history of eps.

    Raises ValueError for a stochastic table, for nodes at which rho rises, for the nodes of another SDE, and
        if s(T) = 0.
    """
    if table.is_stochastic:
        raise ValueError(f"{table.name} adds noise; only deterministic tables can be learned from")
    sde.refuse_noise("a grid in log rho")
    steps = table.rho[:-1] - table.rho[1:]
    if np.any(steps < 0) or steps[0] == 0:
        raise ValueError(f"{table.name} steps back in time, which a learned table cannot; take another base")
    with np.errstate(all="ignore"):  # times beyond T
        rho = sde.rho(table.t[:-1])
    if not np.allclose(rho, table.rho[:-1], rtol=1e-5):
        raise ValueError(f"{table.name} was made for another SDE, or is learned already; take an untrained base")
    nfe, (alpha, W) = table.nfe, _unrolled(table)
    q, P = alpha[1:] / alpha[:-1], np.zeros((nfe, nfe))
    for i in range(nfe):
        P[i, : i + 1] = (W[i + 1] - q[i] * W[i])[i::-1]
    step_of = np.maximum.accumulate(np.where(steps > 0, np.arange(nfe), 0))
    log_rho = np.log(table.rho[table.rho > 0])
    with np.errstate(divide="ignore"):  # equal nodes stay equal
        log_gaps = np.log(log_rho[:-1] - log_rho[1:])
    return Base(table, sde, P / steps[step_of][:, None], q, step_of, log_gaps)


def _unrolled(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """(alpha [nfe+1], W [nfe+1, nfe]) of the evaluation points, and last of the result."""
    unit = np.eye(table.nfe + 1)
    u = v = unit[0]
    points, history = [u], np.zeros((table.lags, table.nfe + 1))
    for i in range(table.nfe):
        history = np.vstack([table.a[i] * u + table.b[i] * unit[i + 1], history[:-1]])
        u, v = table.p[i] * v + table.P[i] @ history, table.q[i] * v + table.Q[i] @ history
        points.append(u)
    return np.array(points)[:, 0], np.array(points)[:, 1:]


def parts(base: Base) -> list[str]:
    """[params] the part that every parameter belongs to: gaps, times, the lower triangle of phi by rows, psi."""
    nfe = base.table.nfe
    return ["grid"] * len(base.log_gaps) + ["time"] * nfe + ["coefficients"] * (nfe * (nfe + 1) // 2 + nfe)


def columns(base: Base, params: Params) -> dict[str, np.ndarray]:
    """The columns t, s, rho [nfe+1], q [nfe] and P [nfe, nfe] at the parameters."""
    nfe, num_gaps, sde, table = base.table.nfe, len(base.log_gaps), base.sde, base.table
    theta, xi, phi, psi = np.split(params, np.cumsum([num_gaps, nfe, nfe * (nfe + 1) // 2]))
    t, s, rho = table.t.copy(), table.s.copy(), table.rho.copy()
    if theta.any():
        gaps = base.log_gaps + theta
        share = np.exp(gaps - gaps.max())
        range_of_log = np.log(rho[0] / rho[num_gaps])
        rho[1 : num_gaps + 1] = rho[0] * np.exp(-range_of_log * np.cumsum(share) / share.sum())
        s[:nfe] = sde.s(_within(sde, rho[:nfe]))
    if theta.any() or xi.any():
        t[:nfe] = _within(sde, rho[:nfe] * np.exp(xi))
    triangle = np.zeros((nfe, nfe))
    triangle[np.tril_indices(nfe)] = phi
    step = (rho[:-1] - rho[1:])[base.step_of]
    return {"t": t, "s": s, "rho": rho, "q": base.q + psi, "P": step[:, None] * (base.P + triangle)}


def derivatives(base: Base, params: Params, free: Bool[np.ndarray, " params"]) -> dict[str, np.ndarray]:
    """The derivatives of every column with respect to the free parameters, which come first: [free, ...]."""
    found: list[dict[str, np.ndarray]] = []
    for i in np.flatnonzero(free):
        low, high = params.copy(), params.copy()
        low[i], high[i] = params[i] - _STEP, params[i] + _STEP
        below, above = columns(base, low), columns(base, high)
        found.append({name: (above[name] - below[name]) / (2 * _STEP) for name in above})
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def free_params(base: Base, learn: Collection[str]) -> Bool[np.ndarray, " params"]:
    """[params] which may move: those of the parts in `learn`, without gaps of 0."""
    free = np.array([part in learn for part in parts(base)])
    free[: len(base.log_gaps)] &= np.isfinite(base.log_gaps)
    return free


def table_of(base: Base, params: Params, name: str, about: dict[str, str]) -> Table:
    """The table at the parameters; the base's result and its last time are kept."""
    found = columns(base, params)
    table = eps_table(name, found["t"], found["s"], found["rho"], found["P"])
    return replace(table, p=found["q"], q=found["q"], about=about)


def _within(sde: SDE, rho: np.ndarray) -> np.ndarray:
    return np.clip(sde.t_of_rho(rho), sde.t_0, sde.T)
