"""Stochastic multistep tables: tAB-DEIS for the lambda-SDE, and DPM-Solver++ SDE 2M.

For every lambda >= 0 the reverse SDE (DEIS, arXiv 2204.13902, section 2; gDDIM, arXiv 2206.05564, section 2)

    dx = [f x - (1 + lambda^2)/2 g^2 score] dt + lambda g dw

has the marginals of the forward SDE. With v = x / s, rho = sigma / s and score = -eps / sigma it reads

    dv = (1 + lambda^2) eps drho + lambda sqrt(2 rho |drho|) z,                 rho falling

Within a step, eps moves with v as it does for a single data point, d eps / dv = 1 / rho. This linear part is
integrated exactly, and of the step's noise g^2 = rho'^2 (1 - q^(2 lambda^2)) is left at its end, q = rho' / rho.
A step to sigma = 0 adds no noise. From pure noise, s(T) = 0, nothing of z is left for any lambda > 0, g = rho'.
"""

from typing import Unpack

import numpy as np

from deis.errors import choice, require
from deis.sde import SDE
from deis.table import Table
from deis.tables.adams_bashforth import t_ab
from deis.tables.exponential import interpolate, log_weights, sde_noise
from deis.tables.multistep import (
    Options,
    check_order,
    extended_nodes,
    lagrange_integrals,
    multistep,
    quadrature,
    rising,
    with_options,
)
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
    check_order(order, 0, 3)
    require(0 <= lam < np.inf, f"lam must be 0 (deterministic) or more, got {lam:g}")
    if lam == 0:
        return t_ab(sde, ts, order, lower_order_final=lower_order_final, denoise=denoise)
    t, s, rho = extended_nodes(sde, ts, denoise)
    degrees = rising(order, len(t) - 1, lower_order_final, denoise)
    one = np.ones(len(degrees))
    p, P = one.copy(), np.zeros((len(degrees), degrees.max() + 1))
    for degree in set(degrees.tolist()):
        i = np.flatnonzero(degrees == degree)
        used = rho[i[:, None] - np.arange(degree + 1)]
        p[i], P[i, : degree + 1] = _collocation(sde, used, rho[i + 1], lam)
    _, g = sde_noise(lam**2)(rho)
    return Table(f"tAB{order}(lambda={lam:g})", t, s, rho, a=one, b=-rho[:-1], p=p, q=p, P=P, Q=P, g=g)


@from_noise(lambda eta, **options: {"eta": float(eta > 0)})
def dpm_solver_pp_sde(
    sde: SDE,
    ts: np.ndarray,
    order: int = 2,
    *,
    eta: float = 1.0,
    variant: str = "midpoint",
    **options: Unpack[Options],
) -> Table:
    """DPM-Solver++ SDE 2M and 3M (arXiv 2211.01095; sample_dpmpp_2m_sde, _3m_sde of k-diffusion); 1 NFE a step.

    The lambda-SDE with lambda^2 = eta, and a polynomial in log rho through the last two or three x_0. A step to
    sigma = 0 gives the predicted x_0, as in the source. Order 2: 3M, as published, takes half of the curvature's term.

    ts: [N+1] decreasing nodes. order: evaluations used, 1 to 3. eta: 1 is the usual reverse SDE, 0 is DPM-Solver++.
    variant: the weight of the slope through two x_0, "heun", which integrates it exactly, or "midpoint", to first
        order. k-diffusion's 3M starts with "heun".
    options: those of `Options`.
    Raises ValueError for another order, a negative eta, an unknown variant or bad nodes.
    """
    check_order(order, 1, 3, "dpm_solver_pp_sde order")
    require(0 <= eta < np.inf, f"eta must be 0 (deterministic) or more, got {eta:g}")
    choice("variant", variant, ("midpoint", "heun"))
    slope = "exact" if variant == "heun" else variant
    predict, correct = log_weights("x_0", slope, eta, curvature=0.5), log_weights("x_0", "exact", eta)
    name = with_options(f"DPM++{order}M-SDE{'-heun' * (variant == 'heun')}", options) + f"(eta={eta:g})"
    return multistep(name, sde, ts, order - 1, predict, correct, "x_0", noise=sde_noise(eta), **options)


@from_noise(lambda tau, tau_max, **options: {"eta": float(tau > 0 and np.isinf(tau_max))})
def sa_solver(
    sde: SDE,
    ts: np.ndarray,
    order: int = 3,
    *,
    tau: float = 1.0,
    tau_min: float = 0.0,
    tau_max: float = np.inf,
    corrector_order: int | None = None,
    exact: bool = True,
    **options: Unpack[Options],
) -> Table:
    """SA-Solver (arXiv 2309.05019): stochastic Adams predictor and corrector through predicted x_0; 1 NFE a step.

    ts: [N+1] decreasing nodes. order: the predictor's evaluations, 1 to 4. corrector_order: the corrector's, with the
        newest, 2 to order + 1, which is the default.
    tau: lambda of the reverse SDE in steps that start at rho between tau_min and tau_max; others are deterministic.
    exact: integrate lines exactly; False as in the authors' code and in diffusers, to first order in the step.
    options: those of `Options`; the corrector is on. It does not raise the order where there is noise, which is 2.
    Raises ValueError for other orders, a negative tau, or bad nodes.
    """
    check_order(order, 1, 4, "sa_solver order")
    if corrector_order is None:
        corrector_order = order + 1
    check_order(corrector_order, 2, order + 1, "sa_solver corrector_order")
    require(tau_min <= tau_max, f"tau_min must be at most tau_max, got {tau_min:g} and {tau_max:g}")
    require(0 <= tau < np.inf, f"tau must be 0 (deterministic) or more, got {tau:g}")

    def eta(rho: np.ndarray) -> np.ndarray:
        return np.where((rho >= tau_min) & (rho <= tau_max), tau**2, 0.0)

    weights = log_weights("x_0", "exact" if exact else "B1", eta)
    options = Options(corrector=True) | options
    name = with_options(f"SA{order}", options) + f"(tau={tau:g})"
    degrees, noise = (order - 1, corrector_order - 1), sde_noise(eta)
    return multistep(
        name, sde, ts, degrees[0], weights, weights, "x_0", noise=noise, correct_degree=degrees[1], **options
    )


@from_noise(lambda **options: {"eta": 1.0})
def er_sde(
    sde: SDE, ts: np.ndarray, order: int = 3, *, lower_order_final: bool = False, denoise: bool = False
) -> Table:
    """ER-SDE-Solver-1 to -3 (arXiv 2309.06169, ER SDE 5): v / f(rho) is integrated, f(rho) = rho (e^(rho^0.3) + 10).

    v' = f(rho') / f(rho) v + sum of the Taylor terms of x_0 in rho, whose derivatives are differences; 1 NFE a step.

    ts: [N+1] decreasing nodes. order: evaluations used, 1 to 3.
    lower_order_final, denoise: as in `deis.tables.multistep.Options`.
    Raises ValueError for another order, or bad nodes.
    """
    check_order(order, 1, 3, "er_sde order")

    def f(rho: np.ndarray) -> np.ndarray:
        return rho * (np.exp(rho**0.3) + 10)

    def noise(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        p = f(rho[1:]) / f(rho[:-1])
        return p, np.sqrt(rho[1:] ** 2 - (p * rho[:-1]) ** 2)

    def weights(nodes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        step, place = end - start, (nodes - start[:, None]) / (end - start)[:, None]
        rho, drho = quadrature(start, end)
        measure = -f(end)[:, None] / f(rho) * drho
        slope = 1 + measure.sum(axis=1) / step
        parabola = 1 + 2 * ((rho - start[:, None]) * measure).sum(axis=1) / step**2
        if nodes.shape[1] == 3:
            parabola += place[:, 1] * slope  # the published slope is that of the last two x_0
        moments = np.stack([1 - f(end) / f(start), slope, parabola], axis=1)
        return interpolate(place, moments[:, : nodes.shape[1]])

    options = Options(lower_order_final=lower_order_final, denoise=denoise)
    return multistep(f"ER-SDE-{order}", sde, ts, order - 1, weights, weights, "x_0", noise=noise, **options)


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
