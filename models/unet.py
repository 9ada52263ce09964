"""The DDPM score network (Ho et al., arXiv 2006.11239): a U-Net of residual blocks with attention, in Flax NNX.

Images are NHWC. Parameters, norms and the output are float32; `dtype` is what convolutions and attention compute in.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.config import UNetConfig

Params = dict[str, Any]
Images = Float[Array, "b h w c"]

_INIT = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_ZERO = nnx.initializers.zeros_init()


def init(cfg: UNetConfig, key: PRNGKeyArray) -> Params:
    """Fresh parameters: nested dicts of float32 arrays."""
    return nnx.to_pure_dict(nnx.state(UNet(cfg, nnx.Rngs(key)), nnx.Param))


def network_of(cfg: UNetConfig) -> Callable[..., Images]:
    """network(params, x [b, h, w, c], t [b] in [0, 999], label [b] or None, dropout_key or None) -> [b, h, w, c].

    A pure function. The same one for an equal `cfg`, so that what is compiled for it is found again.
    """
    return _network(tuple((name, _hashable(value)) for name, value in dataclasses.asdict(cfg).items()))


def num_params(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@lru_cache
def _network(options: tuple[tuple[str, Any], ...]) -> Callable[..., Images]:
    graph, template = nnx.split(nnx.eval_shape(lambda: UNet(UNetConfig(**dict(options)), nnx.Rngs(0))), nnx.Param)

    def network(
        params: Params,
        x: Images,
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        dropout_key: PRNGKeyArray | None = None,
    ) -> Images:
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(x, t, label, dropout_key)

    return network


class UNet(nnx.Module):
    """Levels of `num_blocks` residual blocks down, a middle with attention, and `num_blocks + 1` a level up."""

    def __init__(self, cfg: UNetConfig, rngs: nnx.Rngs):
        assert cfg.image_size is not None
        assert cfg.image_channels is not None
        width, self.channels, self.dtype = cfg.channels, cfg.channels, jnp.dtype(cfg.dtype)
        emb = 4 * width
        self.embed_in, self.embed_out = nnx.Linear(width, emb, rngs=rngs), nnx.Linear(emb, emb, rngs=rngs)
        self.embed_label = nnx.Embed(cfg.num_classes, emb, rngs=rngs) if cfg.num_classes else None

        def block(n_in: int, n_out: int, size: int) -> nnx.Module:
            attention = size in cfg.attention_resolutions
            return Block(n_in, n_out, emb, cfg.dropout, attention, cfg.num_heads, self.dtype, rngs)

        self.conv_in = _conv(cfg.image_channels, width, self.dtype, rngs)
        skips, down, size = [width], [], cfg.image_size
        for level, multiplier in enumerate(cfg.multipliers):
            for _ in range(cfg.num_blocks):
                down.append(block(width, cfg.channels * multiplier, size))
                width = cfg.channels * multiplier
                skips.append(width)
            if level < len(cfg.multipliers) - 1:
                down.append(_conv(width, width, self.dtype, rngs, strides=2))
                skips.append(width)
                size //= 2
        self.down = nnx.Dict({f"{i:02d}": module for i, module in enumerate(down)})

        self.middle_in = Block(width, width, emb, cfg.dropout, True, cfg.num_heads, self.dtype, rngs)
        self.middle_out = Block(width, width, emb, cfg.dropout, False, cfg.num_heads, self.dtype, rngs)

        up: list[nnx.Module] = []
        for level, multiplier in reversed(list(enumerate(cfg.multipliers))):
            for _ in range(cfg.num_blocks + 1):
                up.append(block(width + skips.pop(), cfg.channels * multiplier, size))
                width = cfg.channels * multiplier
            if level > 0:
                up.append(Upsample(width, self.dtype, rngs))
                size *= 2
        self.up = nnx.Dict({f"{i:02d}": module for i, module in enumerate(up)})

        self.norm_out = _norm(width, rngs)
        self.conv_out = _conv(width, cfg.image_channels, jnp.float32, rngs, kernel_init=_ZERO)

    def __call__(
        self, x: Images, t: Float[Array, " b"], label: Int[Array, " b"] | None, dropout_key: PRNGKeyArray | None
    ) -> Images:
        emb = self.embed_out(nnx.silu(self.embed_in(time_embedding(t, self.channels))))
        if self.embed_label is not None and label is not None:
            emb = emb + self.embed_label(label)
        elif self.embed_label is not None:
            raise ValueError("this network has classes: give a label for every image")
        elif label is not None:
            raise ValueError("this network is without classes: give no labels")
        emb = nnx.silu(emb)
        keys = iter(jax.random.split(dropout_key, len(self.down) + len(self.up) + 2) if dropout_key is not None else ())

        h = self.conv_in(x)
        skips = [h]
        for _, module in sorted(self.down.items()):
            h = module(h, emb, next(keys, None)) if isinstance(module, Block) else module(h)
            skips.append(h)
        h = self.middle_in(h, emb, next(keys, None))
        h = self.middle_out(h, emb, next(keys, None))
        for _, module in sorted(self.up.items()):
            if isinstance(module, Block):
                h = module(jnp.concatenate([h, skips.pop()], axis=-1), emb, next(keys, None))
            else:
                h = module(h)
        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)


class Block(nnx.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding added between; then attention if wanted."""

    def __init__(
        self, n_in: int, n_out: int, emb: int, dropout: float, attention: bool, heads: int, dtype: Any, rngs: nnx.Rngs
    ):
        self.norm_1, self.conv_1 = _norm(n_in, rngs), _conv(n_in, n_out, dtype, rngs)
        self.embed = nnx.Linear(emb, n_out, rngs=rngs)
        self.norm_2, self.conv_2 = _norm(n_out, rngs), _conv(n_out, n_out, dtype, rngs, kernel_init=_ZERO)
        self.dropout = nnx.Dropout(dropout)
        self.shortcut = nnx.Linear(n_in, n_out, dtype=dtype, rngs=rngs) if n_in != n_out else None
        self.attention = Attention(n_out, heads, dtype, rngs) if attention else None

    def __call__(self, x: Images, emb: Float[Array, "b e"], key: PRNGKeyArray | None) -> Images:
        h = self.conv_1(nnx.silu(self.norm_1(x)))
        h = nnx.silu(self.norm_2(h + self.embed(emb)[:, None, None, :]))
        h = self.conv_2(self.dropout(h, deterministic=key is None, rngs=key))
        x = (x if self.shortcut is None else self.shortcut(x)) + h
        return x if self.attention is None else self.attention(x)


class Attention(nnx.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int, heads: int, dtype: Any, rngs: nnx.Rngs):
        self.heads = heads
        self.norm = _norm(channels, rngs)
        self.qkv = nnx.Linear(channels, 3 * channels, dtype=dtype, kernel_init=_INIT, rngs=rngs)
        self.out = nnx.Linear(channels, channels, dtype=dtype, kernel_init=_ZERO, rngs=rngs)

    def __call__(self, x: Images) -> Images:
        b, height, width, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, height * width, 3, self.heads, c // self.heads)
        h = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.out(h.reshape(x.shape))


class Upsample(nnx.Module):
    """Twice the size by nearest neighbour, then a convolution."""

    def __init__(self, channels: int, dtype: Any, rngs: nnx.Rngs):
        self.conv = _conv(channels, channels, dtype, rngs)

    def __call__(self, x: Images) -> Images:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


def time_embedding(t: Float[Array, " b"], dim: int) -> Float[Array, "b dim"]:
    """Sines and cosines of t at dim/2 frequencies from 1 to 1/10000 (Ho et al., section 4; Vaswani et al. 2017)."""
    frequency = jnp.exp(-math.log(10_000) * jnp.arange(dim // 2) / (dim // 2 - 1))
    angle = t[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def _conv(n_in: int, n_out: int, dtype: Any, rngs: nnx.Rngs, strides: int = 1, kernel_init: Any = _INIT) -> nnx.Conv:
    return nnx.Conv(n_in, n_out, (3, 3), strides=strides, dtype=dtype, kernel_init=kernel_init, rngs=rngs)


def _norm(channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """32 groups as published; in narrow levels fewer, of 4 channels or more."""
    most = max(1, min(32, channels // 4))
    groups = next(number for number in range(most, 0, -1) if channels % number == 0)
    return nnx.GroupNorm(channels, num_groups=groups, epsilon=1e-6, rngs=rngs)
