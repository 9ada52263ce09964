"""Diffusions as functions of time.

Every diffusion here has a scalar Gaussian kernel `x_t = s(t) x_0 + sigma(t) eps`, so it is the two functions
`s` and `sigma`. The noise-to-signal ratio `rho = sigma / s` is strictly increasing, and in `v = x / s(t)` the
probability-flow ODE loses its stiff linear part (DEIS, arXiv 2204.13902, section 3):

    dv/drho = eps_theta(s(t) v, t),    t = t(rho)

Where s(T) = 0 (flow matching, zero terminal SNR), x_T is pure noise, rho(T) is infinite, and eps = x_T / sigma says
nothing: what counts there is the predicted x_0. So at s = 0, and there alone, "eps" means

    e = x / sigma - x_0,    with which x_0 = u - rho e holds as everywhere for u = x / s, if s and rho read sigma and 1

`SDE.evaluation` answers these. A network of eps or of the score cannot be asked there.

Times are in the units of the SDE. The functions answer in the array library they are asked in; asked with
NumPy arrays they answer in float64, which is what the solver tables are made of.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from deis.errors import annotations, as_type, require, shown
from deis.sde.timefn import TimeFn, array_library, as_float64, derivative, wide


@dataclass(frozen=True)
class SDE:
    """A diffusion `x_t = s(t) x_0 + sigma(t) eps` on [t_0, T].

    s, sigma: elementwise functions of time, written with NumPy, jax.numpy or torch.
    t_of_rho: inverse of `rho(t) = sigma(t) / s(t)`.
    t_0, T: where sampling ends and starts, t_0 < T.
    prior_std: standard deviation of x_T, per element.
    is_discrete: whether the network knows whole times only, from 0 to T.
    prior_is_sigma: whether prior_std is sigma(T), whatever is given for it, so that it follows another T.
    Raises ValueError if prior_std is not positive, if rho does not grow everywhere from t_0 to T, is infinite at T
        though s(T) is not 0, or is not what t_of_rho inverts.
    """

    s: TimeFn
    sigma: TimeFn
    t_of_rho: TimeFn
    t_0: float
    T: float
    prior_std: float = 1.0
    is_discrete: bool = False
    prior_is_sigma: bool = False

    def __post_init__(self) -> None:
        for name, kind in annotations(SDE).items():
            object.__setattr__(self, name, as_type(name, getattr(self, name), kind))
        for name in ("s", "sigma", "t_of_rho"):
            object.__setattr__(self, name, as_float64(getattr(self, name)))
        is_finite = -math.inf < self.t_0 < self.T < math.inf
        require(is_finite, f"t_0 must lie below T, both finite, got t_0={self.t_0:g} and T={self.T:g}")
        if self.starts_at_noise:
            object.__setattr__(self, "t_of_rho", _up_to_infinity(self.t_of_rho, self.T))
        with np.errstate(invalid="ignore"):
            rho = self.rho(np.linspace(self.t_0, self.T, 33))
        rho_0, rho_T = rho[[0, -1]]
        if not (rho_0 >= 0 and np.all(rho[:-1] < rho[1:])) or (math.isinf(rho_T) and not self.starts_at_noise):
            raise ValueError(
                f"sigma(t)/s(t) must grow everywhere from t_0={self.t_0:g} to T={self.T:g} and stay finite, "
                f"got {rho_0:g} and {rho_T:g} at the ends; move t_0 or T"
            )
        middle = 0.5 * (self.t_0 + self.T)
        if not abs(found := self.t_of_rho(self.rho(middle)) - middle) <= 0.01 * (self.T - self.t_0):
            raise ValueError(
                f"t_of_rho must be the inverse of sigma(t)/s(t), but takes that of t={middle:g} to {middle + found:g}"
            )
        require(0 < self.prior_std < math.inf, f"prior_std must be positive and finite, got {self.prior_std:g}")
        if self.prior_is_sigma:
            object.__setattr__(self, "prior_std", float(self.sigma(self.T)))

    def rho(self, t: Any) -> Any:
        """Noise-to-signal ratio sigma(t) / s(t), infinite where s(t) = 0."""
        with np.errstate(divide="ignore"):
            return self.sigma(t) / self.s(t)

    @cached_property
    def starts_at_noise(self) -> bool:
        """Whether s(T) = 0, so that x_T holds nothing of the data."""
        return bool(self.s(np.array(self.T)) == 0)

    def evaluation(self, t: Any) -> tuple[Any, Any]:
        """(s(t), rho(t)) as in x_0 = x / s - rho e for the e that a solver asks for at t; (sigma(t), 1) where s = 0."""
        s, sigma = self.marginal(t)
        if self.starts_at_noise:
            s = array_library(s).where(s == 0, sigma, s)
        return s, sigma / s

    def refuse_noise(self, what: str) -> None:
        """Raise ValueError if s(T) = 0, where `what` has no meaning."""
        if self.starts_at_noise:
            raise ValueError(
                f"{what} has no meaning at T={self.T:g}, where s = 0 and x is pure noise; let the SDE end below: "
                "dataclasses.replace(sde, T=...)"
            )

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
        if not hasattr(key, "dtype"):
            raise ValueError(f"key must be jax.random.key(seed), a NumPy or a torch Generator, got {shown(key)}")
        import jax

        return self.prior_std * jax.random.normal(key, shape)

    def prior_logp(self, x: Any) -> Any:
        """log density of N(0, prior_std^2 I) at x [batch, ...], in nats: [batch], in x's library, at least float32."""
        z = wide(x).reshape(x.shape[0], -1) / self.prior_std
        constant = z.shape[1] * math.log(self.prior_std * math.sqrt(2 * math.pi))
        return -0.5 * (z * z).sum(1) - constant


def _up_to_infinity(t_of_rho: TimeFn, T: float) -> TimeFn:
    """t_of_rho with the time T at an infinite ratio, where a formula may be infinity by infinity."""

    def call(rho: Any) -> Any:
        xp = array_library(rho)
        is_infinite = xp.isinf(rho)
        return xp.where(is_infinite, T, t_of_rho(xp.where(is_infinite, 1.0, rho)))

    return call
