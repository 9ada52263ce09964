"""Exponential Adams-Bashforth tables: tAB, rhoAB, log-rho AB, DDIM, and iPNDM.

One step of `dv/drho = eps` replaces eps by a polynomial through the last evaluations (DEIS, arXiv 2204.13902,
eq. 14-15). The members of the family differ only in the variable that the polynomial lives in.
"""

from collections.abc import Callable

import numpy as np

from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table, eps_table

# Gauss-Legendre on [0, 1]; the integrands are smooth in log rho, and 64 nodes leave rounding errors only
_LEGENDRE_X, _LEGENDRE_W = np.polynomial.legendre.leggauss(64)
_GAUSS_X, _GAUSS_W = 0.5 + 0.5 * _LEGENDRE_X, 0.5 * _LEGENDRE_W

# extrapolation by a higher degree amplifies the network's error more than it removes the method's
MAX_ORDER = 6

# constant-step Adams-Bashforth weights, newest evaluation first
_AB_WEIGHTS = (
    np.array([1.0]),
    np.array([3.0, -1.0]) / 2,
    np.array([23.0, -16.0, 5.0]) / 12,
    np.array([55.0, -59.0, 37.0, -9.0]) / 24,
)


def t_ab(sde: SDE, ts: np.ndarray, order: int = 3) -> Table:
    """tAB-DEIS: the polynomial lives in time t. `order` is its degree; 1 NFE a step, orders 0, 1, 2, ... at the start.

    ts: [N+1] decreasing nodes. Raises ValueError for an order outside 0 to 6 or bad nodes.
    """
    return _adams_bashforth(f"tAB{order}", sde, ts, order, sde.t_of_rho)


def rho_ab(sde: SDE, ts: np.ndarray, order: int = 3) -> Table:
    """rhoAB-DEIS: the polynomial lives in rho, which is variable-step Adams-Bashforth on dv/drho = eps."""
    return _adams_bashforth(f"rhoAB{order}", sde, ts, order, lambda rho: rho)


def log_rho_ab(sde: SDE, ts: np.ndarray, order: int = 3) -> Table:
    """The third member: the polynomial lives in log rho. Needs sigma > 0 at every evaluation."""
    return _adams_bashforth(f"logrhoAB{order}", sde, ts, order, np.log)


def ddim(sde: SDE, ts: np.ndarray) -> Table:
    """Deterministic DDIM (arXiv 2010.02502): order 0 of the family, v' = v + (rho' - rho) eps."""
    ts = check_nodes(ts)
    rho = sde.rho(ts)
    return eps_table("DDIM", ts, sde.s(ts), rho, P=np.diff(rho)[:, None])


def ipndm(sde: SDE, ts: np.ndarray, order: int = 4) -> Table:
    """iPNDM: the DDIM step with eps extrapolated by constant Adams-Bashforth weights, whatever the grid.

    order: 1 to 4, the number of evaluations used; it rises 1, 2, 3, 4 over the first steps
    (DEIS, arXiv 2204.13902, appendix B; PNDM, arXiv 2202.09778).
    """
    if not 1 <= order <= len(_AB_WEIGHTS):
        raise ValueError(f"ipndm order must be 1 to {len(_AB_WEIGHTS)}, got {order}")
    ts = check_nodes(ts)
    rho = sde.rho(ts)
    P = np.zeros((len(ts) - 1, order))
    for n in range(len(P)):
        weights = _AB_WEIGHTS[min(n, order - 1)]
        P[n, : len(weights)] = weights
    name = "iPNDM" if order == len(_AB_WEIGHTS) else f"iPNDM{order}"
    return eps_table(name, ts, sde.s(ts), rho, P * np.diff(rho)[:, None])


def _adams_bashforth(
    name: str, sde: SDE, ts: np.ndarray, order: int, variable: Callable[[np.ndarray], np.ndarray]
) -> Table:
    """Rows P_nj = integral of L_j drho over [rho_n, rho_n+1], L_j the Lagrange basis in variable(rho)."""
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(f"order must be 0 (DDIM) to {MAX_ORDER}, got {order}; the paper's best is 3")
    ts = check_nodes(ts)
    rho = sde.rho(ts)
    num_step = len(ts) - 1
    lags = min(order, num_step - 1) + 1
    P = np.zeros((num_step, lags))
    P[0, 0] = rho[1] - rho[0]
    node = variable(rho[:-1])
    x, weight = _quadrature(variable, rho[1:-1], rho[2:])
    for degree in range(1, lags):
        # the first row of each degree is the warm start's; the highest degree keeps the rest
        rows = np.arange(degree, num_step if degree == lags - 1 else degree + 1)
        nodes = node[rows[:, None] - np.arange(degree + 1)]
        P[rows, : degree + 1] = _lagrange_integrals(nodes, x[rows - 1], weight[rows - 1])
    return eps_table(name, ts, sde.s(ts), rho, P if lags > 1 else np.diff(rho)[:, None])


def _quadrature(
    variable: Callable[[np.ndarray], np.ndarray], start: np.ndarray, end: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values of the variable and weights for integrals drho over each [start, end]: [steps, 64] both.

    The rule is Gauss-Legendre in log rho.
    """
    log_ratio = np.log1p((start - end) / end)[:, None]
    rho = end[:, None] * np.exp(log_ratio * _GAUSS_X)
    return variable(rho), -log_ratio * _GAUSS_W * rho


def _lagrange_integrals(nodes: np.ndarray, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Integrals of the Lagrange basis through nodes [steps, k]: [steps, k]."""
    k = nodes.shape[1]
    factor = x[:, None, :] - nodes[:, :, None]
    integrals = np.empty_like(nodes)
    for j in range(k):
        others = [i for i in range(k) if i != j]
        basis = np.prod(factor[:, others] / (nodes[:, [j]] - nodes[:, others])[:, :, None], axis=1)
        integrals[:, j] = np.sum(basis * weight, axis=1)
    return integrals
