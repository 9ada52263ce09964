"""Timestep schedules: the nodes between T and t_0 at which a solver's steps begin and end."""

import numpy as np
from jaxtyping import Float64

from deis.sde import SDE

PHASES = ("t", "rho", "log")


def timesteps(sde: SDE, num_step: int, phase: str = "t", order: float = 2.0) -> Float64[np.ndarray, " num_step+1"]:
    """Decreasing nodes T = t[0] > ... > t[num_step] = t_0, in the SDE's units of time.

    phase: "t", linear in t^(1/order) (order 1 is linear, 2 quadratic; DEIS, arXiv 2204.13902, appendix H);
        "rho", linear in rho^(1/order) (order 7 is EDM's, arXiv 2206.00364, eq. 5); "log", linear in log rho.
    order: the power above; "log" has none and ignores it.
    Raises ValueError for num_step < 1, an unknown phase, order <= 0, or "log" from rho = 0.
    """
    if num_step < 1:
        raise ValueError(f"num_step must be at least 1, got {num_step}")
    if order <= 0:
        raise ValueError(f"ts_order must be positive, got {order:g}")
    weight = np.linspace(0.0, 1.0, num_step + 1)
    if phase == "t":
        ts = _power_space(sde.T, sde.t_0, weight, order)
    elif phase in ("rho", "log"):
        rho_T, rho_0 = sde.rho(np.array([sde.T, sde.t_0]))
        if phase == "rho":
            rho = _power_space(rho_T, rho_0, weight, order)
        elif rho_0 > 0:
            rho = np.exp((1 - weight) * np.log(rho_T) + weight * np.log(rho_0))
        else:
            raise ValueError(f'phase "log" needs sigma(t_0) > 0, but it is 0 at t_0={sde.t_0:g}; raise t_0')
        ts = np.asarray(sde.t_of_rho(rho), np.float64)
    else:
        raise ValueError(f"ts_phase must be one of {', '.join(PHASES)}, got {phase!r}")
    ts[0], ts[-1] = sde.T, sde.t_0
    return check_nodes(ts)


def check_nodes(ts: np.ndarray) -> Float64[np.ndarray, " nodes"]:
    """`ts` as float64 if it is a finite, strictly decreasing vector of at least 2 nodes, else ValueError."""
    ts = np.asarray(ts, np.float64)
    if ts.ndim != 1 or len(ts) < 2:
        raise ValueError(
            f"the timesteps must be a vector of at least 2 nodes, from T down to t_0, got shape {ts.shape}"
        )
    if not np.all(np.isfinite(ts)):
        raise ValueError(f"the timesteps must be finite, got {ts[~np.isfinite(ts)][0]} among them")
    if not np.all(np.diff(ts) < 0):
        i = int(np.argmax(np.diff(ts) >= 0))
        raise ValueError(f"the timesteps must decrease strictly, but {ts[i]:g} is followed by {ts[i + 1]:g}")
    return ts


def _power_space(start: float, stop: float, weight: np.ndarray, order: float) -> np.ndarray:
    return (start ** (1 / order) * (1 - weight) + stop ** (1 / order) * weight) ** order
