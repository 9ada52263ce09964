"""Euler and the exponential integrator on the score, as plain loops on the ODE of VP diffusions."""

import itertools
from collections.abc import Callable

import numpy as np
from scipy.integrate import quad

EpsFn = Callable[[np.ndarray, float], np.ndarray]
TimeFn = Callable[[float], float]


def euler_vp(beta: TimeFn, sigma: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray) -> np.ndarray:
    """Euler's method on dx/dt = -beta x / 2 + beta / (2 sigma) eps."""
    for t, t_next in itertools.pairwise(ts):
        x = x + (t_next - t) * (-beta(t) / 2 * x + beta(t) / (2 * sigma(t)) * eps(x, t))
    return x


def ei_score_vp(
    beta: TimeFn, psi: Callable[[float, float], float], sigma: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray
) -> np.ndarray:
    """x' = Psi(t', t) x + [integral of -Psi(t', tau) beta(tau) / 2 dtau] score(x, t) (arXiv 2204.13902)."""
    for t, t_next in itertools.pairwise(ts):
        weight = quad(lambda tau, end=t_next: -psi(end, tau) * beta(tau) / 2, t, t_next, epsabs=0, epsrel=1e-12)[0]
        x = psi(t_next, t) * x + weight * -eps(x, t) / sigma(t)
    return x
