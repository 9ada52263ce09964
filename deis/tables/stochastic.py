"""Stochastic multistep tables: tAB-DEIS for the lambda-SDE, and DPM-Solver++ SDE 2M.

For every lambda >= 0 the reverse SDE (DEIS, arXiv 2204.13902, section 2; gDDIM, arXiv 2206.05564, section 2)

    dx = [f x - (1 + lambda^2)/2 g^2 score] dt + lambda g dw

has the marginals of the forward SDE. With v = x / s, rho = sigma / s and score = -eps / sigma it reads

    dv = (1 + lambda^2) eps drho + lambda sqrt(2 rho |drho|) z,                 rho falling

Within a step, eps moves with v as it does for a single data point, d eps / dv = 1 / rho. This linear part is
integrated exactly, and of the step's noise g^2 = rho'^2 (1 - q^(2 lambda^2)) is left at its end, q = rho' / rho.
A step to sigma = 0 adds no noise. From pure noise, s(T) = 0, nothing of z is left for any lambda > 0, g = rho'.
"""

import numpy as np

from deis.sde import SDE
from deis.table import Table
from deis.tables.adams_bashforth import t_ab
from deis.tables.multistep import extended_nodes, lagrange_integrals, quadrature, rising
from deis.tables.pure_noise import from_noise


@from_noise(lambda lam, **options: {"eta": 1.0} if lam else None)
def t_ab_sde(
    sde: SDE,
    ts: np.ndarray,
    order: int = 3,
    *,
    lam: float = 1.0,
    lower_order_final: bool = False,
    denoise: bool = False,
) -> Table:
    """Stochastic tAB-DEIS: the lambda-SDE with eps a polynomial in t; 1 NFE a step.

    A step from v_n follows v = D + w. D is the probability-flow path through v_n, whose slope is the polynomial
    E(t); w is what noise and the drift lambda^2 eps add, and eps = E + w / rho. So

        v' = v_n + integral of E [1 + lambda^2 (rho' / r)^(1 + lambda^2)] dr over [rho_n, rho'] + g z

    The past evaluations do not lie on D: noise came in since. The same linear part carries them to where they lie
    with the x_0 that they predict, D(rho_i) - rho_i E(t_i) = x_0i, which are linear equations for E. (A polynomial
    through the disturbed eps_i themselves counts the decay of the noise twice, and is of order 1 whatever its degree.)

    ts: [N+1] decreasing nodes.
    order: the polynomial's degree, 0 to 3, reached in the first steps. Degree 0 in VP is stochastic DDIM. Mean and
        variance converge with order 1 for degree 0, and 2 for the others, down to where lambda's share of the error
        is small with order + 1.
    lam: lambda; 1 is the usual reverse SDE, 0 is `t_ab`. The limit of lambda to 0 is another method of tAB's order,
        because D is the past path itself only up to the error of the method.
    lower_order_final, denoise: as in `deis.tables.multistep.Options`.
    Raises ValueError for any other order, lam < 0, or bad nodes.
    """
    if order not in (0, 1, 2, 3):
        raise ValueError(f"order must be 0 (stochastic DDIM), 1, 2 or 3, got {order}")
    if not 0 <= lam < np.inf:
        raise ValueError(f"lam must be 0 (deterministic) or more, got {lam:g}")
    if lam == 0:
        return t_ab(sde, ts, order, lower_order_final=lower_order_final, denoise=denoise)
    t, s, rho = extended_nodes(sde, ts, denoise)
    degrees = rising(order, len(t) - 1, lower_order_final, denoise)
    p, P = np.ones(len(degrees)), np.zeros((len(degrees), degrees.max() + 1))
    for degree in set(degrees.tolist()):
        i = np.flatnonzero(degrees == degree)
        used = rho[i[:, None] - np.arange(degree + 1)]
        p[i], P[i, : degree + 1] = _collocation(sde, used, rho[i + 1], lam)
    return _x_0_table(f"tAB{order}(lambda={lam:g})", t, s, rho, p, P, lam**2)


@from_noise(lambda eta, **options: {"eta": float(eta > 0)})
def dpm_solver_pp_sde(
    sde: SDE,
    ts: np.ndarray,
    *,
    eta: float = 1.0,
    variant: str = "midpoint",
    lower_order_final: bool = False,
    denoise: bool = False,
) -> Table:
    """DPM-Solver++ SDE 2M (arXiv 2211.01095; sample_dpmpp_2m_sde of k-diffusion); 1 NFE a step.

    The lambda-SDE with lambda^2 = eta, and x_0 linear in log rho through the last two evaluations. The first step
    uses one, and so does a step to sigma = 0, whose result is the predicted x_0, as in the source. Order 2.

    ts: [N+1] decreasing nodes.
    eta: 1 is the usual reverse SDE, 0 is DPM-Solver++ 2M.
    variant: the weight of x_0's slope, "heun", which integrates it exactly, or "midpoint", to first order.
    lower_order_final, denoise: as in `deis.tables.multistep.Options`.
    Raises ValueError for a negative eta, an unknown variant or bad nodes.
    """
    if not 0 <= eta < np.inf:
        raise ValueError(f"eta must be 0 (deterministic) or more, got {eta:g}")
    if variant not in ("midpoint", "heun"):
        raise ValueError(f"variant must be midpoint or heun, got {variant!r}")
    t, s, rho = extended_nodes(sde, ts, denoise)
    degrees = rising(1, len(t) - 1, lower_order_final, denoise or rho[-1] == 0)
    ratio = (rho[1:] / rho[:-1]).astype(np.float64)
    p = ratio ** (1 + eta)
    P = np.stack([1 - p, np.zeros(len(p))], axis=1)[:, : degrees.max() + 1]
    i = np.flatnonzero(degrees)
    h, h_last = -np.log(ratio[i]), -np.log(ratio[i - 1])
    slope = 0.5 * P[i, 0] if variant == "midpoint" else 1 - P[i, 0] / ((1 + eta) * h)
    P[i] += (slope * h / h_last)[:, None] * [1.0, -1.0][: P.shape[1]]
    name = "DPM++2M-SDE" if variant == "midpoint" else "DPM++2M-SDE-heun"
    return _x_0_table(f"{name}(eta={eta:g})", t, s, rho, p, P, eta)


def _collocation(sde: SDE, nodes: np.ndarray, end: np.ndarray, lam: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights p [steps] of v and P [steps, k] of the x_0 at nodes [steps, k], newest first, over the steps to `end`."""
    start, k = nodes[:, 0], nodes.shape[1]
    if k == 1:
        p = (end / start) ** (1 + lam**2)
        return p, (1 - p)[:, None]
    t = sde.t_of_rho(nodes)
    equations = -nodes[:, :, None] * np.eye(k)
    for i in range(1, k):
        rho, drho = quadrature(start, nodes[:, i])
        equations[:, i] += lagrange_integrals(t, sde.t_of_rho(rho), drho)
    rho, drho = quadrature(start, end)
    step = lagrange_integrals(t, sde.t_of_rho(rho), drho * (1 + lam**2 * (end[:, None] / rho) ** (1 + lam**2)))
    # E at the nodes = equations^-1 (x_0 - v)
    P = np.linalg.solve(equations.swapaxes(1, 2).astype(np.float64), step[:, :, None].astype(np.float64))[:, :, 0]
    return 1 - P.sum(axis=1), P


def _x_0_table(
    name: str, t: np.ndarray, s: np.ndarray, rho: np.ndarray, p: np.ndarray, P: np.ndarray, lam_square: float
) -> Table:
    """Rows v' = p v + sum_j P_j x_0j + g z, g the lambda-SDE's noise that is left at the end of each step."""
    g = rho[1:] * np.sqrt(1 - (rho[1:] / rho[:-1]) ** (2 * lam_square))
    return Table(name, t, s, rho, a=np.ones(len(p)), b=-rho[:-1], p=p, q=p, P=P, Q=P, g=g)
