"""The parts of the U-Nets: attention, norms, embeddings, resampling."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from models.config import UNetConfig
from models.layers import Attention, GroupNorm, double, from_patches, halve, normal, time_embedding, to_patches, uniform


def test_attention_is_softmax_of_scaled_products() -> None:
    """Against the formula of Vaswani et al. (2017), head by head in NumPy."""
    heads, c = 2, 8
    module = Attention(UNetConfig(head_channels=c // heads), c, nnx.Rngs(0))
    module.out.kernel[...] = jax.random.normal(jax.random.key(1), (c, c))
    x = jax.random.normal(jax.random.key(2), (1, 3, 3, c))
    flat = np.asarray(module.norm(x), np.float64).reshape(9, c)
    q, k, v = np.split(flat @ np.asarray(module.qkv.kernel[...], np.float64), 3, axis=1)
    mixed = np.empty((9, c))
    for head in range(heads):
        at = slice(head * c // heads, (head + 1) * c // heads)
        weight = np.exp(q[:, at] @ k[:, at].T / np.sqrt(c / heads))
        mixed[:, at] = weight / weight.sum(axis=1, keepdims=True) @ v[:, at]
    expected = np.asarray(x).reshape(9, c) + mixed @ np.asarray(module.out.kernel[...], np.float64)
    np.testing.assert_allclose(np.asarray(module(x)).reshape(9, c), expected, atol=1e-4)


def test_time_embedding_runs_from_one_to_a_ten_thousandth() -> None:
    emb = np.asarray(time_embedding(jnp.array([0.0, 999.0]), 8), np.float64)
    np.testing.assert_array_equal(emb[0], [0, 0, 0, 0, 1, 1, 1, 1])
    angles = 999.0 * 10_000.0 ** (-np.arange(4) / 3)
    np.testing.assert_allclose(emb[1], np.concatenate([np.sin(angles), np.cos(angles)]), atol=1e-3)


def test_the_fir_filter_is_scipy_s() -> None:
    """Against zero insertion and correlation with the outer product of 1, 3, 3, 1, as StyleGAN2 defines it."""
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    x = np.random.default_rng(0).normal(size=(6, 6))
    image = jnp.asarray(x, jnp.float32)[None, :, :, None]
    smooth = scipy.signal.correlate2d(np.pad(x, 1), kernel, "valid")
    np.testing.assert_allclose(halve(image, fir=True)[0, :, :, 0], smooth[::2, ::2], atol=1e-6)
    spread = np.zeros((12, 12))
    spread[::2, ::2] = x
    larger = scipy.signal.correlate2d(np.pad(spread, ((2, 1), (2, 1))), 4 * kernel, "valid")
    np.testing.assert_allclose(double(image, fir=True)[0, :, :, 0], larger, atol=1e-6)
    np.testing.assert_allclose(halve(double(image, fir=False), fir=False), image, atol=1e-6)


def test_group_norm_is_flax_s() -> None:
    """Values and derivatives, also where the mean is large beside the spread, within float32."""
    x = 3.0 + jax.random.normal(jax.random.key(0), (2, 5, 5, 12))
    ours = GroupNorm(12, num_groups=3, epsilon=1e-6)
    theirs = nnx.GroupNorm(12, num_groups=3, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))
    for norm in (ours, theirs):
        norm.scale, norm.bias = nnx.Param(jnp.arange(12.0)), nnx.Param(jnp.arange(12.0) ** 2)
    (value, slope), (their_value, their_slope) = (jax.jvp(norm, (x,), (jnp.sin(x),)) for norm in (ours, theirs))
    np.testing.assert_allclose(value, their_value, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(slope, their_slope, rtol=2e-5, atol=2e-4)


def test_patches_are_cut_and_put_back() -> None:
    image = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = to_patches(image, 2)
    np.testing.assert_array_equal(patches[1, 0, 2].reshape(2, 2, 3), image[1, 0:2, 4:6])
    np.testing.assert_array_equal(from_patches(patches, 2), image)


@pytest.mark.parametrize("init", [uniform, normal(2.0)], ids=["uniform", "normal"])
def test_initialisers_are_functions_of_the_key_traced_or_not(init: Callable[..., jax.Array]) -> None:
    draw = partial(init, shape=(3, 3, 4, 8), dtype=jnp.bfloat16)
    once = draw(jax.random.key(1))
    assert once.dtype == jnp.bfloat16
    np.testing.assert_array_equal(once, draw(jax.random.key(1)))
    np.testing.assert_array_equal(once, jax.jit(draw)(jax.random.key(1)))
    assert not np.array_equal(once, draw(jax.random.key(2)))
