"""The training objective: the weighted error of the predicted noise at random times.

    mean over t of w(t) |eps_theta(s(t) x_0 + sigma(t) eps, t) - eps|^2,    |.|^2 being a mean over the image's elements

Every objective in use is a weight w and a way to draw t (Kingma & Gao, arXiv 2303.00848). What the network
predicts is another matter: the weights below hold for every `Network.output`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from deis import SDE
from deis.sde.timefn import derivative
from models.config import UNetConfig, validate_diffusion
from models.score import Images, Labels, Network, Params, eps_weights, per_image, predict
from models.training.config import ObjectiveConfig

NUM_LEVELS = 8
INVISIBLE = 1e-3  # a noise-to-signal ratio far below the step of 2/255 between two grey levels

PerImage = Float[Array, " b"]


class Examples(NamedTuple):
    """A batch or a micro-batch of it; the labels are None for a network without classes.

    indices: of the images in the whole batch, from 0. An image's random numbers follow from its index, so that they do
        not depend on micro-batches nor on devices.
    """

    images: Images
    label: Labels
    indices: Int[Array, " b"]


def _log_rho_rate(sde: SDE, t: PerImage) -> PerImage:
    """d log rho / dt, which is g^2 / (2 sigma^2) since g^2 = s^2 d(rho^2)/dt."""
    return derivative(sde.rho)(t) / sde.rho(t)


def _rho_range(sde: SDE) -> tuple[float, float]:
    return float(sde.rho(sde.t_0)), float(sde.rho(sde.T))


WEIGHTS: dict[str, Callable[[ObjectiveConfig, Network, SDE, PerImage], Any]] = {
    "eps": lambda cfg, network, sde, t: 1.0,
    "likelihood": lambda cfg, network, sde, t: 2 * _log_rho_rate(sde, t),
    "min_snr": lambda cfg, network, sde, t: jnp.minimum(1.0, cfg.snr_gamma * sde.rho(t) ** 2),
    "edm": lambda cfg, network, sde, t: 1 + (sde.rho(t) / network.sigma_data) ** 2,
    "output": lambda cfg, network, sde, t: eps_weights(network, *sde.marginal(t))[1] ** -2,
}
"""w(t), the weight of the error of eps.

eps: all noise levels alike, Ho et al., arXiv 2006.11239, eq. 14.
likelihood: g^2 |error of the score|^2, twice the integrand of a bound on the negative log-likelihood (Song et al.,
    arXiv 2101.09258, theorem 1).
min_snr: min(SNR, gamma) |error of x_0|^2 with SNR = 1 / rho^2 (Hang et al., arXiv 2303.09556).
edm: |error of F|^2, which is lambda(sigma) |error of x_0|^2 (Karras et al., arXiv 2206.00364, eq. 8 and table 1).
output: |error of the network's output|^2, so of x_0 for x_0, of v for v.
"""

FROM_NOISE = ("eps", "min_snr", "output")
"""The weights that are finite where s(T) = 0. There, that of eps leaves nothing of the error at T."""

TARGETS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "x_0": lambda x_0, eps, s, sigma: x_0,
    "v": lambda x_0, eps, s, sigma: s * eps - sigma * x_0,
    "flow": lambda x_0, eps, s, sigma: eps - x_0,
}
"""What a network should answer where s(T) = 0: there it cannot be told from eps, which is a multiple of x."""


def _importance(cfg: ObjectiveConfig, sde: SDE, u: PerImage) -> tuple[PerImage, Any]:
    low, high = map(math.log, _rho_range(sde))
    t = sde.t_of_rho(jnp.exp(low + (high - low) * u))
    return t, (high - low) / (sde.T - sde.t_0) / _log_rho_rate(sde, t)


def _discrete(cfg: ObjectiveConfig, sde: SDE, u: PerImage) -> tuple[PerImage, Any]:
    last = cfg.num_times - 1
    return sde.t_0 + jnp.minimum(jnp.floor(cfg.num_times * u), last) * ((sde.T - sde.t_0) / last), 1.0


def _log_normal(cfg: ObjectiveConfig, sde: SDE, u: PerImage) -> tuple[PerImage, Any]:
    rho = jnp.exp(cfg.log_sigma_mean + cfg.log_sigma_std * jax.scipy.special.ndtri(u))
    return sde.t_of_rho(rho.clip(*_rho_range(sde))), 1.0


TIME_DISTRIBUTIONS: dict[str, Callable[[ObjectiveConfig, SDE, PerImage], tuple[PerImage, Any]]] = {
    "uniform": lambda cfg, sde, u: (sde.t_0 + (sde.T - sde.t_0) * u, 1.0),
    "importance": _importance,
    "discrete": _discrete,
    "log_normal": _log_normal,
}
"""How t is drawn: each function maps u, uniform in [0, 1], to the u-quantile of all times and a factor of the weight.

uniform: over [t_0, T] (score_sde, arXiv 2011.13456, eq. 7).
importance: with the density of the likelihood weight g^2 / sigma^2 = 2 d log rho / dt, so that log rho is uniform (Song
    et al., arXiv 2101.09258). The factor makes up for the density: the loss estimates that with uniform times.
discrete: one of num_times evenly spaced times from t_0 to T, as in DDPM; the indices of a `DiscreteVPSDE` of as many.
log_normal: ln rho ~ N(log_sigma_mean, log_sigma_std^2), cut off at the ends (arXiv 2206.00364, table 1). This density
    is part of the objective. In flow matching, rho = t / (1 - t) makes it the logit-normal one (arXiv 2403.03206).
"""


def validate_objective(cfg: ObjectiveConfig, model: UNetConfig, sde: SDE) -> None:
    """Raise ValueError, naming the option and what is allowed, for an objective that this network cannot minimise."""
    for name, given, allowed in (("weight", cfg.weight, WEIGHTS), ("times", cfg.times, TIME_DISTRIBUTIONS)):
        if given not in allowed:
            raise ValueError(f"objective.{name} must be one of {', '.join(allowed)}, got {given!r}")
    if not (cfg.snr_gamma > 0 and cfg.log_sigma_std > 0):
        raise ValueError(
            "objective.snr_gamma and objective.log_sigma_std must be positive, "
            f"got {cfg.snr_gamma:g} and {cfg.log_sigma_std:g}"
        )
    if cfg.num_times < 2:
        raise ValueError(f"objective.num_times must be at least 2, got {cfg.num_times}")
    if not 0 <= cfg.label_dropout < 1:
        raise ValueError(f"objective.label_dropout must be in [0, 1), got {cfg.label_dropout}")
    if (cfg.label_dropout > 0) != model.null_class:
        raise ValueError(
            "objective.label_dropout above 0 and model.null_class=true need each other, since the null class learns "
            f"from the labels that are dropped; got {cfg.label_dropout:g} and {str(model.null_class).lower()}"
        )
    if sde.is_discrete and cfg.times == "discrete" and (sde.T - sde.t_0) % (cfg.num_times - 1):
        raise ValueError(
            f"objective.num_times={cfg.num_times} lie between the whole times of this diffusion; give "
            f"objective.num_times={sde.T - sde.t_0 + 1:g}"
        )
    validate_diffusion(model, sde)
    if sde.starts_at_noise and (cfg.weight not in FROM_NOISE or cfg.times == "importance"):
        raise ValueError(
            f"objective.weight must be one of {', '.join(FROM_NOISE)}, and objective.times not importance, under this "
            f"diffusion, whose s(T) = 0 makes x_T pure noise; got {cfg.weight} and {cfg.times}"
        )
    unbounded = "weight=likelihood" if cfg.weight == "likelihood" else "times=importance"
    if (cfg.weight == "likelihood" or cfg.times == "importance") and not sde.rho(sde.t_0) > 0:
        raise ValueError(f"objective.{unbounded} needs noise at the smallest time, got sigma = 0 there: raise sde.t_0")


def weighted_loss(
    network: Network,
    sde: SDE,
    cfg: ObjectiveConfig,
    batch_size: int,
    params: Params,
    examples: Examples,
    key: PRNGKeyArray,
    train: bool = True,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of a batch of `batch_size`, or of a micro-batch of it, and the error of eps by noise level.

    Times are stratified: image i of b has one of the i-th of b equal shares of all times, which lowers the variance.
    examples.images: x_0 in [-1, 1]. train: with dropout, and with labels dropped by `cfg.label_dropout`.
    level_loss, level_count [NUM_LEVELS]: |error of eps|^2 summed over the images whose noise lies between two
    `level_edges`, and how many these are.
    """
    x_0, label, indices = examples
    draw_key, dropout_key = jax.random.split(key)

    def drawn(index: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, "h w c"], Float[Array, ""]]:
        u_key, eps_key, label_key = jax.random.split(jax.random.fold_in(draw_key, index), 3)
        u = (index + jax.random.uniform(u_key)) / batch_size
        return u, jax.random.normal(eps_key, x_0.shape[1:]), jax.random.uniform(label_key)

    u, eps, drop_u = jax.vmap(drawn)(indices)
    if train and cfg.label_dropout:
        assert label is not None
        assert network.null_label is not None
        label = jnp.where(drop_u < cfg.label_dropout, network.null_label, label)
    t, correction = TIME_DISTRIBUTIONS[cfg.times](cfg, sde, u)
    s, sigma = per_image(sde.s(t)), per_image(sde.sigma(t))
    x = s * x_0 + sigma * eps
    dropout_keys = jax.vmap(partial(jax.random.fold_in, dropout_key))(indices) if train else None
    output = predict(network, sde, params, x, t, label, dropout_keys)

    # eps = a x + b output: compared as outputs, which are of unit size where errors of eps may be lost in rounding
    a, b = eps_weights(network, s, sigma)
    target = TARGETS[network.output](x_0, eps, s, sigma) if sde.starts_at_noise else (eps - a * x) / b
    error = (output - target) ** 2
    eps_error = jnp.mean(b**2 * error, axis=(1, 2, 3))
    if cfg.weight == "output" and sde.starts_at_noise:  # b = 0 at T
        loss = jnp.mean(correction * jnp.mean(error, axis=(1, 2, 3)))
    else:
        loss = jnp.mean(WEIGHTS[cfg.weight](cfg, network, sde, t) * correction * eps_error)

    inner = jnp.asarray(level_edges(sde)[1:-1], t.dtype)
    member = jax.nn.one_hot(jnp.searchsorted(inner, sde.rho(t), side="right"), NUM_LEVELS)
    return loss, {"level_loss": (eps_error[:, None] * member).sum(0), "level_count": member.sum(0)}


def level_edges(sde: SDE) -> Float[np.ndarray, " levels+1"]:
    """The noise-to-signal ratios rho between which the noise levels lie: evenly spaced in log rho, float64.

    What lies beyond, where rho is 0 or infinite at an end, counts to the outer levels.
    """
    low, high = _rho_range(sde)
    return np.geomspace(low or INVISIBLE, 1 / INVISIBLE if math.isinf(high) else high, NUM_LEVELS + 1)
