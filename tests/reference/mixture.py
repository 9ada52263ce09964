"""A Gaussian mixture as the data distribution: score, density and probability-flow trajectories are known exactly."""

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp

from deis.sde import SDE


@dataclass(frozen=True)
class Mixture:
    """x_0 ~ sum_k weight_k N(mean_k, std_k^2 I). weight, std: [k]; mean: [k, d]."""

    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def sample(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Data points [batch, d]."""
        k = rng.choice(len(self.weight), size=batch, p=self.weight)
        return self.mean[k] + self.std[k, None] * rng.normal(size=(batch, self.mean.shape[1]))

    def log_density(self, x: Any, s: Any, sigma: Any, xp: ModuleType = np) -> Any:
        """log p of s x_0 + sigma z at x [batch, d]: [batch]."""
        return _log_sum_exp(self._log_terms(x, s, sigma, xp), xp)[:, 0]

    def eps(self, x: Any, s: Any, sigma: Any, xp: ModuleType = np) -> Any:
        """E[z | s x_0 + sigma z = x], which is -sigma times the score: [batch, d]."""
        log_terms = self._log_terms(x, s, sigma, xp)
        share = xp.exp(log_terms - _log_sum_exp(log_terms, xp))
        mean, std = (xp.asarray(value, x.dtype) for value in (self.mean, self.std))
        variance = s**2 * std**2 + sigma**2
        return sigma * xp.sum((share / variance)[:, :, None] * (x[:, None, :] - s * mean), axis=1)

    def x_0(self, x: Any, s: Any, sigma: Any, xp: ModuleType = np) -> Any:
        """E[x_0 | s x_0 + sigma z = x], which is finite at s = 0: [batch, d]."""
        log_terms = self._log_terms(x, s, sigma, xp)
        share = xp.exp(log_terms - _log_sum_exp(log_terms, xp))
        mean, std = (xp.asarray(value, x.dtype) for value in (self.mean, self.std))
        gain = s * std**2 / (s**2 * std**2 + sigma**2)
        return xp.sum(share[:, :, None] * (mean + gain[:, None] * (x[:, None, :] - s * mean)), axis=1)

    def eps_fn(self, sde: SDE, xp: ModuleType = np) -> Any:
        """The perfect network eps(x, t) under `sde`, and x / sigma - x_0 where s = 0, in NumPy or jax.numpy."""

        def eps_fn(x: Any, t: Any) -> Any:
            s, sigma = sde.marginal(t)
            e = self.eps(x, s, sigma, xp)
            if not sde.starts_at_noise:
                return e
            return xp.where(s == 0, x / xp.where(s == 0, sigma, 1.0) - self.x_0(x, s, sigma, xp), e)

        return eps_fn

    def flow(self, sde: SDE, x: np.ndarray, ts: np.ndarray) -> np.ndarray:
        """States [len(ts), batch, d] of the probability-flow ODE at times ts, from x at ts[0].

        In v = x / s and rho the mixture looks the same under every SDE: dv / d log rho = rho eps(v; s=1, sigma=rho).
        From pure noise, s = 0, the way to rho = 1 or ts[1] is dy / dkappa = x_0 in y = v / rho and kappa = 1 / rho.
        """

        def slope(log_rho: float, v: np.ndarray) -> np.ndarray:
            rho = np.exp(log_rho)
            return rho * self.eps(v.reshape(x.shape), 1.0, rho).ravel()

        rho = sde.rho(ts)
        if np.isinf(rho[0]):

            def rate(kappa: float, y: np.ndarray) -> np.ndarray:
                scale = (1 + kappa**2) ** -0.5
                return self.x_0(scale * y.reshape(x.shape), scale * kappa, scale).ravel()

            rho[0] = max(1.0, rho[1])
            y = (x / sde.sigma(ts[0])).ravel()
            v = rho[0] * solve_ivp(rate, (0.0, 1 / rho[0]), y, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
        else:
            v = (x / sde.s(ts[0])).ravel()
        states = [x]
        log_rho = np.log(rho)
        for start, stop, s in zip(log_rho[:-1], log_rho[1:], sde.s(ts[1:]), strict=True):
            v = solve_ivp(slope, (start, stop), v, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
            states.append(s * v.reshape(x.shape))
        return np.stack(states)

    def _log_terms(self, x: Any, s: Any, sigma: Any, xp: ModuleType) -> Any:
        weight, mean, std = (xp.asarray(value, x.dtype) for value in (self.weight, self.mean, self.std))
        variance = s**2 * std**2 + sigma**2
        square = xp.sum((x[:, None, :] - s * mean) ** 2, axis=2)
        return xp.log(weight) - 0.5 * square / variance - 0.5 * mean.shape[1] * xp.log(2 * np.pi * variance)


def _log_sum_exp(terms: Any, xp: ModuleType) -> Any:
    if xp is jnp:  # without the derivative of a maximum, which is NaN where compiled code computes the terms twice
        return jax.nn.logsumexp(terms, axis=1, keepdims=True)
    top = xp.max(terms, axis=1, keepdims=True)
    return top + xp.log(xp.sum(xp.exp(terms - top), axis=1, keepdims=True))


MIXTURE = Mixture(
    weight=np.array([0.5, 0.3, 0.2]),
    mean=np.array([[0.8, -0.6], [-1.0, 0.2], [0.3, 1.1]]),
    std=np.array([0.45, 0.6, 0.5]),
)
