"""The score network as the solvers see it: a prediction of the noise, whatever it was trained to predict."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deis import SDE
from deis.wrappers import PREDICTIONS, prediction_weights

Params = Any
Images = Float[Array, "b h w c"]
Labels = Int[Array, " b"] | None

TIME_INPUTS: dict[str, Callable[[SDE, Any], Any]] = {
    "t": lambda sde, t: t,
    "t_999": lambda sde, t: 999 * t / sde.T,
    "t_plus_1": lambda sde, t: t + 1,
    "flow_1000": lambda sde, t: 1000 * sde.sigma(t),
    "sigma": lambda sde, t: sde.rho(t),
    "log_sigma": lambda sde, t: jnp.log(sde.rho(t)),
    "log_half_sigma": lambda sde, t: jnp.log(sde.rho(t) / 2),
    "log_sigma_4": lambda sde, t: jnp.log(sde.rho(t)) / 4,
}
"""Noise conditioning: how the time t is encoded for the network (c_noise of EDM). sigma is that of x / s(t), rho(t).

t_999 is score_sde's and DDPM's, t_plus_1 that of DDIM's CelebA network, flow_1000 that of flow models
(of sigma itself, not of sigma / s), log_sigma NCSN++'s, log_half_sigma NCSN++'s
when it was trained on images in [0, 1], log_sigma_4 EDM's.
"""


class Network(NamedTuple):
    """A score network as a pure function, and the meaning of its arguments and its output.

    apply(params, x [b, h, w, c], time [b], label [b] or None, dropout_keys [b] or None) -> float32 [b, h, w, c].
    time: its noise conditioning, a name in TIME_INPUTS.
    input: "x", or "unit" for x scaled to unit variance, where the data's standard deviation is sigma_data.
    output: a prediction in `deis.wrappers.PREDICTIONS`, "sigma_score" (sigma times the score) or "edm"
        (F of arXiv 2206.00364, eq. 7).
    null_label: the label that stands for no class, or None if there is no such label.
    """

    apply: Callable[..., Images]
    time: str = "t_999"
    input: str = "unit"
    output: str = "eps"
    sigma_data: float = 1.0
    null_label: int | None = None


def predict_eps(
    network: Network,
    sde: SDE,
    params: Params,
    x: Images,
    t: Float[Array, " b"],
    label: Labels = None,
    dropout_keys: PRNGKeyArray | None = None,
) -> Images:
    """eps_theta(x, t): the network's estimate of the noise in x, for times t in [t_0, T], float32.

    Where s(T) = 0 it is x / sigma - x_0 at T, as in `deis.sde.kernel`.
    """
    s, sigma = per_image(sde.s(t)), per_image(sde.sigma(t))
    at_noise = sde.starts_at_noise
    a, b = prediction_weights(sde, network.output, s, sigma) if at_noise else eps_weights(network, s, sigma)
    return a * x + b * predict(network, sde, params, x, t, label, dropout_keys)


def predict(
    network: Network,
    sde: SDE,
    params: Params,
    x: Images,
    t: Float[Array, " b"],
    label: Labels = None,
    dropout_keys: PRNGKeyArray | None = None,
) -> Images:
    """The preconditioned network's output at (x, t), named by `network.output`, for times t in [t_0, T], float32."""
    s, sigma = per_image(sde.s(t)), per_image(sde.sigma(t))
    scale = jax.lax.rsqrt((s * network.sigma_data) ** 2 + sigma**2) if network.input == "unit" else 1.0
    return network.apply(params, scale * x, TIME_INPUTS[network.time](sde, t), label, dropout_keys)


def eps_weights(network: Network, s: Any, sigma: Any) -> tuple[Any, Any]:
    """(a, b) in eps = a x + b output, shaped like s and sigma, or numbers where they do not depend on the time."""
    if network.output == "sigma_score":
        return 0.0, -1.0
    if network.output == "edm":  # eps = (v - D) / rho with D = c_skip v + c_out F and v = x / s
        variance = (s * network.sigma_data) ** 2 + sigma**2
        return sigma / variance, -s * network.sigma_data * jax.lax.rsqrt(variance)
    return PREDICTIONS[network.output](s, sigma)


def eps_fn(network: Network, sde: SDE, params: Params, label: Labels = None) -> jax.tree_util.Partial:
    """The network as `deis.sample` takes it, a function of (x [b, h, w, c], scalar t).

    Parameters and labels are arguments of the compiled code, so that other values do not compile again.
    """
    return jax.tree_util.Partial(_eps_at(network, sde), params, label)


@lru_cache
def _eps_at(network: Network, sde: SDE) -> Callable[..., Images]:
    def eps_at(params: Params, label: Labels, x: Images, t: Float[Array, ""]) -> Images:
        return predict_eps(network, sde, params, over_devices(x), jnp.full(len(x), t), label)

    return eps_at


def over_devices(x: Images) -> Images:
    """The batch laid over this process's devices, where their number divides it: else each would compute the whole."""
    devices = jax.local_devices()
    if len(devices) == 1 or len(x) % len(devices):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data")))


def per_image(value: Float[Array, " b"]) -> Float[Array, "b 1 1 1"]:
    """One number per image, shaped to multiply images."""
    return value[:, None, None, None]
