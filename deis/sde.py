"""Diffusions as functions of time.

Every diffusion here has a scalar Gaussian kernel `x_t = s(t) x_0 + sigma(t) eps`, so it is the two functions
`s` and `sigma`. The noise-to-signal ratio `rho = sigma / s` is strictly increasing, and in `v = x / s(t)` the
probability-flow ODE loses its stiff linear part (DEIS, arXiv 2204.13902, section 3):

    dv/drho = eps_theta(s(t) v, t),    t = t(rho)

Times are in the units of the SDE. The functions answer in the array library they are asked in; asked with
NumPy arrays they answer in float64, which is what the solver tables are made of.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

TimeFn = Callable[[Any], Any]


@dataclass(frozen=True)
class SDE:
    """A diffusion `x_t = s(t) x_0 + sigma(t) eps` on [t_0, T].

    s, sigma: elementwise functions of time, for NumPy, JAX and torch arrays.
    t_of_rho: inverse of `rho(t) = sigma(t) / s(t)`.
    t_0, T: where sampling ends and starts, t_0 < T.
    prior_std: standard deviation of x_T, per element.
    """

    s: TimeFn
    sigma: TimeFn
    t_of_rho: TimeFn
    t_0: float
    T: float
    prior_std: float = 1.0

    def __post_init__(self) -> None:
        if not self.t_0 < self.T:
            raise ValueError(f"t_0 must lie below T, got t_0={self.t_0:g} and T={self.T:g}")
        rho_0, rho_T = self.rho(np.array([self.t_0, self.T]))
        if not 0 <= rho_0 < rho_T < math.inf:
            raise ValueError(
                f"sigma(t)/s(t) must grow from t_0={self.t_0:g} to T={self.T:g} and stay finite, "
                f"got {rho_0:g} and {rho_T:g}; move t_0 or T"
            )

    def rho(self, t: Any) -> Any:
        """Noise-to-signal ratio sigma(t) / s(t)."""
        return self.sigma(t) / self.s(t)

    def prior_sample(self, key: Any, shape: tuple[int, ...]) -> Any:
        """x_T ~ N(0, prior_std^2 I): float32 JAX array of `shape`."""
        import jax

        return self.prior_std * jax.random.normal(key, shape)


def vp_linear(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """Variance preserving, beta(t) linear from beta_0 to beta_1 over [0, 1] (score_sde, arXiv 2011.13456, eq. 32)."""
    slope = beta_1 - beta_0

    def log_alpha_bar(t: Any) -> Any:
        return -t * (beta_0 + 0.5 * slope * t)

    def s(t: Any) -> Any:
        return _xp(t).exp(0.5 * log_alpha_bar(t))

    def sigma(t: Any) -> Any:
        xp = _xp(t)
        return xp.sqrt(-xp.expm1(log_alpha_bar(t)))

    def t_of_rho(rho: Any) -> Any:
        xp = _xp(rho)
        log_snr = xp.log1p(rho * rho)  # -log alpha_bar; the root below has no cancellation
        return 2 * log_snr / (beta_0 + xp.sqrt(beta_0**2 + 2 * slope * log_snr))

    return SDE(s, sigma, t_of_rho, t_0, T)


def vp_cosine(offset: float = 0.008, t_0: float = 1e-3, T: float = 0.9946) -> SDE:
    """Variance preserving, alpha_bar = cos^2(b(t)) / cos^2(b(0)), b(t) = (t + offset) / (1 + offset) pi/2.

    Nichol & Dhariwal, arXiv 2102.09672, eq. 17. alpha_bar reaches 0 at t = 1, so T must lie below;
    0.9946 is the value of DPM-Solver, arXiv 2206.00927.
    """
    rate = 0.5 * math.pi / (1 + offset)
    a = offset * rate

    def s(t: Any) -> Any:
        return _xp(t).cos(a + rate * t) / math.cos(a)

    def sigma(t: Any) -> Any:
        xp = _xp(t)  # cos^2 a - cos^2 b = sin(b - a) sin(b + a)
        return xp.sqrt(xp.sin(rate * t) * xp.sin(2 * a + rate * t)) / math.cos(a)

    def t_of_rho(rho: Any) -> Any:
        xp = _xp(rho)
        b = xp.arctan2(xp.sqrt(math.sin(a) ** 2 + rho * rho), math.cos(a) + 0 * rho)
        return (b - a) / rate

    return SDE(s, sigma, t_of_rho, t_0, T)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, t_0: float = 0.0, T: float = 1.0) -> SDE:
    """Variance exploding, sigma(t) = sigma_min (sigma_max / sigma_min)^t (score_sde, arXiv 2011.13456, eq. 30)."""
    growth = math.log(sigma_max / sigma_min)

    def s(t: Any) -> Any:
        return _xp(t).ones_like(t)

    def sigma(t: Any) -> Any:
        return sigma_min * _xp(t).exp(growth * t)

    def t_of_rho(rho: Any) -> Any:
        return _xp(rho).log(rho / sigma_min) / growth

    return SDE(s, sigma, t_of_rho, t_0, T, prior_std=sigma_min * math.exp(growth * T))


def VPSDE(t2alpha_fn: TimeFn, alpha2t_fn: TimeFn, sampling_eps: float, sampling_T: float) -> SDE:
    """Variance preserving from any alpha_bar(t) and its inverse (the published call).

    The functions may be written with NumPy, jax.numpy or torch. Coefficients come out in float64 all the same,
    but 1 - alpha_bar loses digits where alpha_bar is close to 1; `vp_linear` and `vp_cosine` do not.
    """
    alpha_bar, t_of_alpha_bar = _float64(t2alpha_fn), _float64(alpha2t_fn)
    return SDE(
        s=lambda t: alpha_bar(t) ** 0.5,
        sigma=lambda t: (1 - alpha_bar(t)) ** 0.5,
        t_of_rho=lambda rho: t_of_alpha_bar(1 / (1 + rho * rho)),
        t_0=sampling_eps,
        T=sampling_T,
    )


def DiscreteVPSDE(discrete_alpha: Any) -> SDE:
    """Variance preserving from the alpha_bar array of a discrete-time model (the published call).

    discrete_alpha: [N] decreasing alpha_bar_i in (0, 1). Time is the index, in [0, N - 1]; between the indices
    log rho is interpolated linearly. NumPy and JAX times only.
    """
    alpha_bar = np.asarray(discrete_alpha, np.float64)
    if (
        alpha_bar.ndim != 1
        or len(alpha_bar) < 2
        or not _decreasing(alpha_bar)
        or not 0 < alpha_bar[-1] < alpha_bar[0] < 1
    ):
        raise ValueError("discrete_alpha must be a decreasing array of at least 2 alpha_bar values between 0 and 1")
    index = np.arange(len(alpha_bar), dtype=np.float64)
    log_rho = 0.5 * np.log((1 - alpha_bar) / alpha_bar)

    def s(t: Any) -> Any:
        xp = _xp(t)
        return (1 + xp.exp(2 * xp.interp(t, index, log_rho))) ** -0.5

    def sigma(t: Any) -> Any:
        xp = _xp(t)
        return (1 + xp.exp(-2 * xp.interp(t, index, log_rho))) ** -0.5

    def t_of_rho(rho: Any) -> Any:
        xp = _xp(rho)
        return xp.interp(xp.log(rho), log_rho, index)

    return SDE(s, sigma, t_of_rho, t_0=0.0, T=float(len(alpha_bar) - 1))


def get_linear_alpha_fns(beta_0: float, beta_1: float) -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the linear VP schedule and its inverse (the published call)."""
    return _alpha_fns(vp_linear(beta_0, beta_1))


def get_cos_alpha_fns() -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the cosine VP schedule and its inverse (the published call)."""
    return _alpha_fns(vp_cosine())


def _alpha_fns(sde: SDE) -> tuple[TimeFn, TimeFn]:
    return (lambda t: sde.s(t) ** 2), (lambda alpha_bar: sde.t_of_rho(((1 - alpha_bar) / alpha_bar) ** 0.5))


def _decreasing(x: np.ndarray) -> bool:
    return bool(np.all(np.diff(x) < 0))


def _is_numpy(x: Any) -> bool:
    return isinstance(x, float | int | np.ndarray | np.generic)


def _xp(x: Any) -> ModuleType:
    """The array library of x: numpy, jax.numpy or torch."""
    if _is_numpy(x):
        return np
    if type(x).__module__.startswith("torch"):
        return sys.modules["torch"]
    return sys.modules["jax.numpy"]


def _float64(fn: TimeFn) -> TimeFn:
    """fn, with NumPy arguments answered in float64 whatever library fn is written in."""

    def call(t: Any) -> Any:
        if not _is_numpy(t):
            return fn(t)
        t = np.asarray(t, np.float64)
        try:
            value = fn(t)
        except TypeError:  # torch functions take tensors only
            if "torch" not in sys.modules:
                raise
            return fn(sys.modules["torch"].from_numpy(t)).numpy()
        if not _is_numpy(value):  # jax.numpy answers in float32 unless told otherwise
            with sys.modules["jax"].enable_x64(True):
                value = fn(t)
        return np.asarray(value, np.float64)

    return call
