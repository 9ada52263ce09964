"""Diffusions as functions of time.

Every diffusion here has a scalar Gaussian kernel `x_t = s(t) x_0 + sigma(t) eps`, so it is the two functions
`s` and `sigma`. The noise-to-signal ratio `rho = sigma / s` is strictly increasing, and in `v = x / s(t)` the
probability-flow ODE loses its stiff linear part (DEIS, arXiv 2204.13902, section 3):

    dv/drho = eps_theta(s(t) v, t),    t = t(rho)

Times are in the units of the SDE. The functions answer in the array library they are asked in; asked with
NumPy arrays they answer in float64, which is what the solver tables are made of.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deis.timefn import TimeFn, array_library, as_float64, derivative


@dataclass(frozen=True)
class SDE:
    """A diffusion `x_t = s(t) x_0 + sigma(t) eps` on [t_0, T].

    s, sigma: elementwise functions of time, written with NumPy, jax.numpy or torch.
    t_of_rho: inverse of `rho(t) = sigma(t) / s(t)`.
    t_0, T: where sampling ends and starts, t_0 < T.
    prior_std: standard deviation of x_T, per element.
    is_discrete: whether the network knows whole times only, from 0 to T.
    Raises ValueError if rho does not grow from t_0 to T.
    """

    s: TimeFn
    sigma: TimeFn
    t_of_rho: TimeFn
    t_0: float
    T: float
    prior_std: float = 1.0
    is_discrete: bool = False

    def __post_init__(self) -> None:
        for name in ("s", "sigma", "t_of_rho"):
            object.__setattr__(self, name, as_float64(getattr(self, name)))
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

    def marginal(self, t: Any) -> tuple[Any, Any]:
        """(s(t), sigma(t)): mean s x_0 and standard deviation sigma of x_t given x_0."""
        return self.s(t), self.sigma(t)

    def drift(self, x: Any, t: Any) -> Any:
        """f(t) x of the forward SDE dx = f(t) x dt + g(t) dw, f = d log s / dt; t broadcasts against x."""
        return x * (derivative(self.s)(t) / self.s(t))

    def diffusion(self, t: Any) -> Any:
        """g(t) of the forward SDE, shaped like t: g^2 = s^2 d(rho^2)/dt = d(sigma^2)/dt - 2 f sigma^2."""
        f = derivative(self.s)(t) / self.s(t)
        variance_rate = derivative(lambda t: self.sigma(t) ** 2)(t)
        return (variance_rate - 2 * f * self.sigma(t) ** 2) ** 0.5

    def prior_sample(self, key: Any, shape: tuple[int, ...]) -> Any:
        """x_T ~ N(0, prior_std^2 I) of `shape`, in the library that key comes from.

        key: a JAX key (the answer is float32), a np.random.Generator (float64), or a torch.Generator (torch's
            default dtype, on the generator's device).
        """
        if isinstance(key, np.random.Generator):
            return self.prior_std * key.standard_normal(shape)
        if type(key).__module__.startswith("torch"):
            import torch

            return self.prior_std * torch.randn(shape, generator=key, device=key.device)
        import jax

        return self.prior_std * jax.random.normal(key, shape)

    def prior_logp(self, x: Any) -> Any:
        """log density of N(0, prior_std^2 I) at x [batch, ...], in nats: [batch], in x's library and dtype."""
        z = x.reshape(x.shape[0], -1) / self.prior_std
        constant = z.shape[1] * math.log(self.prior_std * math.sqrt(2 * math.pi))
        return -0.5 * (z * z).sum(1) - constant


def vp_linear(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """Variance preserving, beta(t) linear from beta_0 to beta_1 over [0, 1] (score_sde, arXiv 2011.13456, eq. 32)."""
    s, log_alpha_bar, t_of_log_alpha_bar = _linear_beta(beta_0, beta_1)

    def sigma(t: Any) -> Any:
        xp = array_library(t)
        return xp.sqrt(-xp.expm1(log_alpha_bar(t)))

    def t_of_rho(rho: Any) -> Any:
        return t_of_log_alpha_bar(-array_library(rho).log1p(rho * rho))

    return SDE(s, sigma, t_of_rho, t_0, T)


def sub_vp(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """sub-VP: s = sqrt(alpha_bar) and sigma = 1 - alpha_bar, linear beta (score_sde, arXiv 2011.13456, eq. 29).

    rho = alpha_bar^(-1/2) - alpha_bar^(1/2) = 2 sinh(-1/2 log alpha_bar), which gives the inverse.
    """
    s, log_alpha_bar, t_of_log_alpha_bar = _linear_beta(beta_0, beta_1)

    def sigma(t: Any) -> Any:
        return -array_library(t).expm1(log_alpha_bar(t))

    def t_of_rho(rho: Any) -> Any:
        return t_of_log_alpha_bar(-2 * array_library(rho).arcsinh(0.5 * rho))

    return SDE(s, sigma, t_of_rho, t_0, T)


def vp_cosine(offset: float = 0.008, t_0: float = 1e-3, T: float = 0.9946) -> SDE:
    """Variance preserving, alpha_bar = cos^2(b(t)) / cos^2(b(0)), b(t) = (t + offset) / (1 + offset) pi/2.

    Nichol & Dhariwal, arXiv 2102.09672, eq. 17. alpha_bar reaches 0 at t = 1, so T must lie below;
    0.9946 is the value of DPM-Solver, arXiv 2206.00927.
    """
    rate = 0.5 * math.pi / (1 + offset)
    a = offset * rate

    def s(t: Any) -> Any:
        return array_library(t).sin(rate * (1 - t)) / math.cos(a)  # cos b, which cancels less as a sine near t = 1

    def sigma(t: Any) -> Any:
        xp = array_library(t)  # cos^2 a - cos^2 b = sin(b - a) sin(b + a)
        return xp.sqrt(xp.sin(rate * t) * xp.sin(2 * a + rate * t)) / math.cos(a)

    def t_of_rho(rho: Any) -> Any:
        xp = array_library(rho)
        tangent = xp.sqrt(math.sin(a) ** 2 + rho * rho)  # cos a tan b; below, b - a without the difference
        numerator = math.cos(a) * rho * rho / (tangent + math.sin(a))
        return xp.arctan2(numerator, math.cos(a) ** 2 + math.sin(a) * tangent) / rate

    return SDE(s, sigma, t_of_rho, t_0, T)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, t_0: float = 0.0, T: float = 1.0) -> SDE:
    """Variance exploding, sigma(t) = sigma_min (sigma_max / sigma_min)^t (score_sde, arXiv 2011.13456, eq. 30)."""
    growth = math.log(sigma_max / sigma_min)

    def sigma(t: Any) -> Any:
        return sigma_min * array_library(t).exp(growth * t)

    def t_of_rho(rho: Any) -> Any:
        return array_library(rho).log(rho / sigma_min) / growth

    return SDE(_one, sigma, t_of_rho, t_0, T, prior_std=sigma_min * math.exp(growth * T))


def edm(t_0: float = 0.002, T: float = 80.0) -> SDE:
    """Variance exploding with sigma as time: s = 1, sigma = t (EDM, arXiv 2206.00364, table 1)."""
    return SDE(_one, sigma=lambda t: 1.0 * t, t_of_rho=lambda rho: 1.0 * rho, t_0=t_0, T=T, prior_std=T)


def VPSDE(t2alpha_fn: TimeFn, alpha2t_fn: TimeFn, sampling_eps: float, sampling_T: float) -> SDE:
    """Variance preserving from any alpha_bar(t) and its inverse (the published call).

    The functions may be written with NumPy, jax.numpy or torch. Coefficients come out in float64 all the same,
    but 1 - alpha_bar loses digits where alpha_bar is close to 1; `vp_linear` and `vp_cosine` do not.
    """
    return SDE(
        s=lambda t: t2alpha_fn(t) ** 0.5,
        sigma=lambda t: (1 - t2alpha_fn(t)) ** 0.5,
        t_of_rho=lambda rho: alpha2t_fn(1 / (1 + rho * rho)),
        t_0=sampling_eps,
        T=sampling_T,
    )


def get_linear_alpha_fns(beta_0: float, beta_1: float) -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the linear VP schedule and its inverse (the published call)."""
    return _alpha_fns(vp_linear(beta_0, beta_1))


def get_cos_alpha_fns() -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the cosine VP schedule and its inverse (the published call).

    As in Nichol & Dhariwal, arXiv 2102.09672, eq. 17, alpha_bar is divided by its value at 0, so that it is 1 there.
    The code published with DEIS leaves that out: give `VPSDE` its alpha_bar(t) = cos((t + 0.008) / 1.008 pi/2)^2 and
    the inverse of that.
    """
    return _alpha_fns(vp_cosine())


def _alpha_fns(sde: SDE) -> tuple[TimeFn, TimeFn]:
    return (lambda t: sde.s(t) ** 2), (lambda alpha_bar: sde.t_of_rho(((1 - alpha_bar) / alpha_bar) ** 0.5))


def _one(t: Any) -> Any:
    return 1.0 + 0.0 * t


def _linear_beta(beta_0: float, beta_1: float) -> tuple[TimeFn, TimeFn, TimeFn]:
    """sqrt(alpha_bar(t)), log alpha_bar(t) = -(integral of beta over [0, t]) and the inverse of the latter."""
    slope = beta_1 - beta_0

    def s(t: Any) -> Any:
        return array_library(t).exp(0.5 * log_alpha_bar(t))

    def log_alpha_bar(t: Any) -> Any:
        return -t * (beta_0 + 0.5 * slope * t)

    def inverse(log_alpha_bar: Any) -> Any:  # the root without cancellation
        return -2 * log_alpha_bar / (beta_0 + array_library(log_alpha_bar).sqrt(beta_0**2 - 2 * slope * log_alpha_bar))

    return s, log_alpha_bar, inverse
