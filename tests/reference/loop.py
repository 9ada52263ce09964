"""Samplers as plain NumPy loops: one that runs a table row by row, and the textbook loops that tables must equal."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy.integrate import quad

from deis.table import Table

EpsFn = Callable[[np.ndarray, float], np.ndarray]
TimeFn = Callable[[float], float]


def run(table: Table, eps_fn: EpsFn, x: np.ndarray, history: Sequence[np.ndarray] = ()) -> np.ndarray:
    """The equations of `deis.table`, in float64. history: what earlier evaluations left, newest first."""
    u = v = x / table.s[0]
    kept = list(history)
    for i in range(table.nfe):
        e = eps_fn(table.s[i] * u, table.t[i])
        kept.insert(0, table.a[i] * u + table.b[i] * e)
        for weights in (table.P[i], table.Q[i]):
            assert not np.any(weights[len(kept) :]), f"row {i} weighs an evaluation that was not made"
        u, v = (
            scale * v + sum(w * m for w, m in zip(weights, kept, strict=False))
            for scale, weights in ((table.p[i], table.P[i]), (table.q[i], table.Q[i]))
        )
    return table.s[-1] * u


def ddim(s: TimeFn, sigma: TimeFn, eps_fn: EpsFn, x: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """x' = s' x0_hat + sigma' eps (DDIM, arXiv 2010.02502, eq. 12 without noise)."""
    for t, t_next in pairwise(ts):
        x = ddim_step(s, sigma, x, eps_fn(x, t), t, t_next)
    return x


def ddim_step(s: TimeFn, sigma: TimeFn, x: np.ndarray, eps: np.ndarray, t: float, t_next: float) -> np.ndarray:
    x_0 = (x - sigma(t) * eps) / s(t)
    return s(t_next) * x_0 + sigma(t_next) * eps


def ipndm(s: TimeFn, sigma: TimeFn, eps_fn: EpsFn, x: np.ndarray, ts: np.ndarray, order: int) -> np.ndarray:
    """The DDIM step with an extrapolated eps (DEIS, arXiv 2204.13902, appendix B)."""
    past: list[np.ndarray] = []
    for t, t_next in pairwise(ts):
        past = [eps_fn(x, t), *past][:order]
        match past:
            case [e0]:
                eps = e0
            case [e0, e1]:
                eps = (3 * e0 - e1) / 2
            case [e0, e1, e2]:
                eps = (23 * e0 - 16 * e1 + 5 * e2) / 12
            case [e0, e1, e2, e3]:
                eps = (55 * e0 - 59 * e1 + 37 * e2 - 9 * e3) / 24
        x = ddim_step(s, sigma, x, eps, t, t_next)
    return x


def t_ab(
    psi: Callable[[float, float], float], weight: TimeFn, eps_fn: EpsFn, x: np.ndarray, ts: np.ndarray, order: int
) -> np.ndarray:
    """tAB-DEIS by its own formulas (arXiv 2204.13902, eq. 14-15).

    psi(t', t): transition of the drift; weight(tau) = 1/2 G G^T L^-T.
    """
    past: list[np.ndarray] = []
    for i in range(len(ts) - 1):
        past = [eps_fn(x, ts[i]), *past][: order + 1]
        nodes = ts[i - np.arange(len(past))]
        x = psi(ts[i + 1], ts[i]) * x
        for j, eps in enumerate(past):
            x = x + t_ab_coefficient(psi, weight, nodes, j, ts[i + 1]) * eps
    return x


def t_ab_coefficient(
    psi: Callable[[float, float], float], weight: TimeFn, nodes: np.ndarray, j: int, t_next: float
) -> float:
    """C_ij: integral of psi(t', tau) weight(tau) prod_k (tau - t_k) / (t_j - t_k) from nodes[0] to t_next."""
    others = np.delete(nodes, j)

    def integrand(tau: float) -> float:
        return psi(t_next, tau) * weight(tau) * np.prod((tau - others) / (nodes[j] - others))

    return quad(integrand, nodes[0], t_next, epsabs=0, epsrel=1e-11, limit=200)[0]


def runge_kutta(
    step: Callable, s: TimeFn, sigma: TimeFn, t_of_rho: TimeFn, eps_fn: EpsFn, x: np.ndarray, ts: np.ndarray
) -> np.ndarray:
    """`step` (one of RUNGE_KUTTA) on dv/drho = eps(s v, t(rho)), v = x / s."""

    def slope(rho: float, v: np.ndarray) -> np.ndarray:
        t = t_of_rho(rho)
        return eps_fn(s(t) * v, t)

    v = x / s(ts[0])
    for t, t_next in pairwise(ts):
        rho, rho_next = sigma(t) / s(t), sigma(t_next) / s(t_next)
        v = step(slope, rho, v, rho_next - rho)
    return s(ts[-1]) * v


def edm_heun(denoise: Callable, x: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """EDM's deterministic sampler (arXiv 2206.00364, algorithm 1), for noise levels that do not end at 0."""
    for sigma, sigma_next in pairwise(sigmas):
        d = (x - denoise(x, sigma)) / sigma
        x_next = x + (sigma_next - sigma) * d
        d_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
        x = x + (sigma_next - sigma) * (d + d_next) / 2
    return x


def _euler(f, r, v, h):
    return v + h * f(r, v)


def _heun2(f, r, v, h):
    k1 = f(r, v)
    return v + h / 2 * (k1 + f(r + h, v + h * k1))


def _kutta3(f, r, v, h):
    k1 = f(r, v)
    k2 = f(r + h / 2, v + h / 2 * k1)
    return v + h / 6 * (k1 + 4 * k2 + f(r + h, v + h * (2 * k2 - k1)))


def _ralston3(f, r, v, h):
    k1 = f(r, v)
    k2 = f(r + h / 2, v + h / 2 * k1)
    return v + h / 9 * (2 * k1 + 3 * k2 + 4 * f(r + 3 * h / 4, v + 3 * h / 4 * k2))


def _heun3(f, r, v, h):
    k1 = f(r, v)
    k2 = f(r + h / 3, v + h / 3 * k1)
    return v + h / 4 * (k1 + 3 * f(r + 2 * h / 3, v + 2 * h / 3 * k2))


def _van_der_houwen3(f, r, v, h):
    k1 = f(r, v)
    k2 = f(r + 8 * h / 15, v + 8 * h / 15 * k1)
    return v + h / 4 * (k1 + 3 * f(r + 2 * h / 3, v + h * (k1 / 4 + 5 * k2 / 12)))


def _ssprk3(f, r, v, h):  # Shu & Osher's form: convex combinations of Euler steps
    v1 = v + h * f(r, v)
    v2 = 3 / 4 * v + 1 / 4 * (v1 + h * f(r + h, v1))
    return 1 / 3 * v + 2 / 3 * (v2 + h * f(r + h / 2, v2))


def _classical4(f, r, v, h):
    k1 = f(r, v)
    k2 = f(r + h / 2, v + h / 2 * k1)
    k3 = f(r + h / 2, v + h / 2 * k2)
    return v + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(r + h, v + h * k3))


RUNGE_KUTTA = {
    "1euler": (_euler, 1),
    "2heun": (_heun2, 2),
    "3kutta": (_kutta3, 3),
    "3ral": (_ralston3, 3),
    "3heun": (_heun3, 3),
    "3vdh": (_van_der_houwen3, 3),
    "3ssprk": (_ssprk3, 3),
    "4rk": (_classical4, 4),
}
"""Every named method as one explicit step of dv/dr = f(r, v), with its order of convergence."""


def euler_vp(beta: TimeFn, sigma: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """Euler's method on dx/dt = -beta x / 2 + beta / (2 sigma) eps."""
    for t, t_next in pairwise(ts):
        x = x + (t_next - t) * (-beta(t) / 2 * x + beta(t) / (2 * sigma(t)) * eps(x, t))
    return x


def ei_score_vp(
    beta: TimeFn, psi: Callable[[float, float], float], sigma: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray
) -> np.ndarray:
    """x' = Psi(t', t) x + [integral of -Psi(t', tau) beta(tau) / 2 dtau] score(x, t) (arXiv 2204.13902)."""
    for t, t_next in pairwise(ts):
        weight = quad(lambda tau, end=t_next: -psi(end, tau) * beta(tau) / 2, t, t_next, epsabs=0, epsrel=1e-12)[0]
        x = psi(t_next, t) * x + weight * -eps(x, t) / sigma(t)
    return x


def pndm(alpha_bar: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray, kind: str) -> np.ndarray:
    """S-PNDM, F-PNDM (arXiv 2202.09778) or PLMS, the latter's multistep part with the former's start.

    alpha_bar: of the VP diffusion, by index.
    """
    past: list[np.ndarray] = []
    for n, (t, t_next) in enumerate(pairwise(ts)):
        e_1 = eps(x, t)
        past = [e_1, *past]
        if kind == "F-PNDM" and n < 3:
            mid = (t + t_next) / 2
            e_2 = eps(_transfer(alpha_bar, x, t, mid, e_1), mid)
            e_3 = eps(_transfer(alpha_bar, x, t, mid, e_2), mid)
            e_4 = eps(_transfer(alpha_bar, x, t, t_next, e_3), t_next)
            e = (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
        elif n == 0:
            e = (e_1 + eps(_transfer(alpha_bar, x, t, t_next, e_1), t_next)) / 2
        elif n == 1 or kind == "S-PNDM":
            e = (3 * past[0] - past[1]) / 2
        elif n == 2:
            e = (23 * past[0] - 16 * past[1] + 5 * past[2]) / 12
        else:
            e = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        x = _transfer(alpha_bar, x, t, t_next, e)
    return x


def _transfer(alpha_bar: TimeFn, x: np.ndarray, t: float, t_next: float, e: np.ndarray) -> np.ndarray:
    """phi(x, e, t, t'), in the paper's form."""
    a, b = float(alpha_bar(t)), float(alpha_bar(t_next))
    denominator = np.sqrt(a) * (np.sqrt((1 - b) * a) + np.sqrt((1 - a) * b))
    return x + (b - a) * (x / (np.sqrt(a) * (np.sqrt(b) + np.sqrt(a))) - e / denominator)
