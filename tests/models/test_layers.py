"""The parts of the U-Nets: attention, norms, embeddings, resampling."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from models.config import UNetConfig
from models.layers import Attention, Draws, GroupNorm, double, from_patches, halve, time_embedding, to_patches

pytestmark = pytest.mark.usefixtures("quick_to_compile")


def test_attention_is_softmax_of_scaled_products() -> None:
    """Against the formula of Vaswani et al. (2017), head by head in NumPy."""
    heads, c = 2, 8
    numbers = jax.random.uniform(jax.random.key(0), (3 * c * c,), minval=-1)
    module = Attention(UNetConfig(head_channels=c // heads), c, Draws(numbers))
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
    """Also where the mean is large beside the spread, within float32."""
    x = 3.0 + jax.random.normal(jax.random.key(0), (2, 5, 5, 12))
    ours = GroupNorm(12, num_groups=3, epsilon=1e-6)
    theirs = nnx.GroupNorm(12, num_groups=3, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))
    module: Any
    for module in (ours, theirs):
        module.scale[...] = jnp.arange(12.0)
        module.bias[...] = jnp.arange(12.0) ** 2
    np.testing.assert_allclose(ours(x), theirs(x), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(ours(x, nnx.silu), nnx.silu(theirs(x)), rtol=2e-5, atol=2e-5)


def test_group_norm_s_gradient_is_flax_s_and_keeps_the_input_only() -> None:
    x, along = jax.random.normal(jax.random.key(0), (2, 3, 5, 5, 12))
    ours = GroupNorm(12, num_groups=3, epsilon=1e-6)
    theirs = nnx.GroupNorm(12, num_groups=3, epsilon=1e-6, use_fast_variance=False, rngs=nnx.Rngs(0))
    params = {"scale": jnp.arange(12.0), "bias": jnp.arange(12.0) - 5}

    def pullback(module: nnx.Module, call: Callable[[Any, jax.Array], jax.Array]) -> Any:
        graph, state = nnx.split(module)

        def of(x: jax.Array, params: dict[str, jax.Array]) -> jax.Array:
            nnx.replace_by_pure_dict(state, params)
            return call(nnx.merge(graph, state), x)

        return jax.vjp(of, x, params)[1]

    got = pullback(ours, lambda module, x: module(x, nnx.silu))
    wanted = pullback(theirs, lambda module, x: nnx.silu(module(x)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-4), got(along), wanted(along))
    assert sum(leaf.shape == x.shape for leaf in jax.tree.leaves(got)) == 1
    assert sum(leaf.shape == x.shape for leaf in jax.tree.leaves(wanted)) > 1


def test_patches_are_cut_and_put_back() -> None:
    image = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = to_patches(image, 2)
    np.testing.assert_array_equal(patches[1, 0, 2].reshape(2, 2, 3), image[1, 0:2, 4:6])
    np.testing.assert_array_equal(from_patches(patches, 2), image)
