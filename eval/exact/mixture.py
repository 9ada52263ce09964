"""A Gaussian mixture as the data: under any diffusion its eps, the perfect network, is known exactly."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from deis import SDE
from deis.sampler import EpsFn


@dataclass(frozen=True, eq=False)
class Mixture:
    """x_0 ~ sum_k weight_k N(mean_k, std_k^2 I). weight, std: [k]; mean: [k, d]."""

    weight: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def sample(self, key: Array, batch: int) -> Float[Array, "batch d"]:
        """Data, float32."""
        key_k, key_z = jax.random.split(key)
        k = jax.random.choice(key_k, len(self.weight), (batch,), p=jnp.asarray(self.weight))
        z = jax.random.normal(key_z, (batch, self.mean.shape[1]))
        return jnp.asarray(self.mean)[k] + jnp.asarray(self.std)[k, None] * z

    def log_density(self, x: Float[Array | np.ndarray, "batch d"], s: Any, sigma: Any) -> Float[Array, " batch"]:
        """log p of s x_0 + sigma z at x, in nats. s, sigma: scalars, or [batch]."""
        s, sigma = jnp.asarray(s)[..., None], jnp.asarray(sigma)[..., None]
        weight, mean, std = (jnp.asarray(value, x.dtype) for value in (self.weight, self.mean, self.std))
        variance = s**2 * std**2 + sigma**2
        square = jnp.sum((x[:, None, :] - s[..., None] * mean) ** 2, axis=2)
        normaliser = 0.5 * self.mean.shape[1] * jnp.log(2 * jnp.pi * variance)
        return jax.nn.logsumexp(jnp.log(weight) - 0.5 * square / variance - normaliser, axis=1)

    def eps(self, x: Float[Array | np.ndarray, "batch d"], s: Any, sigma: Any) -> Float[Array, "batch d"]:
        """E[z | s x_0 + sigma z = x], which is -sigma times the score."""
        score = jax.grad(lambda x: jnp.sum(self.log_density(x, s, sigma)))(x)
        return -jnp.asarray(sigma)[..., None] * score

    def eps_fn(self, sde: SDE) -> EpsFn:
        """The perfect network eps(x, t) under `sde`."""
        return lambda x, t: self.eps(x, sde.s(t), sde.sigma(t))


IN_1D = Mixture(np.array([0.3, 0.5, 0.2]), np.array([[-0.8], [0.1], [0.9]]), np.array([0.08, 0.15, 0.05]))
IN_2D = Mixture(
    np.array([0.3, 0.3, 0.2, 0.2]), np.array([[0.8, 0.2], [-0.5, 0.7], [-0.6, -0.6], [0.3, -0.8]]), np.full(4, 0.1)
)
"""Narrow clusters within [-1, 1], where pixels lie: trajectories turn, and turn late, as those of images do."""
