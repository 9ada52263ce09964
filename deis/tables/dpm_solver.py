"""DPM-Solver, single-step (arXiv 2206.00927), and DPM-Solver++, multistep (arXiv 2211.01095).

Both expand in lambda = -log rho; h = log(rho / rho') is a step's length in it, and a step to sigma = 0, whose h is
infinite, is of order 1.
"""

from typing import Unpack

import numpy as np

from deis.sde import SDE
from deis.table import Table
from deis.tables.multistep import Options, extended_nodes, lagrange, multistep, total_weight, with_options
from deis.tables.pure_noise import from_noise
from deis.tables.single_step import single_step
from deis.tables.tableaus import MIDPOINT, TABLEAUS

_IN_KAPPA = {1: TABLEAUS["1euler"], 2: MIDPOINT, 3: TABLEAUS["3heun"]}  # with evaluations at the same fractions


@from_noise(lambda order, **options: {"rk": _IN_KAPPA.get(order, MIDPOINT)})
def dpm_solver(sde: SDE, ts: np.ndarray, order: int = 2, *, denoise: bool = False) -> Table:
    """DPM-Solver-2 (algorithm 1, r_1 = 1/2) and DPM-Solver-3 (algorithm 2, r_1 = 1/3, r_2 = 2/3).

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    order: 1 (DDIM), 2 or 3: the NFE of a step, and the order of convergence.
    denoise: one more step, of 1 NFE, to sigma = 0.
    Raises ValueError for any other order or bad nodes.
    """
    if order not in _STAGES:
        raise ValueError(f"dpm_solver order must be 1, 2 or 3, got {order}")
    return single_step(f"DPM-Solver-{order}", sde, extended_nodes(sde, ts, denoise), _STAGES[order])


def _stages_1(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return start[:, None], (end - start)[:, None, None]


def stages_2(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Evaluations at the start and at the middle in log rho; with r_1 = 1/2 the second alone makes the step."""
    middle = np.sqrt(start * end)
    zero = np.zeros_like(start)
    weights = np.stack([middle - start, zero, zero, end - start], axis=1).reshape(-1, 2, 2)
    return np.stack([start, middle], axis=1), weights


def _stages_3(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    h = np.log(start / end)
    rho_1, rho_2 = start * np.exp(-h / 3), start * np.exp(-2 * h / 3)
    D_1 = -2 * rho_2 * (np.expm1(2 * h / 3) / (2 * h / 3) - 1)  # weight of eps_1 - eps_0 in u_2
    D_2 = -1.5 * end * (np.expm1(h) / h - 1)  # weight of eps_2 - eps_0 in the step
    weights = np.zeros((len(start), 3, 3), start.dtype)
    weights[:, 0, 0] = rho_1 - start
    weights[:, 1, 0], weights[:, 1, 1] = rho_2 - start - D_1, D_1
    weights[:, 2, 0], weights[:, 2, 2] = end - start - D_2, D_2
    return np.stack([start, rho_1, rho_2], axis=1), weights


_STAGES = {1: _stages_1, 2: stages_2, 3: _stages_3}


def dpm_solver_pp(
    sde: SDE, ts: np.ndarray, order: int = 2, *, exact: bool = False, **options: Unpack[Options]
) -> Table:
    """DPM-Solver++(2M) (algorithm 2) and (3M): a polynomial in log rho through predicted x_0; 1 NFE a step.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    order: 1 (DDIM), 2 or 3, reached in the first steps.
    exact: integrate the polynomial exactly. As published, and as other libraries do (in diffusers the solver type
        "midpoint"), 2M takes the slope's term to first order in h, and 3M half of the curvature's term, so that the
        order of convergence of both is 2; integrated exactly, it is `order`.
    options: those of `Options`; lower_order_final is on, as the authors advise below 15 steps, and bounds the order
        of convergence by 2.
    Raises ValueError for any other order or bad nodes.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"dpm_solver_pp order must be 1, 2 or 3, got {order}")
    options = Options(lower_order_final=True) | options
    polynomial = lagrange(np.log, "x_0")
    name = with_options(f"DPM++{order}M", options)
    return multistep(name, sde, ts, order - 1, polynomial if exact else _published, polynomial, "x_0", **options)


def _published(nodes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Weights of x_0 in total D_0 + c_1 D_1 + c_2 D_2, with the published c_1, c_2 and differences D."""
    total = total_weight(start, end, "x_0")
    if nodes.shape[1] == 1:
        return total[:, None]
    h = np.log(start / end)
    r_0 = np.log(nodes[:, 1] / nodes[:, 0]) / h
    if nodes.shape[1] == 2:
        weight = total / (2 * r_0)
        return np.stack([total + weight, -weight], axis=1)
    r_1 = np.log(nodes[:, 2] / nodes[:, 1]) / h
    c_1 = 1 - total / h
    c_2 = (0.5 - c_1 / h + r_0 * c_1) / (r_0 + r_1)  # of D_1^0 - D_1^1, which D_1 and D_2 both hold
    first, second = (c_1 + c_2) / r_0, -c_2 / r_1  # of x_0n - x_0n-1 and x_0n-1 - x_0n-2
    return np.stack([total + first, second - first, -second], axis=1)
