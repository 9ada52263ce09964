"""EDM's sampler and k-diffusion's DPM-2 as plain loops in x and sigma."""

from collections.abc import Callable, Sequence
from math import exp, log, sqrt

import numpy as np


def sample(
    denoise: Callable,
    x: np.ndarray,
    sigmas: Sequence[float],
    draws: list[np.ndarray],
    *,
    midpoint: bool,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
) -> np.ndarray:
    """EDM's stochastic sampler (arXiv 2206.00364, algorithm 2); midpoint: with k-diffusion's DPM-2 step instead.

    draws: the standard normal noise of each step.
    """
    steps = len(sigmas) - 1
    for i in range(steps):
        t, t_next = sigmas[i], sigmas[i + 1]
        gamma = min(s_churn / steps, sqrt(2) - 1) if s_tmin <= t <= s_tmax else 0.0
        t_hat = t + gamma * t
        x_hat = x + sqrt(t_hat**2 - t**2) * s_noise * draws[i]
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next != 0 and midpoint:
            t_mid = exp((log(t_hat) + log(t_next)) / 2)
            x_mid = x_hat + d * (t_mid - t_hat)
            x = x_hat + (x_mid - denoise(x_mid, t_mid)) / t_mid * (t_next - t_hat)
        elif t_next != 0:
            d_next = (x - denoise(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d / 2 + d_next / 2)
    return x
