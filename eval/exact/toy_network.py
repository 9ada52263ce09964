"""A small network fitted to a mixture whose exact eps is known: where a trained network is wrong.

After the analysis of DEIS (arXiv 2204.13902, section 3.1): the fitting error is largest where training draws no points,
and a solver that leaves the region of x where data are at its t suffers from it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from deis import SDE
from eval.exact.discretisation import Row, rows_of
from eval.exact.mixture import Mixture

WIDTH = 128
BATCH_SIZE = 512
FREQUENCIES = 2.0 ** np.arange(4)  # frequencies of log rho in the noise conditioning


def init(key: Array, dim: int) -> nnx.Sequential:
    """A perceptron of three hidden layers for data [*, dim], with He's initial weights and zero biases."""
    linear = partial(nnx.Linear, kernel_init=nnx.initializers.he_normal(), rngs=nnx.Rngs(key))
    hidden = [layer for _ in range(2) for layer in (linear(WIDTH, WIDTH), nnx.silu)]
    return nnx.Sequential(linear(dim + 2 * len(FREQUENCIES), WIDTH), nnx.silu, *hidden, linear(WIDTH, dim))


def predict(net: nnx.Sequential, sde: SDE, x: Float[Array, "b d"], t: Float[Array, " b"]) -> Float[Array, "b d"]:
    """eps(x, t) of the perceptron, which sees x at unit scale and log rho in waves."""
    s, sigma = sde.s(t)[:, None], sde.sigma(t)[:, None]
    phase = 0.25 * jnp.log(sigma / s) * FREQUENCIES
    return net(jnp.concatenate([x * jax.lax.rsqrt(s**2 + sigma**2), jnp.sin(phase), jnp.cos(phase)], axis=1))


@partial(jax.jit, static_argnames=("sde", "mixture", "steps"))
def fit(sde: SDE, mixture: Mixture, key: Array, steps: int) -> nnx.Sequential:
    """The network after `steps` steps of Adam on E |eps_theta(x_t, t) - z|^2, t uniform (arXiv 2006.11239, eq. 14)."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    key_init, key = jax.random.split(key)
    net = init(key_init, mixture.mean.shape[1])

    def loss(net: nnx.Sequential, key: Array) -> Array:
        keys = jax.random.split(key, 3)
        t = jax.random.uniform(keys[0], (BATCH_SIZE,), minval=sde.t_0, maxval=sde.T)
        x_0 = mixture.sample(keys[1], BATCH_SIZE)
        z = jax.random.normal(keys[2], x_0.shape)
        x = sde.s(t)[:, None] * x_0 + sde.sigma(t)[:, None] * z
        return jnp.mean((predict(net, sde, x, t) - z) ** 2)

    def step(state: tuple, key: Array) -> tuple[tuple, None]:
        net, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(net, key), moments)
        return (optax.apply_updates(net, updates), moments), None

    (net, _), _ = jax.lax.scan(step, (net, optimizer.init(net)), jax.random.split(key, steps))
    return net


@partial(jax.jit, static_argnames=("sde", "mixture"))
def error_at(
    net: nnx.Sequential, sde: SDE, mixture: Mixture, x: Float[Array, "b d"], t: Float[Array, " b"]
) -> Float[Array, " b"]:
    """|eps_theta - eps| / sqrt(d) at every (x, t)."""
    exact = mixture.eps(x, sde.s(t), sde.sigma(t))
    return jnp.sqrt(jnp.mean((predict(net, sde, x, t) - exact) ** 2, axis=1))


def error_by_time(net: nnx.Sequential, sde: SDE, mixture: Mixture, ts: ArrayLike, key: Array) -> list[Row]:
    """The root mean square error over 4,096 x ~ p_t at the times ts, of eps and of the score, -eps / sigma."""
    key_x, key_z = jax.random.split(key)
    x_0 = mixture.sample(key_x, 4096)
    z = jax.random.normal(key_z, x_0.shape)

    def error(t: Array) -> Array:
        x = sde.s(t) * x_0 + sde.sigma(t) * z
        return jnp.sqrt(jnp.mean(error_at(net, sde, mixture, x, jnp.full(len(x), t)) ** 2))

    eps_error = np.asarray(jax.lax.map(error, jnp.asarray(ts)))
    return rows_of(t=ts, eps_error=eps_error, score_error=eps_error / sde.sigma(np.asarray(ts)))


def error_map(net: nnx.Sequential, sde: SDE, mixture: Mixture, xs: ArrayLike, ts: ArrayLike) -> list[Row]:
    """|eps_theta - eps| and log p_t at every (x, t) of a grid, for a mixture in one dimension."""
    x, t = (jnp.asarray(grid.ravel(), jnp.float32) for grid in np.meshgrid(xs, ts))
    error = error_at(net, sde, mixture, x[:, None], t)
    return rows_of(t=t, x=x, eps_error=error, log_density=mixture.log_density(x[:, None], sde.s(t), sde.sigma(t)))
