"""Exponential Adams-Bashforth tables: tAB, rhoAB, log-rho AB, DDIM, and iPNDM.

One step of `dv/drho = eps` replaces eps by a polynomial through the last evaluations (DEIS, arXiv 2204.13902,
eq. 14-15). The members of the family differ only in the variable that the polynomial lives in. All take the
options of `deis.tables.multistep.Options`.
"""

from typing import Unpack

import numpy as np

from deis.errors import checked
from deis.sde import SDE
from deis.table import Table, eps_table
from deis.tables.multistep import Options, Weights, check_order, extended_nodes, lagrange, multistep, with_options
from deis.tables.pure_noise import from_noise

# extrapolation by a higher degree amplifies the network's error more than it removes the method's
MAX_ORDER = 6

# constant-step weights, newest evaluation first: over the step after it (Adams-Bashforth) and before (Adams-Moulton)
AB_WEIGHTS = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)
_AM_WEIGHTS = (
    np.array([1.0]),
    np.array([1.0, 1.0]) / 2,
    np.array([5.0, 8.0, -1.0]) / 12,
    np.array([9.0, 19.0, -5.0, 1.0]) / 24,
    np.array([251.0, 646.0, -264.0, 106.0, -19.0]) / 720,
)


@checked
def t_ab(sde: SDE, ts: np.ndarray, order: int = 3, **options: Unpack[Options]) -> Table:
    """tAB-DEIS: the polynomial lives in time t. `order` is its degree; 1 NFE a step, orders 0, 1, 2, ... at the start.

    ts: [N+1] decreasing nodes. The order of convergence is order + 1, with the corrector order + 2.
    Raises ValueError for an order outside 0 to 6 or bad nodes.
    """
    return _adams_bashforth(f"tAB{order}", sde, ts, order, lagrange(sde.t_of_rho), True, **options)


def rho_ab(sde: SDE, ts: np.ndarray, order: int = 3, **options: Unpack[Options]) -> Table:
    """rhoAB-DEIS: the polynomial lives in rho, which is variable-step Adams-Bashforth on dv/drho = eps.

    Arguments, orders and errors are those of `t_ab`.
    """
    return _adams_bashforth(f"rhoAB{order}", sde, ts, order, lagrange(lambda rho: rho), **options)


def log_rho_ab(sde: SDE, ts: np.ndarray, order: int = 3, **options: Unpack[Options]) -> Table:
    """log-rho AB-DEIS: the polynomial lives in log rho. Needs sigma > 0 at every evaluation.

    Arguments, orders and errors are those of `t_ab`.
    """
    return _adams_bashforth(f"logrhoAB{order}", sde, ts, order, lagrange(np.log), **options)


def ddim(sde: SDE, ts: np.ndarray, **options: Unpack[Options]) -> Table:
    """Deterministic DDIM (arXiv 2010.02502), v' = v + (rho' - rho) eps: order 0 of the Adams-Bashforth family."""
    return _adams_bashforth("DDIM", sde, ts, 0, lagrange(lambda rho: rho), **options)


@checked
def ipndm(
    sde: SDE, ts: np.ndarray, order: int = 4, *, variable_step: bool = False, **options: Unpack[Options]
) -> Table:
    """iPNDM: the DDIM step with eps extrapolated by constant Adams-Bashforth weights, whatever the grid.

    order: 1 to 4, the number of evaluations used; it rises 1, 2, 3, 4 over the first steps
        (DEIS, arXiv 2204.13902, appendix B; PNDM, arXiv 2202.09778). It is the order of convergence on grids
        uniform in rho; on others that is 2 at most.
    variable_step: the weights that keep the order on every grid (iPNDM_v), which are those of `rho_ab`, of the
        degree order - 1.
    """
    check_order(order, 1, len(AB_WEIGHTS), "ipndm order")
    name = ("iPNDMv" if variable_step else "iPNDM") + ("" if order == len(AB_WEIGHTS) else str(order))
    predict, correct = _constant(AB_WEIGHTS), _constant(_AM_WEIGHTS)
    if variable_step:
        predict = correct = lagrange(lambda rho: rho)
    return multistep(with_options(name, options), sde, ts, order - 1, predict, correct, finite_at_zero=True, **options)


@checked
def gradient_estimation(sde: SDE, ts: np.ndarray, gamma: float = 2.0, **options: Unpack[Options]) -> Table:
    """Gradient estimation (arXiv 2306.04848, algorithm 2): the DDIM step with gamma eps_n + (1 - gamma) eps_n-1.

    ts: [N+1] decreasing nodes. gamma: 2 is the authors' choice, 1.5 is `ipndm` of order 2. The first step is DDIM's.
    """
    predict = _constant((np.ones(1), np.array([gamma, 1 - gamma])))
    name = with_options(f"GE(gamma={gamma:g})", options)
    return multistep(name, sde, ts, 1, predict, _constant(_AM_WEIGHTS), **options)


@from_noise()
def pfdiff(sde: SDE, ts: np.ndarray) -> Table:
    """PFDiff-1 with DDIM (arXiv 2408.08822, algorithm 1): each step takes the eps at its middle; 1 NFE a step.

    ts: [N+1] decreasing nodes. The past eps leads to the middle, which is the average of the times; the first step is
    DDIM's, in the source half as long as the others. Order of convergence 2.
    """
    t, s, rho = extended_nodes(sde, ts)
    t_asked = np.append(t[:1], (t[1:-1] + t[2:]) / 2)
    rho_asked = np.append(sde.rho(t_asked), rho[-1])
    P, Q = (rho_asked[1:] - rho[:-1])[:, None], np.diff(rho)[:, None]
    return eps_table("PFDiff-1", np.append(t_asked, t[-1]), np.append(sde.s(t_asked), s[-1]), rho_asked, P, Q)


@checked
def _adams_bashforth(
    name: str,
    sde: SDE,
    ts: np.ndarray,
    order: int,
    weights: Weights,
    knows_T: bool = False,
    **options: Unpack[Options],
) -> Table:
    check_order(order, 0, MAX_ORDER)
    name = with_options(name, options)
    return multistep(name, sde, ts, order, weights, weights, finite_at_zero=True, knows_T=knows_T, **options)


def _constant(weights: tuple[np.ndarray, ...]) -> Weights:
    """The same share of the step for the evaluations, wherever they stand."""
    return lambda nodes, start, end: (end - start)[:, None] * weights[nodes.shape[1] - 1]
