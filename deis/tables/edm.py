"""The second-order samplers around EDM: Heun (arXiv 2206.00364, algorithms 1 and 2) and DPM-2.

Both are two-stage methods on dv/drho = eps, so that they serve every SDE; for EDM's, rho is sigma.
"""

from dataclasses import replace
from typing import TypedDict, Unpack

import numpy as np

from deis.sde import SDE
from deis.table import Table
from deis.tables.dpm_solver import stages_2
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
    return _two_stages("DPM-2", sde, ts, stages_2, denoise, **churn)


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
    if s_churn < 0 or s_noise < 0:
        raise ValueError(f"s_churn and s_noise must not be negative, got {s_churn:g} and {s_noise:g}")
    nodes = extended_nodes(sde, ts, denoise)
    rho = nodes[2]
    level = rho[:-1]
    gamma = np.where((level >= s_tmin) & (level <= s_tmax), min(s_churn / len(level), np.sqrt(2) - 1), 0.0)
    raised = np.minimum(level * (1 + gamma), rho[0])
    table = single_step(name, sde, nodes, stages, start=raised)
    g = np.zeros(table.nfe)
    # noise comes before an evaluation, so it belongs to the row before: the last of the 2 of the step before
    g[1 : 2 * len(level) - 1 : 2] = s_noise * np.sqrt(raised[1:] ** 2 - level[1:] ** 2)
    return replace(table, g=g)
