"""The layers of the U-Nets: residual blocks, attention, resampling, embeddings. Images are NHWC.

Parameters, norms and embeddings are float32; `dtype` is what convolutions and attention compute in.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from models.config import UNetConfig
from models.layout import Stage

Images = Float[Array, "b h w c"]

ZEROS = nnx.initializers.zeros


def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Initialise a kernel uniformly with variance 2 / (fan_in + fan_out), as Ho et al. (DDPM, arXiv 2006.11239) do."""
    bound = math.sqrt(6 / (math.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    return _drawn(key, shape, dtype, lambda rng: np.float32(bound) * (2 * rng.random(shape, np.float32) - 1))


def normal(stddev: float) -> Callable[..., Array]:
    """An initialiser that draws from the normal distribution of mean 0 and this standard deviation."""

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return _drawn(key, shape, dtype, lambda rng: np.float32(stddev) * rng.standard_normal(shape, np.float32))

    return init


def _drawn(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any, draw: Callable[[np.random.Generator], np.ndarray]
) -> Array:
    """Random numbers that NumPy draws on the host, by a generator with the key as its seed.

    jax.random would compile a program for every shape, which takes as long as compiling the training step.
    """

    def on_host(data: Array) -> np.ndarray:
        return draw(np.random.default_rng(np.asarray(data))).astype(dtype)

    data = jax.random.key_data(key)
    if isinstance(data, jax.core.Tracer):
        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(shape, dtype), data)
    return jnp.asarray(on_host(data))


class GroupNorm(nnx.Module):
    """`nnx.GroupNorm` in float32 that averages over pixels first and over the channels of a group afterwards.

    XLA on CPUs sums over both at once without vector instructions, which makes sampling take 15 % longer.
    """

    def __init__(self, channels: int, num_groups: int, epsilon: float):
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.num_groups, self.epsilon = num_groups, epsilon

    def __call__(self, x: Images) -> Images:
        b, c = x.shape[0], x.shape[-1]

        def group_mean(x: Images) -> Float[Array, "b c"]:
            groups = x.mean((1, 2)).reshape(b, self.num_groups, -1).mean(2)
            return jnp.repeat(groups, c // self.num_groups, axis=1)

        x = x.astype(jnp.float32)
        mean, square = group_mean(x), group_mean(x * x)
        factor = self.scale[...] * jax.lax.rsqrt(jnp.maximum(square - mean * mean, 0.0) + self.epsilon)
        return x * factor[:, None, None] + (self.bias[...] - mean * factor)[:, None, None]


@jax.checkpoint  # computed again for the gradient, which more than halves the memory that activations take
def norm_silu(norm: GroupNorm, x: Images) -> Images:
    """SiLU of the normalised images."""
    return nnx.silu(norm(x))


class Block(nnx.Module):
    """GroupNorm, SiLU and a convolution, twice, with the conditioning embedding added between; then optional attention.

    A block that resamples does so after its first SiLU and in its shortcut, as in BigGAN (arXiv 1809.11096;
    score_sde, arXiv 2011.13456, appendix H).
    """

    def __init__(self, cfg: UNetConfig, stage: Stage, rngs: nnx.Rngs):
        n_in, n_out, self.resample, self.fir = stage.n_in, stage.n_out, stage.resample, cfg.fir
        self.scale = math.sqrt(0.5) if cfg.skip_rescale else 1.0
        self.norm_1, self.conv_1 = group_norm(cfg, n_in), conv(n_in, n_out, cfg.dtype, rngs)
        self.embed = linear(4 * cfg.channels, n_out, jnp.float32, rngs)
        self.norm_2, self.conv_2 = group_norm(cfg, n_out), conv(n_out, n_out, cfg.dtype, rngs, kernel_init=ZEROS)
        self.dropout = nnx.Dropout(cfg.dropout)
        needed = n_in != n_out or bool(self.resample)
        self.shortcut = linear(n_in, n_out, cfg.dtype, rngs) if needed else None
        self.attention = Attention(cfg, n_out, rngs) if stage.attention else None

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        h = norm_silu(self.norm_1, x)
        if self.resample:
            change = halve if self.resample == "down" else double
            h, x = change(h, self.fir), change(x, self.fir)
        h = norm_silu(self.norm_2, self.conv_1(h) + self.embed(emb)[:, None, None, :])
        if keys is not None:
            h = jax.vmap(lambda h, key: self.dropout(h, deterministic=False, rngs=key))(h, keys)
        h = self.conv_2(h)
        x = self.scale * ((x if self.shortcut is None else self.shortcut(x)) + h)
        return x if self.attention is None else self.attention(x)


class Attention(nnx.Module):
    """Multi-head self-attention over all pixels of the normalised input, added to the input."""

    def __init__(self, cfg: UNetConfig, channels: int, rngs: nnx.Rngs):
        self.heads = channels // (cfg.head_channels or channels)
        self.scale = math.sqrt(0.5) if cfg.skip_rescale else 1.0
        self.norm = group_norm(cfg, channels)
        self.qkv = linear(channels, 3 * channels, cfg.dtype, rngs)
        self.out = linear(channels, channels, cfg.dtype, rngs, kernel_init=ZEROS)

    def __call__(self, x: Images) -> Images:
        b, height, width, c = x.shape
        split_heads = (b, height * width, self.heads, c // self.heads)
        q, k, v = (part.reshape(split_heads) for part in jnp.split(self.qkv(self.norm(x)), 3, axis=-1))
        merged_heads = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return self.scale * (x + self.out(merged_heads))


class Downsample(nnx.Module):
    """Half the size by a convolution of stride 2; DDPM pads right and bottom only, diffusers' default all sides."""

    def __init__(self, cfg: UNetConfig, stage: Stage, rngs: nnx.Rngs):
        side = (1, 1) if cfg.downsample_padding else (0, 1)
        self.conv = conv(stage.n_in, stage.n_out, cfg.dtype, rngs, strides=2, padding=(side, side))

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        return self.conv(x)


class Upsample(nnx.Module):
    """Twice the size by nearest neighbours, then a convolution."""

    def __init__(self, cfg: UNetConfig, stage: Stage, rngs: nnx.Rngs):
        self.conv = conv(stage.n_in, stage.n_out, cfg.dtype, rngs)

    def __call__(self, x: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
        return self.conv(double(x, fir=False))


class PyramidDown(nnx.Module):
    """Half the size by the FIR filter and a convolution of stride 2: a level of NCSN++'s input pyramid."""

    def __init__(self, cfg: UNetConfig, n_in: int, n_out: int, rngs: nnx.Rngs):
        self.conv = conv(n_in, n_out, cfg.dtype, rngs, strides=2, padding="VALID")

    def __call__(self, x: Images) -> Images:
        return self.conv(_filter(x, pad=2))


class Fourier(nnx.Module):
    """Sines and cosines at random frequencies that are not trained (Tancik et al., arXiv 2006.10739)."""

    def __init__(self, cfg: UNetConfig, rngs: nnx.Rngs):
        self.frequency = nnx.Param(normal(cfg.fourier_scale)(rngs.params(), (cfg.channels,)))

    def __call__(self, t: Float[Array, " b"]) -> Float[Array, "b dim"]:
        # multiplied in score_sde's order: angles reach 1000, where another rounding is seen in the network's output
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


def conv(n_in: int, n_out: int, dtype: Any, rngs: nnx.Rngs, kernel_init: Any = uniform, **options: Any) -> nnx.Conv:
    """A 3x3 convolution, with stride 1 and zero padding to the same size unless `options` of nnx.Conv say otherwise."""
    return nnx.Conv(n_in, n_out, (3, 3), dtype=jnp.dtype(dtype), kernel_init=kernel_init, rngs=rngs, **options)


def linear(n_in: int, n_out: int, dtype: Any, rngs: nnx.Rngs, kernel_init: Any = uniform) -> nnx.Linear:
    """A dense layer over the channels of every pixel."""
    return nnx.Linear(n_in, n_out, dtype=jnp.dtype(dtype), kernel_init=kernel_init, rngs=rngs)


def embedding(count: int, features: int, rngs: nnx.Rngs) -> nnx.Embed:
    """A vector with a norm of about 1 for each of `count` labels."""
    return nnx.Embed(count, features, embedding_init=normal(1 / math.sqrt(features)), rngs=rngs)


def group_norm(cfg: UNetConfig, channels: int) -> GroupNorm:
    """GroupNorm with `num_groups` groups; in narrow levels fewer, of `min_group_channels` or more."""
    most = max(1, min(cfg.num_groups, channels // cfg.min_group_channels))
    groups = next(number for number in range(most, 0, -1) if channels % number == 0)
    return GroupNorm(channels, groups, cfg.norm_eps)
