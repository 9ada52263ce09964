"""Samplers as plain loops, from the papers' algorithm boxes, in sigma with s = 1 and lambda = -log sigma.

denoise(x, sigma) is the predicted x_0. z(n) is the standard normal noise of the n-th network call, which is added after
it. sigmas decrease; a last one of 0 is led to by the predicted x_0.
"""

from collections.abc import Callable
from itertools import pairwise
from math import exp, expm1, factorial, log, sqrt

import numpy as np
from scipy.integrate import quad

Denoise = Callable[[np.ndarray, float], np.ndarray]
Noise = Callable[[int], np.ndarray]


def phi(k: int, z: float) -> float:
    """phi_k by its recurrence, near z = 0 as a series, which does not cancel there."""
    if abs(z) < 2:
        return sum(z**j / factorial(j + k) for j in range(40))
    return expm1(z) / z if k == 1 else (phi(k - 1, z) - 1 / factorial(k - 1)) / z


def ancestral_step(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """Where a step goes down to, and the noise up from there (DDIM, arXiv 2010.02502, eq. 16)."""
    up = eta * sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2)
    return sqrt(sigma_next**2 - up**2), up


def dpmpp_2s_ancestral(denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, eta: float) -> np.ndarray:
    """DPM-Solver++(2S), arXiv 2211.01095, algorithm 1, r = 1/2, down to below the next sigma, and noise up to it."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x_0 = denoise(x, sigma)
        if sigma_next == 0:
            return x_0
        down, up = ancestral_step(sigma, sigma_next, eta)
        h = log(sigma / down)
        middle = sigma * exp(-h / 2)
        u = middle / sigma * x - expm1(-h / 2) * x_0
        x = down / sigma * x - expm1(-h) * denoise(u, middle) + up * z(2 * i + 1)
    return x


def dpm_2_ancestral(denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, eta: float) -> np.ndarray:
    """The midpoint rule on dx/dsigma = (x - x_0) / sigma, its middle in log sigma."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        slope = (x - denoise(x, sigma)) / sigma
        if sigma_next == 0:
            return x - sigma * slope
        down, up = ancestral_step(sigma, sigma_next, eta)
        middle = sqrt(sigma * down)
        u = x + (middle - sigma) * slope
        x = x + (down - sigma) * (u - denoise(u, middle)) / middle + up * z(2 * i + 1)
    return x


def exponential(
    c: list[float], a: Callable, denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, eta: float
) -> np.ndarray:
    """x' = e^(-h) x + (1 + eta) h sum_j a_j x_0j, with the noise of an Ornstein-Uhlenbeck process (SEEDS, 2305.14267).

    c: [k] where the evaluations stand; a(i, z): the weights of those before, of evaluation i, and i = k of the step.
    """
    calls = 0
    for sigma, sigma_next in pairwise(sigmas):
        h = log(sigma / sigma_next)
        ends, evaluations, noise = [*c[1:], 1.0], [], 0.0 * x
        u, at = x, sigma
        for i, end in enumerate(ends, 1):
            evaluations.append(denoise(u, at))
            last, at = at, sigma * exp(-end * h)
            noise = (at / last) ** (1 + eta) * noise + at * sqrt(-expm1(-2 * eta * log(last / at))) * z(calls)
            drift = sum(w * x_0 for w, x_0 in zip(a(i, -(1 + eta) * h), evaluations, strict=True))
            u = exp(-(1 + eta) * end * h) * x + (1 + eta) * h * drift + noise
            calls += 1
        x = u
    return x


def _two(c: float, second: Callable) -> Callable:
    def a(i: int, z: float) -> list[float]:
        return [c * phi(1, c * z)] if i == 1 else [phi(1, z) - second(z), second(z)]

    return a


def _3s(i: int, z: float) -> list[float]:
    """arXiv 2206.00927, algorithm 2, for x_0: r_1 = 1/3 and r_2 = 2/3."""
    if i == 1:
        return [phi(1, z / 3) / 3]
    if i == 2:
        slope = 2 * phi(2, 2 / 3 * z) * 2 / 3
        return [2 / 3 * phi(1, 2 / 3 * z) - slope, slope]
    return [phi(1, z) - 1.5 * phi(2, z), 0.0, 1.5 * phi(2, z)]


def _res_3s(i: int, z: float) -> list[float]:
    """arXiv 2308.02157, c_2 = 1/2, c_3 = 1, gamma = (3 c_3^2 - 2 c_3) / (c_2 (2 - 3 c_2))."""
    c_2, c_3, gamma = 0.5, 1.0, 4.0
    if i == 1:
        return [c_2 * phi(1, c_2 * z)]
    if i == 2:
        a_32 = gamma * c_2 * phi(2, c_2 * z) + c_3**2 / c_2 * phi(2, c_3 * z)
        return [c_3 * phi(1, c_3 * z) - a_32, a_32]
    b_3 = phi(2, z) / (gamma * c_2 + c_3)
    return [phi(1, z) - (1 + gamma) * b_3, gamma * b_3, b_3]


def _krogstad(i: int, z: float) -> list[float]:
    """Hochbruck & Ostermann, Acta Numerica 2010, eq. 2.42."""
    rows = {
        1: [phi(1, z / 2) / 2],
        2: [phi(1, z / 2) / 2 - phi(2, z / 2), phi(2, z / 2)],
        3: [phi(1, z) - 2 * phi(2, z), 0.0, 2 * phi(2, z)],
    }
    b = [phi(1, z) - 3 * phi(2, z) + 4 * phi(3, z), *[2 * phi(2, z) - 4 * phi(3, z)] * 2, 4 * phi(3, z) - phi(2, z)]
    return rows.get(i, b)


EXPONENTIAL: dict[str, tuple[list[float], Callable]] = {
    "2s": ([0.0, 1 / 2], _two(0.5, lambda z: phi(1, z))),
    "3s": ([0.0, 1 / 3, 2 / 3], _3s),
    "heun": ([0.0, 1.0], _two(1.0, lambda z: phi(2, z))),
    "res_2s": ([0.0, 1 / 2], _two(0.5, lambda z: 2 * phi(2, z))),
    "res_3s": ([0.0, 1 / 2, 1.0], _res_3s),
    "etd_rk4": ([0.0, 1 / 2, 1 / 2, 1.0], _krogstad),
}


def dpmpp_3m_sde(denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, eta: float) -> np.ndarray:
    """DPM-Solver++ SDE (3M) as k-diffusion publishes it, by divided differences; its first slope is exact."""
    past: list[np.ndarray] = []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        past.insert(0, denoise(x, sigma))
        h = log(sigma / sigma_next)
        H = (1 + eta) * h
        phi_2 = expm1(-H) / H + 1
        x = exp(-H) * x - expm1(-H) * past[0]
        if i:
            d = (past[0] - past[1]) * h / log(sigmas[i - 1] / sigma)
        if i == 1:
            x = x + phi_2 * d
        elif i > 1:
            r_0, r_1 = log(sigmas[i - 1] / sigma) / h, log(sigmas[i - 2] / sigmas[i - 1]) / h
            d_1 = (past[1] - past[2]) / r_1
            x = x + phi_2 * (d + (d - d_1) * r_0 / (r_0 + r_1)) - (phi_2 / H - 0.5) * (d - d_1) / (r_0 + r_1)
        x = x + sigma_next * sqrt(-expm1(-2 * eta * h)) * z(i)
    return x


def sa_solver(
    denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, tau: Callable, order: int, corrector_order: int
) -> np.ndarray:
    """SA-Solver, arXiv 2309.05019, algorithm 1: integrals of Lagrange polynomials in lambda by quadrature.

    corrector_order: evaluations of the corrector, 0 for none. tau(sigma): where a step starts.
    """
    lam = [-log(sigma) for sigma in sigmas]
    past: list[np.ndarray] = []

    def step(x: np.ndarray, i: int, used: int, newest: int, noise: np.ndarray) -> np.ndarray:
        theta = 1 + tau(sigmas[i]) ** 2
        at = [lam[newest - j] for j in range(used)]

        def weight(j: int) -> float:
            def integrand(u: float) -> float:
                basis = np.prod([(u - a) / (at[j] - a) for k, a in enumerate(at) if k != j])
                return theta * exp(-theta * (lam[i + 1] - u)) * float(basis)

            return quad(integrand, lam[i], lam[i + 1], epsabs=0, epsrel=1e-12)[0]

        return exp(-theta * (lam[i + 1] - lam[i])) * x + sum(weight(j) * past[j] for j in range(used)) + noise

    noise, x_last = 0.0 * x, x
    for i in range(len(sigmas) - 1):
        past.insert(0, denoise(x, sigmas[i]))
        if corrector_order and i:
            x = step(x_last, i - 1, min(corrector_order, i + 1), i, noise)
        x_last, h = x, lam[i + 1] - lam[i]
        noise = sigmas[i + 1] * sqrt(-expm1(-2 * tau(sigmas[i]) ** 2 * h)) * z(i)
        x = step(x, i, min(order, i + 1), i, noise)
    return x


def er_sde(denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, order: int) -> np.ndarray:
    """ER-SDE-Solver, arXiv 2309.06169, algorithms 1 to 3, with integrals by quadrature instead of sums of 100 terms."""

    def scale(sigma: float) -> float:
        return sigma * (exp(sigma**0.3) + 10)

    past: list[np.ndarray] = []
    slopes: list[np.ndarray] = []
    for i, (sigma, end) in enumerate(pairwise(sigmas)):
        past.insert(0, denoise(x, sigma))
        r = scale(end) / scale(sigma)
        if i:
            slopes.insert(0, (past[0] - past[1]) / (sigma - sigmas[i - 1]))
        x = r * x + (1 - r) * past[0]
        if order > 1 and i:
            s = quad(lambda u: 1 / scale(u), end, sigma, epsabs=0, epsrel=1e-12)[0]
            x = x + (end - sigma + s * scale(end)) * slopes[0]
        if order > 2 and i > 1:
            s = quad(lambda u, sigma=sigma: (u - sigma) / scale(u), end, sigma, epsabs=0, epsrel=1e-12)[0]
            curvature = (slopes[0] - slopes[1]) / ((sigma - sigmas[i - 2]) / 2)
            x = x + ((end - sigma) ** 2 / 2 + s * scale(end)) * curvature
        x = x + sqrt(end**2 - sigma**2 * r**2) * z(i)
    return x


def gradient_estimation(denoise: Denoise, x: np.ndarray, sigmas: list[float], gamma: float) -> np.ndarray:
    """arXiv 2306.04848, algorithm 2."""
    last = None
    for sigma, sigma_next in pairwise(sigmas):
        eps = (x - denoise(x, sigma)) / sigma
        x = x + (sigma_next - sigma) * (eps if last is None else gamma * eps + (1 - gamma) * last)
        last = eps
    return x


def pfdiff(denoise: Denoise, x: np.ndarray, sigmas: list[float]) -> np.ndarray:
    """PFDiff-1 with DDIM, arXiv 2408.08822, algorithm 1: the past eps leads to the middle, its eps over both steps.

    sigmas: of an odd number of steps, the first of which is DDIM's.
    """
    eps = (x - denoise(x, sigmas[0])) / sigmas[0]
    x = x + (sigmas[1] - sigmas[0]) * eps
    for sigma, middle, sigma_next in zip(sigmas[1:-2:2], sigmas[2:-1:2], sigmas[3::2], strict=True):
        u = x + (middle - sigma) * eps
        eps = (u - denoise(u, middle)) / middle
        x = x + (sigma_next - sigma) * eps
    return x


def lcm(denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise) -> np.ndarray:
    """Consistency models, arXiv 2303.01469, algorithm 1, with noise up to the whole level."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = denoise(x, sigma) + sigma_next * z(i)
    return x


def restart(
    denoise: Denoise, x: np.ndarray, sigmas: list[float], z: Noise, interval: tuple, num_step: int, repeats: int
) -> np.ndarray:
    """Restart, arXiv 2306.14878, algorithm 1, with Heun's steps; interval: (t_min, t_max), the first one of sigmas."""
    calls = 0

    def heun(x: np.ndarray, sigma: float, sigma_next: float) -> np.ndarray:
        nonlocal calls
        d = (x - denoise(x, sigma)) / sigma
        calls += 1
        u = x + (sigma_next - sigma) * d
        if sigma_next == 0:
            return u
        calls += 1
        return x + (sigma_next - sigma) * (d + (u - denoise(u, sigma_next)) / sigma_next) / 2

    t_min, t_max = interval
    for sigma, sigma_next in pairwise(sigmas):
        x = heun(x, sigma, sigma_next)
        if sigma_next == t_min:
            for _ in range(repeats):
                x = x + sqrt(t_max**2 - t_min**2) * z(calls - 1)
                down = np.linspace(t_max ** (1 / 7), t_min ** (1 / 7), num_step + 1) ** 7
                for a, b in pairwise(down):
                    x = heun(x, a, b)
    return x
