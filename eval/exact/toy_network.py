"""A small network fitted to a mixture whose exact eps is known: where a trained network is wrong.

After the analysis of DEIS (arXiv 2204.13902, section 3.1): the fitting error is largest where training draws no points,
and a solver that leaves the region of x where data are at its t suffers from it.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from deis import SDE
from eval.exact.discretisation import Row, rows_of
from eval.exact.mixture import Mixture

Params = list[tuple[Array, Array]]

WIDTHS = (128, 128, 128)
BATCH_SIZE = 512
PEAK_RATE = 3e-3
FREQUENCIES = 2.0 ** np.arange(4)  # frequencies of log rho in the noise conditioning


def predict(params: Params, sde: SDE, x: Float[Array, "b d"], t: Float[Array, " b"]) -> Float[Array, "b d"]:
    """eps(x, t) of a multilayer perceptron, which sees x at unit scale and log rho in waves."""
    s, sigma = sde.s(t)[:, None], sde.sigma(t)[:, None]
    phase = 0.25 * jnp.log(sigma / s) * FREQUENCIES
    hidden = jnp.concatenate([x * jax.lax.rsqrt(s**2 + sigma**2), jnp.sin(phase), jnp.cos(phase)], axis=1)
    for weight, bias in params[:-1]:
        hidden = jax.nn.silu(hidden @ weight + bias)
    weight, bias = params[-1]
    return hidden @ weight + bias


def init(key: Array, dim: int) -> Params:
    """He's initial weights for data [*, dim], with zero biases."""
    shapes = list(pairwise((dim + 2 * len(FREQUENCIES), *WIDTHS, dim)))
    scaled = zip(jax.random.split(key, len(shapes)), shapes, strict=True)
    return [(jnp.sqrt(2 / shape[0]) * jax.random.normal(key, shape), jnp.zeros(shape[1])) for key, shape in scaled]


@partial(jax.jit, static_argnames=("sde", "mixture", "steps"))
def fit(sde: SDE, mixture: Mixture, key: Array, steps: int) -> Params:
    """Parameters after `steps` steps of Adam on E |eps_theta(x_t, t) - z|^2, t uniform (arXiv 2006.11239, eq. 14)."""
    optimizer = optax.adam(optax.cosine_decay_schedule(PEAK_RATE, steps))
    key_init, key = jax.random.split(key)
    params = init(key_init, mixture.mean.shape[1])

    def loss(params: Params, key: Array) -> Array:
        keys = jax.random.split(key, 3)
        t = jax.random.uniform(keys[0], (BATCH_SIZE,), minval=sde.t_0, maxval=sde.T)
        x_0 = mixture.sample(keys[1], BATCH_SIZE)
        z = jax.random.normal(keys[2], x_0.shape)
        x = sde.s(t)[:, None] * x_0 + sde.sigma(t)[:, None] * z
        return jnp.mean((predict(params, sde, x, t) - z) ** 2)

    def step(state: tuple, key: Array) -> tuple[tuple, None]:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))
    return params


@partial(jax.jit, static_argnames=("sde", "mixture"))
def error_at(
    params: Params, sde: SDE, mixture: Mixture, x: Float[Array, "b d"], t: Float[Array, " b"]
) -> Float[Array, " b"]:
    """|eps_theta - eps| / sqrt(d) at every (x, t)."""
    exact = mixture.eps(x, sde.s(t), sde.sigma(t))
    return jnp.sqrt(jnp.mean((predict(params, sde, x, t) - exact) ** 2, axis=1))


def error_by_time(
    params: Params, sde: SDE, mixture: Mixture, ts: Sequence[float] | np.ndarray, key: Array
) -> list[Row]:
    """The root mean square error over 4,096 x ~ p_t at the times ts, of eps and of the score, -eps / sigma."""
    key_x, key_z = jax.random.split(key)
    x_0 = mixture.sample(key_x, 4096)
    z = jax.random.normal(key_z, x_0.shape)
    s, sigma = sde.marginal(np.asarray(ts))
    errors = [
        error_at(params, sde, mixture, s[i] * x_0 + sigma[i] * z, jnp.full(len(x_0), t)) for i, t in enumerate(ts)
    ]
    eps_error = np.sqrt(np.mean(np.square(errors), axis=1))
    return rows_of(t=ts, eps_error=eps_error, score_error=eps_error / sigma)


def error_map(
    params: Params, sde: SDE, mixture: Mixture, xs: Sequence[float] | np.ndarray, ts: Sequence[float] | np.ndarray
) -> list[Row]:
    """|eps_theta - eps| and log p_t at every (x, t) of a grid, for a mixture in one dimension."""
    x, t = (jnp.asarray(grid.ravel(), jnp.float32) for grid in np.meshgrid(xs, ts))
    error = error_at(params, sde, mixture, x[:, None], t)
    return rows_of(t=t, x=x, eps_error=error, log_density=mixture.log_density(x[:, None], sde.s(t), sde.sigma(t)))
