"""What the U-Nets are made of: residual blocks, attention, resampling, embeddings. Images are NHWC.

Parameters, norms and embeddings are float32; `dtype` is what convolutions and attention compute in.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from models.config import UNetConfig
from models.layout import Stage
from models.products import convolve, convolve_doubled, multiply

Images = Float[Array, "b h w c"]


Take = Callable[[tuple[int, ...]], Array]  # the next numbers of `Draws`, in this shape
ZERO = nnx.initializers.zeros_init()


class Draws:
    """Random numbers for the parameters of a network: `numbers`, uniform in (-1, 1), one part after the other.

    All are drawn at once, since a draw for each parameter takes as long to compile as a training step. nnx asks for a
    key and hands it to an initialiser; ours are handed the function that takes the next numbers. Without numbers they
    are 0, for where only shapes matter.
    """

    def __init__(self, numbers: Float[Array, " n"] | None = None):
        self.numbers, self.taken = numbers, 0

    def params(self) -> Take:
        return self.take

    def take(self, shape: tuple[int, ...]) -> Array:
        if self.numbers is None:
            return jnp.zeros(shape)
        start, self.taken = self.taken, self.taken + math.prod(shape)
        return self.numbers[start : self.taken].reshape(shape)


def _uniform(take: Take, shape: tuple[int, ...], dtype: Any) -> Array:
    """Of variance 2 / (inputs + outputs), as Ho et al. (DDPM) have it."""
    fan = math.prod(shape[:-2]) * (shape[-2] + shape[-1]) / 2
    return math.sqrt(3 / fan) * take(shape).astype(dtype)


def _normal(take: Take, shape: tuple[int, ...]) -> Array:
    """Of variance 1."""
    return math.sqrt(2) * jax.lax.erf_inv(take(shape))


class Block(nnx.Module):
    """GroupNorm, SiLU, convolution, twice; the time embedding added between; then attention if wanted.

    A block that resamples does so behind its first SiLU and in its shortcut, as in BigGAN (arXiv 1809.11096;
    score_sde, arXiv 2011.13456, appendix H).
    """

    def __init__(self, cfg: UNetConfig, stage: Stage, draws: Draws):
        n_in, n_out, self.resample, self.fir = stage.n_in, stage.n_out, stage.resample, cfg.fir
        self.scale = math.sqrt(0.5) if cfg.skip_rescale else 1.0
        dtype = jnp.dtype(cfg.dtype)
        self.norm_1, self.conv_1 = group_norm(cfg, n_in), conv(n_in, n_out, dtype, draws)
        self.embed = linear(4 * cfg.channels, n_out, jnp.float32, draws)
        self.norm_2, self.conv_2 = group_norm(cfg, n_out), conv(n_out, n_out, dtype, draws, kernel_init=ZERO)
        self.dropout = nnx.Dropout(cfg.dropout)
        needed = n_in != n_out or bool(self.resample)
        self.shortcut = linear(n_in, n_out, dtype, draws) if needed else None
        self.attention = Attention(cfg, n_out, draws) if stage.attention else None

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        h = self.norm_1(x, nnx.silu)
        if self.resample:
            change = halve if self.resample == "down" else double
            h, x = change(h, self.fir), change(x, self.fir)
        h = self.norm_2(self.conv_1(h) + self.embed(emb)[:, None, None, :], nnx.silu)
        if keys is not None:
            h = jax.vmap(lambda h, key: self.dropout(h, deterministic=False, rngs=key))(h, keys)
        h = self.conv_2(h)
        x = self.scale * ((x if self.shortcut is None else self.shortcut(x)) + h)
        return x if self.attention is None else self.attention(x)


class GroupNorm(nnx.Module):
    """`nnx.GroupNorm` up to rounding, in another order of sums, and an activation behind it: float32."""

    def __init__(self, channels: int, num_groups: int, epsilon: float):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.num_groups, self.epsilon = num_groups, epsilon

    def __call__(self, x: Images, activation: Callable[[Images], Images] | None = None) -> Images:
        return _normed(x, self.scale[...], self.bias[...], self.num_groups, self.epsilon, activation)


@partial(jax.jit, static_argnums=(3, 4, 5))  # to be traced once for all that are alike
def _normed(
    x: Images,
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    groups: int,
    epsilon: float,
    activation: Callable[[Images], Images] | None,
) -> Images:
    """Means are taken for each channel first, and only then over the channels of a group.

    XLA on CPUs sums over both at once without vector instructions, which took longer than the convolutions beside it.
    """
    b, c = x.shape[0], x.shape[-1]

    def over_group(channels: Float[Array, "b c"]) -> Float[Array, "b c"]:
        return jnp.repeat(channels.reshape(b, groups, c // groups).mean(2), c // groups, axis=1)

    @jax.checkpoint  # what the activation is taken of is computed anew for the gradient, not kept
    def activated(x: Images, factor: Float[Array, "b c"], shift: Float[Array, "b c"]) -> Images:
        normed = x * factor[:, None, None] + shift[:, None, None]
        return normed if activation is None else activation(normed)

    x = x.astype(jnp.float32)
    mean, square = over_group(x.mean((1, 2))), over_group((x * x).mean((1, 2)))
    factor = scale * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + epsilon)
    return activated(x, factor, bias - mean * factor)


class Attention(nnx.Module):
    """Self-attention over all pixels, added to its input.

    Queries, keys and values are products of their own, and heads lie along the batch: slices of one product, and an
    axis for the heads, take XLA on CPUs half as long again.
    """

    def __init__(self, cfg: UNetConfig, channels: int, draws: Draws):
        self.dtype = jnp.dtype(cfg.dtype)
        self.heads = channels // (cfg.head_channels or channels)
        self.scale = math.sqrt(0.5) if cfg.skip_rescale else 1.0
        self.norm = group_norm(cfg, channels)
        self.qkv = linear(channels, 3 * channels, self.dtype, draws)
        self.out = linear(channels, channels, self.dtype, draws, kernel_init=ZERO)

    def __call__(self, x: Images) -> Images:
        b, height, width, c = x.shape
        apart = (b, height * width, self.heads, c // self.heads)
        together = (b * self.heads, height * width, c // self.heads)
        h = self.norm(x).astype(self.dtype)
        parts = (jnp.split(jnp.asarray(p, self.dtype), 3, axis=-1) for p in (self.qkv.kernel, self.qkv.bias))
        q, k, v = (
            (multiply(h, w) + bias).reshape(apart).swapaxes(1, 2).reshape(together)
            for w, bias in zip(*parts, strict=True)
        )
        q = q / math.sqrt(c // self.heads)  # rather than the logits, which are more
        logits = jnp.einsum("nid,njd->nij", q, k, preferred_element_type=jnp.float32)
        with jax.softmax_custom_jvp(True):  # whose gradient keeps one array of this size, not two
            weights = jax.nn.softmax(logits).astype(self.dtype)
        h = jnp.einsum("nij,njd->nid", weights, v)
        h = h.reshape(b, self.heads, height * width, -1).swapaxes(1, 2).reshape(x.shape)
        return self.scale * (x + self.out(h))


class Downsample(nnx.Module):
    """Half the size by a convolution of stride 2; DDPM pads right and bottom only, diffusers' default all sides."""

    def __init__(self, cfg: UNetConfig, stage: Stage, draws: Draws):
        side = (1, 1) if cfg.downsample_padding else (0, 1)
        self.conv = conv(stage.n_in, stage.n_out, jnp.dtype(cfg.dtype), draws, strides=2, padding=(side, side))

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the size by nearest neighbour, then a convolution."""

    def __init__(self, cfg: UNetConfig, stage: Stage, draws: Draws):
        dtype = jnp.dtype(cfg.dtype)
        self.conv = conv(stage.n_in, stage.n_out, dtype, draws, conv_general_dilated=convolve_doubled)

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        return self.conv(x)


class PyramidDown(nnx.Module):
    """Half the size by the FIR filter and a convolution of stride 2: a level of NCSN++'s input pyramid."""

    def __init__(self, cfg: UNetConfig, n_in: int, n_out: int, draws: Draws):
        self.conv = conv(n_in, n_out, jnp.dtype(cfg.dtype), draws, strides=2, padding="VALID")

    def __call__(self, x: Images) -> Images:
        return self.conv(_filter(x, pad=2))


class Fourier(nnx.Module):
    """Sines and cosines at random frequencies that are not trained (Tancik et al., arXiv 2006.10739)."""

    def __init__(self, cfg: UNetConfig, draws: Draws):
        self.frequency = nnx.Param(cfg.fourier_scale * _normal(draws.take, (cfg.channels,)))

    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b dim"]:
        # multiplied in score_sde's order: angles reach 1000, where another rounding is seen in what the network answers
        angle = t[:, None] * jax.lax.stop_gradient(self.frequency[...]) * (2 * math.pi)
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def time_embedding(t: Float[Array, " b"], dim: int, freq_shift: int = 1) -> Float[Array, "b dim"]:
    """Sines and cosines of t at dim/2 frequencies from 1 to 1/10000 (Ho et al., section 4; Vaswani et al. 2017).

    freq_shift: 1 reaches 1/10000; 0 stops one frequency short of it, as diffusers does by default.
    """
    frequency = jnp.exp(-math.log(10_000) * jnp.arange(dim // 2) / (dim // 2 - freq_shift))
    angle = t[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def to_patches(x: Images, side: int) -> Images:
    """Each square of side x side pixels as the channels of one."""
    b, h, w, c = x.shape
    squares = x.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
    return squares.reshape(b, h // side, w // side, side * side * c)


def from_patches(x: Images, side: int) -> Images:
    """The image that `to_patches` cut up."""
    b, h, w, c = x.shape
    squares = x.reshape(b, h, w, side, side, c // side**2).swapaxes(2, 3)
    return squares.reshape(b, h * side, w * side, c // side**2)


def halve(x: Images, fir: bool) -> Images:
    """Half the size: means of 2x2 pixels, or smoothed by the FIR filter."""
    if fir:
        return _filter(x, pad=1)[:, ::2, ::2]
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double(x: Images, fir: bool) -> Images:
    """Twice the size: nearest neighbour, or by the FIR filter, whose even and odd pixels weigh 1, 3 and 3, 1."""
    for axis in (1, 2):
        if fir:
            before, _, after = _neighbours(x, axis, pad=1, count=3)
            both = jnp.stack([before + 3 * x, 3 * x + after], axis + 1) / 4
            x = both.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
        else:
            x = jnp.repeat(x, 2, axis)
    return x


def _filter(x: Images, pad: int) -> Images:
    """The FIR filter 1, 3, 3, 1 (over 8) along both axes, with `pad` zeros around the image."""
    for axis in (1, 2):
        first, second, third, fourth = _neighbours(x, axis, pad, count=4)
        x = (first + 3 * (second + third) + fourth) / 8
    return x


def _neighbours(x: Images, axis: int, pad: int, count: int) -> list[Images]:
    """The `count` shifts of x, from left to right, within a frame of `pad` zeros along the axis."""
    framed = jnp.pad(x, [(pad, pad) if a == axis else (0, 0) for a in range(x.ndim)])
    length = framed.shape[axis] - count + 1
    return [jax.lax.slice_in_dim(framed, k, k + length, axis=axis) for k in range(count)]


def conv(n_in: int, n_out: int, dtype: Any, draws: Draws, kernel_init: Any = _uniform, **options: Any) -> nnx.Conv:
    """3x3, of stride 1 within a frame of zeros unless options say otherwise."""
    options = {"conv_general_dilated": convolve} | options
    return nnx.Conv(n_in, n_out, (3, 3), dtype=dtype, kernel_init=kernel_init, rngs=cast(Any, draws), **options)


def linear(n_in: int, n_out: int, dtype: Any, draws: Draws, kernel_init: Any = _uniform) -> nnx.Linear:
    rngs = cast(Any, draws)
    return nnx.Linear(n_in, n_out, dtype=dtype, kernel_init=kernel_init, rngs=rngs, dot_general=multiply)


def embedding(count: int, features: int, draws: Draws) -> nnx.Embed:
    """A vector of length about 1 for each of `count` labels."""

    def init(take: Take, shape: tuple[int, ...], dtype: Any) -> Array:
        return _normal(take, shape).astype(dtype) / math.sqrt(features)

    return nnx.Embed(count, features, embedding_init=cast(Any, init), rngs=cast(Any, draws))


def group_norm(cfg: UNetConfig, channels: int) -> GroupNorm:
    """`num_groups` groups; in narrow levels fewer, of `min_group_channels` or more."""
    most = max(1, min(cfg.num_groups, channels // cfg.min_group_channels))
    groups = next(number for number in range(most, 0, -1) if channels % number == 0)
    return GroupNorm(channels, groups, cfg.norm_eps)
