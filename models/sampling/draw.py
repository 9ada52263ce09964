"""From seeds to images: image i depends on its own seed only, whatever the batch it is drawn in."""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

import deis
from deis.wrappers import clip_x_0, threshold_x_0
from models.config import UNetConfig, validate_diffusion
from models.published.network import read_checkpoint, read_published
from models.sampling.build import EpsOptions, build_sde
from models.score import Network, Params, eps_fn
from models.unet import network_of

AS_TRAINED = EpsOptions()


class Trained(NamedTuple):
    """A trained network with its parameters, its SDE, and what its images are like."""

    network: Network
    params: Params
    sde: deis.SDE
    image_shape: tuple[int, int, int]
    num_classes: int


class Start(NamedTuple):
    """Where images start from: noise, class (None without classes), and the key of a stochastic sampler's noise."""

    x_T: Float[Array, "b h w c"]
    label: Int[Array, " b"] | None
    key: Array


def trained(model: UNetConfig, sde: deis.SDE, params: Params) -> Trained:
    """Parameters of the network that `model` describes, ready to draw with: on every device of this process.

    Raises ValueError for a network that the SDE cannot begin with.
    """
    validate_diffusion(model, sde)
    assert model.image_size is not None
    assert model.image_channels is not None
    shape = (model.image_size, model.image_size, model.image_channels)
    return Trained(network_of(model), jax.device_put(params, _on_devices()), sde, shape, model.num_classes)


@lru_cache(maxsize=1)
def load_trained(path: Path, step: int | None) -> Trained:
    """The network of a `Source`, with its EMA parameters; kept, so that the jobs of a sweep share what is compiled."""
    found = read_published(path) if step is None else read_checkpoint(path, step)
    return trained(found.model, build_sde(found.sde), found.params)


def starts(net: Trained, seeds: list[int], label: int | None = None) -> Start:
    """The start of every seed's image. `label`: the class of all images; None draws each by its seed."""

    def start(seed: Array) -> Start:
        noise_key, label_key, key = jax.random.split(jax.random.key(seed), 3)
        drawn = jax.random.randint(label_key, (), 0, max(net.num_classes, 1)) if label is None else jnp.array(label)
        return Start(net.sde.prior_sample(noise_key, net.image_shape), drawn if net.num_classes else None, key)

    return jax.vmap(start)(jnp.array(seeds, jnp.uint32))


def labels_of(net: Trained, seeds: list[int], label: int | None = None) -> Int[np.ndarray, " n"] | None:
    """The class of every seed's image, as `starts` draws it; None for a network without classes."""
    if not net.num_classes:
        return None
    return np.concatenate([np.asarray(starts(net, seeds[i : i + 256], label).label) for i in range(0, len(seeds), 256)])


def draw(
    net: Trained, table: deis.Table, seeds: list[int], batch_size: int, options: EpsOptions = AS_TRAINED
) -> Iterator[Float[np.ndarray, "b h w c"]]:
    """Samples of the seeds in order, in [-1, 1], up to `batch_size` at a time.

    Batches are laid over this process's devices, if their number divides batch_size. The last one is filled up with
    seed 0 and cut, so that all share a compilation.
    """
    for first in range(0, len(seeds), batch_size):
        chunk = seeds[first : first + batch_size]
        at = starts(net, chunk + [0] * (batch_size - len(chunk)), options.label)
        if batch_size % jax.local_device_count() == 0:
            at = jax.device_put(at, _on_devices("data"))
        x_0 = deis.sample(table, changed_eps(net, at, options), at.x_T, at.key)
        yield np.asarray(x_0)[: len(chunk)]


def changed_eps(net: Trained, at: Start, options: EpsOptions) -> jax.tree_util.Partial:
    """The network as `deis.sample` takes it, with its options; other values of them do not compile again."""
    eps = eps_fn(net.network, net.sde, net.params, at.label, options.guidance)
    if options.threshold is not None:
        return jax.tree_util.Partial(_thresholded(eps.func, net.sde), options.threshold, *eps.args)
    return jax.tree_util.Partial(_clipped(eps.func, net.sde), *eps.args) if options.clip else eps


@lru_cache  # one function, so one compilation, for each network
def _clipped(eps_at: Callable[..., Array], sde: deis.SDE) -> Callable[..., Array]:
    def clipped(*arguments: Any) -> Array:
        *bound, x, t = arguments
        return clip_x_0(sde, partial(eps_at, *bound))(x, t)

    return clipped


@lru_cache
def _thresholded(eps_at: Callable[..., Array], sde: deis.SDE) -> Callable[..., Array]:
    def thresholded(percentile: Any, *arguments: Any) -> Array:
        *bound, x, t = arguments
        return threshold_x_0(sde, partial(eps_at, *bound), percentile)(x, t)

    return thresholded


def _on_devices(*axes: str) -> NamedSharding:
    """Laid over this process's devices: along the given axes, or whole on each."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), ("data",)), PartitionSpec(*axes))


def draw_trajectory(
    net: Trained, table: deis.Table, seeds: list[int], options: EpsOptions = AS_TRAINED
) -> tuple[Float[np.ndarray, "steps b h w c"], Float[np.ndarray, "nfe b h w c"]]:
    """(x_t at every network call and at the end, predicted x_0 at every network call) of the seeds' images."""
    at = starts(net, seeds, options.label)
    x_t, x_0 = deis.trajectory(table, changed_eps(net, at, options), at.x_T, at.key)
    return np.asarray(x_t), np.asarray(x_0)
