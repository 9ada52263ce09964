"""Discrete-time diffusions: an alpha_bar array as an SDE whose time is the index."""

from typing import Any

import numpy as np

from deis.sde import SDE
from deis.timefn import array_library


def DiscreteVPSDE(discrete_alpha: Any) -> SDE:
    """Variance preserving from the alpha_bar array of a discrete-time model (the published call).

    discrete_alpha: [N] decreasing alpha_bar_i in (0, 1). Time is the index, in [0, N - 1]; between the indices
    log rho is interpolated linearly, so that drift and diffusion jump at the indices (there, they are those of the
    interval above). Raises ValueError for any other array.
    """
    alpha_bar = np.asarray(discrete_alpha, np.float64)
    if alpha_bar.ndim != 1 or len(alpha_bar) < 2 or not _falls_within_0_and_1(alpha_bar):
        raise ValueError("discrete_alpha must be a decreasing array of at least 2 alpha_bar values between 0 and 1")
    index = np.arange(len(alpha_bar), dtype=np.float64)
    log_rho = 0.5 * np.log((1 - alpha_bar) / alpha_bar)

    def s(t: Any) -> Any:
        return (1 + array_library(t).exp(2 * _interpolate(t, index, log_rho))) ** -0.5

    def sigma(t: Any) -> Any:
        return (1 + array_library(t).exp(-2 * _interpolate(t, index, log_rho))) ** -0.5

    def t_of_rho(rho: Any) -> Any:
        return _interpolate(array_library(rho).log(rho), log_rho, index)

    return SDE(s, sigma, t_of_rho, t_0=0.0, T=float(index[-1]))


def _falls_within_0_and_1(x: np.ndarray) -> bool:
    return bool(np.all(np.diff(x) < 0)) and 0 < x[-1] < x[0] < 1


def _interpolate(x: Any, xs: np.ndarray, ys: np.ndarray) -> Any:
    """Piecewise linear through the points (xs, ys), xs increasing; the end pieces go on beyond the ends."""
    xp, x = array_library(x), 1.0 * x
    place = {"device": x.device, "dtype": x.dtype} if xp.__name__ == "torch" else {}
    slopes = xp.asarray(np.diff(ys) / np.diff(xs), **place)
    xs, ys = xp.asarray(xs, **place), xp.asarray(ys, **place)
    piece = xp.clip(xp.searchsorted(xs, x.real, side="right") - 1, 0, len(slopes) - 1)
    return ys[piece] + slopes[piece] * (x - xs[piece])
