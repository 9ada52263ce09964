"""DPM-Solver, DPM-Solver++, UniPC and corrected Adams-Bashforth as plain loops, from the papers' algorithm boxes.

alpha = s and sigma are functions of time, lambda = log(alpha / sigma), t_lambda its inverse.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, expm1, factorial, inf, log

import numpy as np
from scipy.integrate import quad

EpsFn = Callable[[np.ndarray, float], np.ndarray]
TimeFn = Callable[[float], float]
TO_ZERO = inf
"""Stands for the time of sigma = 0 after the last node."""


@dataclass(frozen=True)
class Schedule:
    """A schedule in the papers' symbols."""

    alpha: TimeFn
    sigma: TimeFn
    t_of_rho: TimeFn

    def at(self, t: float) -> tuple[float, float, float]:
        """alpha, sigma, lambda."""
        if t == TO_ZERO:
            return 1.0, 0.0, inf
        alpha, sigma = float(self.alpha(t)), float(self.sigma(t))
        return alpha, sigma, log(alpha / sigma) if sigma else inf

    def t_lambda(self, lam: float) -> float:
        return float(self.t_of_rho(np.float64(exp(-lam))))


def dpm_solver_2(schedule: Schedule, eps: EpsFn, x: np.ndarray, ts: np.ndarray, r_1: float = 1 / 2) -> np.ndarray:
    """arXiv 2206.00927, algorithm 1, for any r_1 (appendix)."""
    for t, t_next in itertools.pairwise(ts):
        (alpha, _, lam), (alpha_next, sigma_next, lam_next) = schedule.at(t), schedule.at(t_next)
        h = lam_next - lam
        s_1 = schedule.t_lambda(lam + r_1 * h)
        alpha_1, sigma_1, _ = schedule.at(s_1)
        e = eps(x, t)
        u = alpha_1 / alpha * x - sigma_1 * expm1(r_1 * h) * e
        x = alpha_next / alpha * x - sigma_next * expm1(h) * e - sigma_next / (2 * r_1) * expm1(h) * (eps(u, s_1) - e)
    return x


def dpm_solver_3(schedule: Schedule, eps: EpsFn, x: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """arXiv 2206.00927, algorithm 2, r_1 = 1/3 and r_2 = 2/3."""
    r_1, r_2 = 1 / 3, 2 / 3
    for t, t_next in itertools.pairwise(ts):
        (alpha, _, lam), (alpha_next, sigma_next, lam_next) = schedule.at(t), schedule.at(t_next)
        h = lam_next - lam
        s_1, s_2 = schedule.t_lambda(lam + r_1 * h), schedule.t_lambda(lam + r_2 * h)
        (alpha_1, sigma_1, _), (alpha_2, sigma_2, _) = schedule.at(s_1), schedule.at(s_2)
        e = eps(x, t)
        u_1 = alpha_1 / alpha * x - sigma_1 * expm1(r_1 * h) * e
        D_1 = eps(u_1, s_1) - e
        u_2 = (
            alpha_2 / alpha * x
            - sigma_2 * expm1(r_2 * h) * e
            - sigma_2 * r_2 / r_1 * (expm1(r_2 * h) / (r_2 * h) - 1) * D_1
        )
        D_2 = eps(u_2, s_2) - e
        x = alpha_next / alpha * x - sigma_next * expm1(h) * e - sigma_next / r_2 * (expm1(h) / h - 1) * D_2
    return x


def dpm_solver_adaptive(
    schedule: Schedule, eps: EpsFn, x: np.ndarray, t: float, t_end: float, order: int, rtol: float, atol: float
) -> tuple[np.ndarray, int]:
    """(x, steps tried) by DPM-Solver-12 or -23, arXiv 2206.00927, algorithm 5; h_init 0.05, theta 0.9.

    Its error is over all samples, and |x| that of the accepted state before the step.
    """
    h, steps, last = 0.05, 0, schedule.at(t_end)[2]
    while last - schedule.at(t)[2] > 1e-5:
        (alpha, _, lam), s = schedule.at(t), schedule.t_lambda(schedule.at(t)[2] + h)
        alpha_s, sigma_s, _ = schedule.at(s)
        e = eps(x, t)
        if order == 2:
            low = alpha_s / alpha * x - sigma_s * expm1(h) * e
            high = dpm_solver_2(schedule, eps, x, np.array([t, s]))
        else:
            r, s_1 = 1 / 3, schedule.t_lambda(lam + h / 3)
            u = schedule.at(s_1)[0] / alpha * x - schedule.at(s_1)[1] * expm1(r * h) * e
            low = alpha_s / alpha * x - sigma_s * expm1(h) * (e + (eps(u, s_1) - e) / (2 * r))
            high = dpm_solver_3(schedule, eps, x, np.array([t, s]))
        error = np.sqrt(np.mean(((high - low) / np.maximum(atol, rtol * np.maximum(abs(low), abs(x)))) ** 2))
        if error <= 1:
            x, t = high, s
        h, steps = min(0.9 * h * error ** (-1 / order), last - schedule.at(t)[2]), steps + 1
    return x, steps


def dpm_solver_pp(
    schedule: Schedule, eps: EpsFn, x: np.ndarray, ts: list[float], order: int, lower_order_final: bool = False
) -> np.ndarray:
    """DPM-Solver++(2M), arXiv 2211.01095, algorithm 2, and (3M), as its authors' code publishes it.

    ts may end with TO_ZERO, to which the step is of order 1.
    """
    x_0: list[np.ndarray] = []
    lams: list[float] = []
    for i, (t, t_next) in enumerate(itertools.pairwise(ts)):
        (alpha, sigma, lam), (alpha_next, sigma_next, lam_next) = schedule.at(t), schedule.at(t_next)
        x_0.insert(0, (x - sigma * eps(x, t)) / alpha)
        lams.insert(0, lam)
        h = lam_next - lam
        order_now = min(order, i + 1, len(ts) - 1 - i if lower_order_final else order, 1 if h == inf else order)
        x = sigma_next / sigma * x
        if order_now == 1:
            D = x_0[0]
            x = x - alpha_next * expm1(-h) * D
        elif order_now == 2:
            r = (lams[0] - lams[1]) / h
            D = (1 + 1 / (2 * r)) * x_0[0] - 1 / (2 * r) * x_0[1]
            x = x - alpha_next * expm1(-h) * D
        else:
            r_0, r_1 = (lams[0] - lams[1]) / h, (lams[1] - lams[2]) / h
            D1_0, D1_1 = (x_0[0] - x_0[1]) / r_0, (x_0[1] - x_0[2]) / r_1
            D1 = D1_0 + r_0 / (r_0 + r_1) * (D1_0 - D1_1)
            D2 = (D1_0 - D1_1) / (r_0 + r_1)
            x = (
                x
                - alpha_next * expm1(-h) * x_0[0]
                + alpha_next * (expm1(-h) / h + 1) * D1
                - alpha_next * ((expm1(-h) + h) / h**2 - 0.5) * D2
            )
    return x


def unipc(
    schedule: Schedule,
    eps: EpsFn,
    x: np.ndarray,
    ts: list[float],
    order: int,
    variant: str = "B2",
    data: bool = True,
    corrector: bool = True,
    lower_order_final: bool = False,
) -> np.ndarray:
    """Multistep UniPC (arXiv 2302.04867) with the linear systems R_p(h) a_p B(h) = phi_p(h).

    data: with predicted x_0 (appendix), else with eps. ts may end with TO_ZERO if lower_order_final.
    """
    f: list[np.ndarray] = []
    lams: list[float] = []
    p_last, x_last = 0, x
    for i, (t, t_next) in enumerate(itertools.pairwise(ts)):
        alpha, sigma, lam = schedule.at(t)
        e = eps(x, t)
        new = (x - sigma * e) / alpha if data else e
        if corrector and i > 0:
            x = _unipc_update(schedule, x_last, ts[i - 1], t, f, lams, p_last, variant, data, new)
        f.insert(0, new)
        lams.insert(0, lam)
        p_last = min(order, i + 1, len(ts) - 1 - i if lower_order_final else order)
        x_last = x
        x = _unipc_update(schedule, x, t, t_next, f, lams, p_last, variant, data, None)
    return x


def _unipc_update(
    schedule: Schedule,
    x: np.ndarray,
    t: float,
    t_next: float,
    f: list[np.ndarray],
    lams: list[float],
    p: int,
    variant: str,
    data: bool,
    new: np.ndarray | None,
) -> np.ndarray:
    """UniP-p from t to t_next, or UniC-p where `new` is the prediction at t_next."""
    (alpha, sigma, lam), (alpha_next, sigma_next, lam_next) = schedule.at(t), schedule.at(t_next)
    h = lam_next - lam
    hh = -h if data else h
    B = hh if variant == "B1" else expm1(hh)
    r = [(lams[m] - lam) / h for m in range(1, p)]
    D = [(f[m] - f[0]) / r[m - 1] for m in range(1, p)]
    if new is not None:
        r, D = [*r, 1.0], [*D, new - f[0]]
    if len(D) == 1:
        a = np.array([0.5])
    elif D:
        phi = [_phi_remainder(hh, k + 1) * factorial(k) for k in range(1, len(D) + 1)]
        R = np.array([[r_m ** (k - 1) for r_m in r] for k in range(1, len(D) + 1)])
        a = np.linalg.solve(R, np.array(phi) / B)
    residual = sum((a_m * D_m for a_m, D_m in zip(a, D, strict=True)), 0.0 * x) if D else 0.0 * x
    if not D:
        B = 0.0  # which may be infinite over a step to sigma = 0
    if data:
        return sigma_next / sigma * x - alpha_next * expm1(hh) * f[0] - alpha_next * B * residual
    to_zero = -sigma * alpha_next / alpha if sigma_next == 0 else -sigma_next * expm1(hh)
    return alpha_next / alpha * x + to_zero * f[0] - sigma_next * B * residual


def _phi_remainder(h: float, k: int) -> float:
    """h phi_k(h), phi_0 = e^h and phi_k+1 = (phi_k - 1/k!) / h, as a series, which does not cancel."""
    return h * sum(h**j / factorial(j + k) for j in range(60))


def adams(
    schedule: Schedule,
    variable: Callable[[float], float],
    eps: EpsFn,
    x: np.ndarray,
    ts: list[float],
    degree: int,
    lower_order_final: bool = False,
    corrector: bool = True,
) -> np.ndarray:
    """Adams-Bashforth in `variable(rho)`; each evaluation corrects the step that led to it (PEC mode).

    The last step, if to TO_ZERO, is of degree 0.
    """
    levels = [sigma / alpha for alpha, sigma, _ in (schedule.at(t) for t in ts)]
    v = u = x / schedule.at(ts[0])[0]
    e: list[np.ndarray] = []
    degree_last = 0
    for n in range(len(ts) - 1):
        e.insert(0, eps(schedule.at(ts[n])[0] * u, ts[n]))
        newest = levels[n::-1]
        corrects = corrector and n > 0
        v = v + _integral(variable, newest[: degree_last + 2], e, levels[n - 1], levels[n]) if corrects else u
        degree_last = min(degree, n, len(ts) - 2 - n if lower_order_final else degree)
        if ts[n + 1] == TO_ZERO:
            degree_last = 0
        u = v + _integral(variable, newest[: degree_last + 1], e, levels[n], levels[n + 1])
    return schedule.at(ts[-1])[0] * u


def _integral(
    variable: Callable[[float], float], nodes: list[float], e: list[np.ndarray], start: float, end: float
) -> np.ndarray:
    """Integral over [start, end] in rho of the polynomial through e at the nodes."""
    if len(nodes) == 1:
        return (end - start) * e[0]
    y = [variable(rho) for rho in nodes]
    total = np.zeros_like(e[0])
    for j, e_j in enumerate(e[: len(nodes)]):

        def basis(rho: float, j: int = j) -> float:
            return float(np.prod([(variable(rho) - y[k]) / (y[j] - y[k]) for k in range(len(y)) if k != j]))

        total = total + quad(basis, start, end, epsabs=0, epsrel=1e-12)[0] * e_j
    return total
