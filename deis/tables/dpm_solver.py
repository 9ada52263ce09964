"""DPM-Solver (arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095), single-step and multistep.

Both expand in lambda = -log rho; h = log(rho / rho') is a step's length in it, and a step to sigma = 0, whose h is
infinite, is of order 1.
"""

from dataclasses import replace
from typing import Unpack

import numpy as np

from deis.errors import checked
from deis.sde import SDE
from deis.table import Table
from deis.tables.exponential import EXPONENTIAL, Rows, exponential, log_weights, midpoint
from deis.tables.multistep import Options, check_order, extended_nodes, lagrange, multistep, with_options
from deis.tables.pure_noise import from_noise
from deis.tables.single_step import join, single_step
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
    check_order(order, 1, 3, "dpm_solver order")
    stages = exponential(*(EXPONENTIAL[f"{order}s"] if order > 1 else ((), _NODES[1])), "eps")
    return single_step(f"DPM-Solver-{order}", sde, extended_nodes(sde, ts, denoise), stages)


@from_noise()
def dpm_solver_singlestep(
    sde: SDE,
    ts: np.ndarray,
    order: int = 3,
    *,
    prediction: str = "x_0",
    lower_order_final: bool = True,
    denoise: bool = False,
) -> Table:
    """DPM-Solver++ ("x_0") and DPM-Solver ("eps"), 2S and 3S, with evaluations at the nodes: N NFE for any N.

    Steps of order 3 span three intervals of the nodes, those of order 2 two; what is left at the end is of lower
    order. On nodes uniform in log rho they are the steps of DPM-Solver-fast (arXiv 2206.00927, section 3.4), but for
    shorter last ones. In diffusers it is DPMSolverSinglestepScheduler.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    order: 1 (DDIM), 2 or 3, which is the order of convergence.
    lower_order_final: end with a lower order even where N is a multiple of the order.
    denoise: one more step, of order 1, to sigma = 0.
    Raises ValueError for any other order, an unknown prediction, or bad nodes.
    """
    check_order(order, 1, 3, "dpm_solver_singlestep order")
    t, s, rho = extended_nodes(sde, ts, denoise)
    to_zero = int(rho[-1] == 0)
    whole, rest = divmod(len(t) - 1 - to_zero, order)
    spans = [order] * whole + [rest] * (rest > 0) + [1] * to_zero
    if lower_order_final and order > 1 and not rest and not to_zero:
        spans[-1:] = [order - 1, 1]
    parts: list[Table] = []
    for k in sorted(set(spans), reverse=True):  # the steps of one order follow each other
        first = sum(span for span in spans if span > k)
        used = slice(first, first + k * spans.count(k) + 1)
        ends = rho[used][::k]
        c = [np.log(ends[:-1] / rho[used][i::k][: len(ends) - 1]) / np.log(ends[:-1] / ends[1:]) for i in range(1, k)]
        nodes = t[used][::k], s[used][::k], ends
        part = single_step("", sde, nodes, exponential(c, _NODES[k], prediction), prediction)
        parts.append(replace(part, t=t[used], s=s[used], rho=rho[used]))
    name = "DPM++" if prediction == "x_0" else "DPM-Solver-"
    return join(f"{name}{order}S", parts)


_NODES: dict[int, Rows] = {
    1: lambda phi: [[]],
    2: lambda phi, c: [[], midpoint(phi, c)],
    3: lambda phi, c_2, c_3: [[], midpoint(phi, c_2, c_3), [0.0, phi(2) / c_3]],
}


@checked
def dpm_solver_pp(
    sde: SDE,
    ts: np.ndarray,
    order: int = 2,
    *,
    exact: bool = False,
    prediction: str = "x_0",
    **options: Unpack[Options],
) -> Table:
    """DPM-Solver++(2M) (algorithm 2) and (3M): a polynomial in log rho through predicted x_0; 1 NFE a step.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    order: 1 (DDIM), 2 or 3, reached in the first steps.
    exact: integrate the polynomial exactly. As published, and as other libraries do (in diffusers the solver type
        "midpoint"), 2M takes the slope's term to first order in h, and 3M half of the curvature's term, so that the
        order of convergence of both is 2; integrated exactly, it is `order`, and for x_0 they are RES 2M and 3M.
    prediction: what the polynomial goes through, predicted "x_0", or "eps" for the multistep DPM-Solver.
    options: those of `Options`; lower_order_final is on, as the authors advise below 15 steps, and bounds the order
        of convergence by 2.
    Raises ValueError for any other order or bad nodes.
    """
    check_order(order, 1, 3, "dpm_solver_pp order")
    options = Options(lower_order_final=True) | options
    polynomial = lagrange(np.log, prediction)
    predict = polynomial if exact else log_weights(prediction, "midpoint", curvature=0.5)
    name = with_options(f"DPM++{order}M" if prediction == "x_0" else f"DPM-Solver-{order}M", options)
    return multistep(name, sde, ts, order - 1, predict, polynomial, prediction, **options)
