"""The cost of a network, block by block, found without running it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from formats.tables import markdown_table
from models.config import UNetConfig
from models.layout import stages
from models.unet import abstract, network_of, num_params, shapes


class Row(NamedTuple):
    """The cost of a part of the network.

    shape: its output for one image, [h, w, c]. flops: multiplications and additions of a call, per image.
    activations: bytes kept for the gradient, per image.
    """

    name: str
    shape: tuple[int, ...]
    params: int
    flops: int
    activations: int


def rows(cfg: UNetConfig) -> list[Row]:
    """A row for every stage of the network, and one for the whole, which also counts the layers between the stages."""
    net = abstract(cfg)
    found = []
    for stage in stages(cfg):
        before = stage.size
        if stage.kind == "downsample" or stage.resample == "down":
            before *= 2
        if stage.kind == "upsample" or stage.resample == "up":
            before //= 2
        graph, state = nnx.split(net.stages[stage.name])

        def run(state: Any, x: jax.Array, emb: jax.Array, graph: Any = graph) -> jax.Array:
            return nnx.merge(graph, state)(x, emb, None)

        x = [_images(b, before, stage.n_in) for b in (1, 2)]
        emb = [jax.ShapeDtypeStruct((b, 4 * cfg.channels), jnp.float32) for b in (1, 2)]
        shape = (stage.size, stage.size, stage.n_out)
        params, flops = num_params(nnx.to_pure_dict(state)), _flops(run, state, x[0], emb[0])
        kept = _kept(run, state, x[1], emb[1]) - _kept(run, state, x[0], emb[0])
        found.append(Row(stage.name, shape, params, flops, kept))
    return [*found, _whole(cfg)]


def _whole(cfg: UNetConfig) -> Row:
    assert cfg.image_size is not None
    assert cfg.image_channels is not None
    params, network = shapes(cfg), network_of(cfg)

    def arguments(b: int) -> tuple:
        label = jax.ShapeDtypeStruct((b,), jnp.int32) if cfg.num_classes else None
        x = _images(b, cfg.image_size, cfg.image_channels)
        return params, x, jax.ShapeDtypeStruct((b,), jnp.float32), label

    kept = _kept(network.apply, *arguments(2)) - _kept(network.apply, *arguments(1))
    shape = (cfg.image_size, cfg.image_size, cfg.image_channels)
    return Row("whole network", shape, num_params(params), _flops(network.apply, *arguments(1)), kept)


def flops(cfg: UNetConfig) -> int:
    """Multiplications and additions of a call, per image."""
    return _whole(cfg).flops


def summary_table(table: list[Row]) -> str:
    """The rows as a Markdown table, with FLOPs and bytes in millions."""
    header = ["part", "output", "parameters", "MFLOPs an image", "MB kept an image"]
    rows = (
        [r.name, "x".join(map(str, r.shape)), f"{r.params:,}", f"{r.flops / 1e6:,.1f}", f"{r.activations / 1e6:,.2f}"]
        for r in table
    )
    return markdown_table(header, rows, "llrrr")


def _images(b: int, size: int | None, channels: int | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((b, size, size, channels), jnp.float32)


def _flops(function: Any, *args: Any) -> int:
    """The count of XLA before it optimises, always for a GPU, so that it does not depend on the machine."""
    analysis = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).cost_analysis()
    assert analysis is not None
    return int(analysis["flops"])


def _kept(function: Any, params: Any, *args: Any) -> int:
    """Bytes kept for the gradient with respect to the parameters and the first argument."""

    def pull_back(params: Any, x: jax.Array, *rest: Any) -> Any:
        return jax.vjp(lambda params, x: function(params, x, *rest), params, x)[1]

    kept = jax.tree.leaves(jax.eval_shape(pull_back, params, *args))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)
