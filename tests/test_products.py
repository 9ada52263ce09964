"""Convolutions with gradients of our own against XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.products import convolve, convolve_doubled, multiply

SHAPES = [(4, 4, 6, 5), (3, 12, 14, 5)]  # few pixels, whose gradients are XLA's; and more


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_doubled(x, kernel):
    return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


CASES = [
    *[(convolve, conv, shape, (3, 3, shape[-1], 7)) for shape in SHAPES],
    *[(convolve_doubled, conv_doubled, shape, (3, 3, shape[-1], 7)) for shape in SHAPES],
    *[(multiply, jnp.matmul, shape, (shape[-1], 7)) for shape in SHAPES],
]


def draw(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def assert_close(got, wanted, tolerance=2e-6):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    got, wanted = (np.asarray(leaf, np.float64) for leaf in (got, wanted))
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize(("ours", "theirs", "shape", "kernel_shape"), CASES)
def test_values_and_gradients_are_those_of_xla(ours, theirs, shape, kernel_shape):
    x, kernel = draw(0, shape), draw(1, kernel_shape)
    (got, back), (wanted, back_wanted) = jax.vjp(ours, x, kernel), jax.vjp(theirs, x, kernel)
    assert_close(got, wanted)
    y_bar = draw(2, wanted.shape)
    jax.tree.map(assert_close, jax.jit(back)(y_bar), jax.jit(back_wanted)(y_bar))


@pytest.mark.parametrize(("ours", "theirs", "shape", "kernel_shape"), CASES)
def test_directional_derivatives_are_those_of_xla(ours, theirs, shape, kernel_shape):
    at, along = (draw(0, shape), draw(1, kernel_shape)), (draw(2, shape), draw(3, kernel_shape))
    jax.tree.map(assert_close, jax.jvp(ours, at, along), jax.jvp(theirs, at, along))


@pytest.mark.parametrize(("ours", "theirs", "shape", "kernel_shape"), CASES[1::2])
def test_a_derivative_by_the_images_can_be_mapped_over_directions(ours, theirs, shape, kernel_shape):
    """As the exact divergence of the likelihood does."""
    x, kernel, along = draw(0, shape), draw(1, kernel_shape), draw(2, (3, *shape))

    def slopes(fn):
        return jax.vmap(jax.linearize(lambda x: fn(x, kernel), x)[1])(along)

    got, wanted = slopes(ours), slopes(theirs)
    assert_close(got, wanted)


@pytest.mark.parametrize(("ours", "theirs"), [(convolve, conv), (convolve_doubled, conv_doubled)])
def test_the_kernel_gradient_of_bfloat16_is_summed_in_float32(ours, theirs):
    x, kernel = draw(0, (64, 16, 16, 4)), draw(1, (3, 3, 4, 4))
    y_bar = jnp.ones_like(theirs(x, kernel), jnp.bfloat16)
    exact = jax.vjp(theirs, x.astype(jnp.bfloat16).astype(jnp.float32), kernel)[1](y_bar.astype(jnp.float32))[1]
    got = jax.vjp(ours, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))[1](y_bar)[1]
    assert_close(got, exact.astype(jnp.bfloat16), tolerance=2**-7)


@pytest.mark.parametrize("ours", [convolve, convolve_doubled])
@pytest.mark.parametrize(("strides", "padding"), [((2, 2), "SAME"), ((1, 1), "VALID")])
def test_other_convolutions_are_refused(ours, strides, padding):
    with pytest.raises(ValueError, match="only strides"):
        ours(draw(0, SHAPES[0]), draw(1, (3, 3, 5, 7)), strides, padding)
