"""The second-order samplers around EDM: Heun (arXiv 2206.00364, algorithms 1 and 2) and DPM-2.

Both are two-stage methods on dv/drho = eps, so that they serve every SDE; for EDM's, rho is sigma.
"""

from typing import TypedDict, Unpack

import numpy as np

from deis.errors import require
from deis.sde import SDE
from deis.table import Table
from deis.tables.exponential import EXPONENTIAL, exponential
from deis.tables.multistep import extended_nodes
from deis.tables.pure_noise import from_noise
from deis.tables.single_step import Stages, single_step
from deis.tables.tableaus import MIDPOINT, TABLEAUS


class Churn(TypedDict, total=False):
    """Noise added before a step, which then starts at a higher level (arXiv 2206.00364, algorithm 2).

    s_churn: a step of N starts at rho (1 + gamma), gamma = min(s_churn / N, sqrt(2) - 1); 0 unless given.
    s_tmin, s_tmax: the rho between which steps do so; all unless given.
    s_noise: the standard deviation of the noise is this many times what the level asks for; 1 unless given.

    No step starts above the first node. So the first has no noise added: x_T is noise already, at that level. From
    s(T) = 0 on, where the first level is infinite, it is the first node at which rho < 1.
    """

    s_churn: float
    s_tmin: float
    s_tmax: float
    s_noise: float


@from_noise(lambda **options: {"rk": TABLEAUS["2heun"]})
def edm_heun(sde: SDE, ts: np.ndarray, *, denoise: bool = True, **churn: Unpack[Churn]) -> Table:
    """EDM's sampler: Heun's method, 2 NFE a step, and an Euler step to sigma = 0, 1 NFE. Order of convergence 2.

    ts: [N+1] decreasing nodes. EDM's own are `timesteps(sde, N, "edm")` of `deis.edm()`: N + 1 steps, 2N + 1 NFE.
    denoise: end at sigma = 0, as algorithm 1 does, and not at the last node.
    churn: the noise of algorithm 2, as in `Churn`.
    Raises ValueError for bad nodes or negative churn.
    """
    return _two_stages("Heun", sde, ts, _heun, denoise, **churn)


@from_noise(lambda **options: {"rk": MIDPOINT})
def dpm_2(sde: SDE, ts: np.ndarray, *, denoise: bool = True, **churn: Unpack[Churn]) -> Table:
    """DPM-2 (k-diffusion's name): the midpoint method, with the middle in log rho, which makes it DPM-Solver-2.

    NFE, order, arguments and errors are those of `edm_heun`.
    """
    return _two_stages("DPM-2", sde, ts, exponential(*EXPONENTIAL["2s"], "eps"), denoise, **churn)


@from_noise(lambda **options: {"rk": TABLEAUS["2heun"]})
def restart(
    sde: SDE,
    ts: np.ndarray,
    *,
    s_tmin: float = 0.06,
    s_tmax: float = 0.3,
    num_step: int = 2,
    repeats: int = 2,
    s_noise: float = 1.0,
    denoise: bool = True,
) -> Table:
    """Restart (arXiv 2306.14878, algorithm 1): EDM's Heun, which goes back up by noise and down again, repeatedly.

    ts, denoise: as of `edm_heun`; 2 * num_step * repeats NFE more than it.
    s_tmin, s_tmax: the interval in rho; it begins at the node nearest to s_tmin. num_step: steps down it, on EDM's
        grid. repeats: how often. s_noise: how much the noise is inflated. Order of convergence 2.
    Raises ValueError for an interval that does not lie within the nodes, fewer than 1 step or repeat, or bad nodes.
    """
    t, s, rho = extended_nodes(sde, ts, denoise)
    i = int(np.argmin(np.abs(rho[rho > 0] - s_tmin)))
    require(min(num_step, repeats) >= 1, f"num_step and repeats must be at least 1, got {num_step} and {repeats}")
    if not rho[i] < s_tmax <= rho[0]:
        raise ValueError(f"s_tmax must lie between the rho of two nodes, {rho[i]:g} and {rho[0]:g}, got {s_tmax:g}")
    down = np.linspace(s_tmax ** (1 / 7), float(rho[i]) ** (1 / 7), num_step + 1)[1:-1] ** 7
    inner = sde.t_of_rho(down), sde.s(sde.t_of_rho(down)), down
    nodes = tuple(
        np.concatenate([outer[: i + 1], np.tile(np.append(new, outer[i]), repeats), outer[i + 1 :]])
        for outer, new in zip((t, s, rho), inner, strict=True)
    )
    start = nodes[2][:-1].copy()
    start[i : i + num_step * repeats : num_step] = s_tmax
    return single_step("Restart", sde, nodes, _heun, start=start, s_noise=s_noise)


def _heun(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = end - start
    weights = np.stack([step, np.zeros_like(step), step / 2, step / 2], axis=1).reshape(-1, 2, 2)
    return np.stack([start, end], axis=1), weights


def _two_stages(
    name: str,
    sde: SDE,
    ts: np.ndarray,
    stages: Stages,
    denoise: bool,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = np.inf,
    s_noise: float = 1.0,
) -> Table:
    require(s_churn >= 0, f"s_churn must be 0 or more, got {s_churn:g}")
    require(s_tmin <= s_tmax, f"s_tmin must be at most s_tmax, got {s_tmin:g} and {s_tmax:g}")
    nodes = extended_nodes(sde, ts, denoise)
    rho = nodes[2]
    level = rho[:-1]
    gamma = np.where((level >= s_tmin) & (level <= s_tmax), min(s_churn / len(level), np.sqrt(2) - 1), 0.0)
    raised = np.minimum(level * (1 + gamma), rho[0])
    return single_step(name, sde, nodes, stages, start=raised, s_noise=s_noise)
