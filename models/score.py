"""The score network as the solvers see it, and the loss that fits it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deis import SDE

Params = Any
Images = Float[Array, "b h w c"]
Labels = Int[Array, " b"] | None
Network = Callable[..., Images]  # network(params, x, t, label, dropout_key), t in [0, 999]


def predict_eps(
    network: Network,
    sde: SDE,
    params: Params,
    x: Images,
    t: Float[Array, " b"],
    label: Labels = None,
    dropout_key: PRNGKeyArray | None = None,
) -> Images:
    """eps_theta(x, t): the network's estimate of the noise in x, for times t in [t_0, T], float32.

    The network sees x scaled to about unit variance, and t scaled to the range of its embedding, [0, 999]
    (Ho et al., arXiv 2006.11239).
    """
    s, sigma = _per_image(sde.s(t)), _per_image(sde.sigma(t))
    scale = jax.lax.rsqrt(s**2 + sigma**2)
    return network(params, scale * x, 999.0 * t / sde.T, label, dropout_key)


def eps_fn(network: Network, sde: SDE, params: Params, label: Labels = None) -> jax.tree_util.Partial:
    """The network as `deis.sample` takes it, a function of (x [b, h, w, c], scalar t).

    Parameters and labels are arguments of the compiled code, so others do not compile again.
    """
    return jax.tree_util.Partial(_eps_at(network, sde), params, label)


@lru_cache
def _eps_at(network: Network, sde: SDE) -> Callable[..., Images]:
    def eps_at(params: Params, label: Labels, x: Images, t: Float[Array, ""]) -> Images:
        return predict_eps(network, sde, params, x, jnp.full(len(x), t), label)

    return eps_at


def dsm_loss(
    network: Network,
    sde: SDE,
    params: Params,
    x_0: Images,
    label: Labels,
    key: PRNGKeyArray,
    dropout: bool = True,
) -> Float[Array, ""]:
    """Denoising score matching in its eps form: |eps_theta(s x_0 + sigma eps, t) - eps|^2, mean over elements.

    t ~ U[t_0, T], stratified: one draw from each of b equal intervals, which lowers the loss's variance
    (Ho et al., arXiv 2006.11239, eq. 14; Song et al., arXiv 2011.13456, eq. 7).
    """
    t_key, eps_key, dropout_key = jax.random.split(key, 3)
    b = len(x_0)
    t = sde.t_0 + (sde.T - sde.t_0) * (jnp.arange(b) + jax.random.uniform(t_key, (b,))) / b
    eps = jax.random.normal(eps_key, x_0.shape)
    x_t = _per_image(sde.s(t)) * x_0 + _per_image(sde.sigma(t)) * eps
    predicted = predict_eps(network, sde, params, x_t, t, label, dropout_key if dropout else None)
    return jnp.mean((predicted - eps) ** 2)


def _per_image(value: Float[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    return value[:, None, None, None]
