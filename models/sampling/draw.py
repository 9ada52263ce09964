"""From seeds to images: image i depends on its own seed only, whatever the batch it is drawn in."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

import deis
from deis import guidance
from deis.wrappers import autoguidance, classifier_free_guidance, clip_x_0, threshold_x_0
from models.config import UNetConfig, validate_diffusion
from models.published.network import read_checkpoint, read_published
from models.sampling.build import build_sde
from models.sampling.options import EpsOptions, given, values_of
from models.sampling.source import Source
from models.score import Network, Params, over_devices, predict_eps
from models.unet import network_of

AS_TRAINED = EpsOptions()


class Trained(NamedTuple):
    """A trained network with its parameters, its SDE, what its images are like, and a worse one that guides it."""

    network: Network
    params: Params
    sde: deis.SDE
    image_shape: tuple[int, int, int]
    num_classes: int
    worse: "Trained | None" = None


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


def guided(net: Trained, worse: Source | None) -> Trained:
    """The network with the worse one that guides it, as `models.sampling.options.check_eps` found it."""
    return net if worse is None else net._replace(worse=load_trained(worse.path, worse.step))


@lru_cache(maxsize=4)
def load_trained(path: Path, step: int | None) -> Trained:
    """The network of a `Source`, with its EMA parameters; kept, so that the jobs of a sweep share what is compiled."""
    found = read_published(path) if step is None else read_checkpoint(path, step)
    return trained(found.model, build_sde(found.sde), found.params)


def starts(net: Trained, seeds: list[int], label: int | None = None) -> Start:
    """The start of every seed's image. `label`: the class of all images; None draws each by its seed."""

    def start(seed: Array) -> Start:
        noise_key, label_key, key = jax.random.split(jax.random.key(seed), 3)
        drawn = jax.random.randint(label_key, (), 0, max(net.num_classes, 1)) if label is None else jnp.int32(label)
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


def warm_up(net: Trained, noisy: bool, batch_size: int, options: EpsOptions) -> None:
    """Compile what `draw` runs for solvers that add noise, or for the others; those of up to 64 calls share it."""
    ends = np.array([net.sde.T, net.sde.t_0])
    next(draw(net, deis.tables.ddim_eta(net.sde, ends, eta=float(noisy)), [0], batch_size, options))


def changed_eps(net: Trained, at: Start, options: EpsOptions) -> jax.tree_util.Partial:
    """The network as `deis.sample` takes it, with its options; other values of them do not compile again."""
    eps = conditional_eps(net, options)
    return jax.tree_util.Partial(eps.func, *eps.args, label=at.label)


def conditional_eps(net: Trained, options: EpsOptions) -> jax.tree_util.Partial:
    """The network with its options as a function of (x, t), or of (x, t, label) where it has classes."""
    numbers = {name: value for name, value in given(options).items() if name not in ("label", "guidance_network")}
    worse = None if net.worse is None else net.worse._replace(params=None)
    worse_params = None if net.worse is None else net.worse.params
    return jax.tree_util.Partial(_changed(net._replace(params=None, worse=worse)), net.params, worse_params, numbers)


@lru_cache  # one function, so one compilation, for each network
def _changed(net: Trained) -> Callable[..., Array]:
    """The function of the parameters and of the options that are given, for networks without their parameters."""

    def changed(
        params: Params, worse_params: Params, numbers: dict[str, Any], x: Array, t: Array, label: Array | None = None
    ) -> Array:
        network = partial(_eps, net, params)
        eps: Callable[[Any, Any], Any] = partial(network, label=label)
        if "guidance" in numbers:
            rule, weight = _guidance(net.sde, numbers)
            if net.worse is not None:
                eps = autoguidance(eps, partial(_eps, net.worse, worse_params, label=label), weight, rule)
            else:
                assert label is not None
                assert net.network.null_label is not None
                null = jnp.full_like(label, net.network.null_label)
                eps = classifier_free_guidance(network, label, null, weight, rule)
        if "threshold" in numbers:
            eps = threshold_x_0(net.sde, eps, numbers["threshold"])
        if "clip" in numbers:
            eps = clip_x_0(net.sde, eps)
        return eps(x, t)

    return changed


def _eps(net: Trained, params: Params, x: Array, t: Array, label: Array | None) -> Array:
    label = label if net.num_classes else None  # a network without classes may guide one with classes
    return predict_eps(net.network, net.sde, params, over_devices(x), jnp.full(len(x), t), label)


def _guidance(sde: deis.SDE, numbers: dict[str, Any]) -> tuple[guidance.Rule, Any]:
    """The rule of guidance and its weight, a number or a function of the time."""
    rule: guidance.Rule = guidance.linear
    weight = numbers["guidance"]
    if "guidance_interval" in numbers:
        weight = guidance.interval(sde, weight, *numbers["guidance_interval"])
    if {"guidance_parallel", "guidance_norm"} & numbers.keys():
        rule = guidance.projected(sde, numbers.get("guidance_parallel", 1.0), numbers.get("guidance_norm"))
    if "guidance_rescale" in numbers:
        rule = guidance.rescaled(sde, numbers["guidance_rescale"], rule)
    return rule, weight


def _on_devices(*axes: str) -> NamedSharding:
    """Laid over this process's devices: along the given axes, or whole on each."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), ("data",)), PartitionSpec(*axes))


def draw_by_guidance(
    net: Trained, table: deis.Table, seeds: list[int], options: EpsOptions, weights: Sequence[float], names: list[str]
) -> dict[tuple[str, str], Float[np.ndarray, "b h w c"]]:
    """The images of the seeds, as one batch, for every (weight of guidance, class); by `names` if all have one."""
    cells, named = {}, names if len(names) == net.num_classes else [f"class {i}" for i in range(net.num_classes)]
    for weight, label in product(weights, range(net.num_classes)):
        asked = EpsOptions(**values_of(options) | {"label": label, "guidance": weight})
        (cells[f"guidance {weight:g}", named[label]],) = draw(net, table, seeds, len(seeds), asked)
    return cells


def draw_trajectory(
    net: Trained, table: deis.Table, seeds: list[int], options: EpsOptions = AS_TRAINED
) -> tuple[Float[np.ndarray, "steps b h w c"], Float[np.ndarray, "nfe b h w c"]]:
    """(x_t at every network call and at the end, predicted x_0 at every network call) of the seeds' images."""
    at = starts(net, seeds, options.label)
    x_t, x_0 = deis.trajectory(table, changed_eps(net, at, options), at.x_T, at.key)
    return np.asarray(x_t), np.asarray(x_0)
