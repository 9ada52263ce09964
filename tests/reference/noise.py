"""Stochastic samplers: one that runs a table with given noise, textbook loops, and the Gaussian case in closed form."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from deis.table import Table

from .loop import EpsFn, TimeFn


def run(table: Table, eps_fn: EpsFn, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The equations of `deis.table` in float64, with the noise z [nfe, ...]; for tables without trial points."""
    assert np.array_equal(table.P, table.Q)
    assert np.array_equal(table.p, table.q)
    v = x / table.s[0]
    history: list[np.ndarray] = []
    for i in range(table.nfe):
        history = [table.a[i] * v + table.b[i] * eps_fn(table.s[i] * v, table.t[i]), *history][: table.lags]
        v = table.p[i] * v + sum(w * m for w, m in zip(table.P[i], history, strict=False)) + table.g[i] * z[i]
    return table.s[-1] * v


def ddim_eta(alpha_bar: TimeFn, eps_fn: EpsFn, x: np.ndarray, ts: np.ndarray, z: np.ndarray, eta: float) -> np.ndarray:
    """DDIM, arXiv 2010.02502, eq. 12 and 16 (whose alpha is DDPM's alpha_bar)."""
    for i, (t, t_next) in enumerate(pairwise(ts)):
        a, a_next = alpha_bar(t), alpha_bar(t_next)
        eps = eps_fn(x, t)
        sigma = eta * np.sqrt((1 - a_next) / (1 - a)) * np.sqrt(1 - a / a_next)
        x_0 = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
        x = np.sqrt(a_next) * x_0 + np.sqrt(1 - a_next - sigma**2) * eps + sigma * z[i]
    return x


def ddpm(beta: np.ndarray, eps_fn: EpsFn, x: np.ndarray, z: np.ndarray, large: bool) -> np.ndarray:
    """DDPM, arXiv 2006.11239, algorithm 2; beta [N] of the times 0 to N - 1, the last of which leads to x_0."""
    alpha_bar = np.cumprod(1 - beta)
    for t in range(len(beta) - 1, -1, -1):
        small = (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t]) * beta[t] if t else 0.0
        sigma = np.sqrt(beta[t] if large else small)
        mean = (x - beta[t] / np.sqrt(1 - alpha_bar[t]) * eps_fn(x, t)) / np.sqrt(1 - beta[t])
        x = mean + sigma * z[len(beta) - 1 - t] if t else mean
    return x


def analytic_variance(alpha: float, alpha_bar: float, lam: float, eps_norm: float) -> float:
    """sigma*^2 of Analytic-DPM, arXiv 2201.06503, theorem 1, with |score|^2 = |eps|^2 / beta_bar, from n to n - 1.

    alpha: of the step; alpha_bar: at n; lam: lambda_n.
    """
    beta_bar, beta_bar_next = 1 - alpha_bar, 1 - alpha_bar / alpha
    score_norm = eps_norm / beta_bar
    factor = np.sqrt(beta_bar / alpha) - np.sqrt(beta_bar_next - lam**2)
    return lam**2 + factor**2 * (1 - beta_bar * score_norm)


def dpmpp_2m_sde(eps_fn: EpsFn, x: np.ndarray, sigmas: np.ndarray, z: np.ndarray, eta: float, heun: bool) -> np.ndarray:
    """DPM-Solver++ SDE 2M in sigma with s = 1, step by step from lambda = -log sigma; the last sigma may be 0."""
    before, h_before = None, None
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x_0 = x - sigma * eps_fn(x, sigma)
        if sigma_next == 0:
            return x_0
        h = -np.log(sigma_next) + np.log(sigma)
        gain = 1 - np.exp(-(1 + eta) * h)
        x = sigma_next / sigma * np.exp(-eta * h) * x + gain * x_0
        if before is not None:
            slope = (x_0 - before) * h / h_before
            x = x + ((1 - gain / ((1 + eta) * h)) if heun else gain / 2) * slope
        x = x + sigma_next * np.sqrt(1 - np.exp(-2 * eta * h)) * z[i]
        before, h_before = x_0, h
    return x


@dataclass(frozen=True)
class Gaussian:
    """Data N(0, variance), for which eps = sigma x / (s^2 variance + sigma^2) is linear: moments travel exactly."""

    variance: float

    def eps_fn(self, s: TimeFn, sigma: TimeFn) -> EpsFn:
        return lambda x, t: sigma(t) * x / (s(t) ** 2 * self.variance + sigma(t) ** 2)

    def through(self, table: Table, mean: float, variance: float, consistent: bool = False) -> tuple[float, float]:
        """Mean and variance of v at the end of the table, from those at its start: no sampling, no approximation.

        consistent: the network is the perfect consistency model, whose x_0 is where the probability flow ends.
        """
        c, square = self.variance, self.variance + table.rho[:-1] ** 2
        gain = (1 - np.sqrt(c / square)) / table.rho[:-1] if consistent else table.rho[:-1] / square  # eps of v
        lags = table.lags
        m, C = np.zeros(2 + lags), np.zeros((2 + lags, 2 + lags))  # of u, v and the history
        m[:2], C[:2, :2] = mean, variance
        for i in range(table.nfe):
            keep = np.eye(2 + lags, k=-1)  # the history moves on
            keep[:3] = 0
            keep[0, 0] = keep[1, 1] = 1
            keep[2, 0] = table.a[i] + table.b[i] * gain[i]
            step = np.eye(2 + lags)
            step[0], step[1] = [0, table.p[i], *table.P[i]], [0, table.q[i], *table.Q[i]]
            step = step @ keep
            m, C = step @ m, step @ C @ step.T
            C[:2, :2] += table.g[i] ** 2
        return float(m[0]), float(C[0, 0])

    def exact(self, rho_T: float, rho_0: float, lam: float, mean: float, variance: float) -> tuple[float, float]:
        """The same of the lambda-SDE itself, from rho_T to rho_0.

        Its drift (1 + lambda^2) rho / (variance + rho^2) v shrinks what differs from the marginal.
        """
        shrink = ((self.variance + rho_0**2) / (self.variance + rho_T**2)) ** (1 + lam**2)
        excess = variance - (self.variance + rho_T**2)
        return mean * np.sqrt(shrink), self.variance + rho_0**2 + excess * shrink
