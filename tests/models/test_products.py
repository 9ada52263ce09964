"""Convolutions with gradients of our own against XLA's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.products import convolve, convolve_doubled, multiply

pytestmark = pytest.mark.usefixtures("quick_to_compile")

SHAPE = (3, 12, 14, 5)


def conv(x, kernel, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv_doubled(x, kernel):
    return conv(x.repeat(2, axis=1).repeat(2, axis=2), kernel)


def halving(fn, padding):
    return partial(fn, strides=(2, 2), padding=padding)


CASES = {
    "convolve": (convolve, conv, SHAPE, (3, 3, 5, 7)),
    "convolve few pixels": (convolve, conv, (4, 2, 3, 5), (3, 3, 5, 7)),
    "doubled": (convolve_doubled, conv_doubled, SHAPE, (3, 3, 5, 7)),
    "doubled few pixels": (convolve_doubled, conv_doubled, (4, 1, 2, 5), (3, 3, 5, 7)),
    "halving": (halving(convolve, [(0, 1), (0, 1)]), halving(conv, [(0, 1), (0, 1)]), SHAPE, (3, 3, 5, 7)),
    "halving all sides": (halving(convolve, [(1, 1)] * 2), halving(conv, [(1, 1)] * 2), SHAPE, (3, 3, 5, 7)),
    "halving valid": (halving(convolve, "VALID"), halving(conv, "VALID"), (3, 13, 15, 5), (3, 3, 5, 7)),
    "halving same": (halving(convolve, "SAME"), halving(conv, "SAME"), SHAPE, (3, 3, 5, 7)),
    "multiply": (multiply, jnp.matmul, SHAPE, (5, 7)),
}
each_case = pytest.mark.parametrize(("ours", "theirs", "shape", "kernel_shape"), CASES.values(), ids=CASES)


def draw(seed, shape, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def assert_close(got, wanted, tolerance=2e-6):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    got, wanted = (np.asarray(leaf, np.float64) for leaf in (got, wanted))
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@each_case
def test_values_and_gradients_are_those_of_xla(ours, theirs, shape, kernel_shape):
    x, kernel = draw(0, shape), draw(1, kernel_shape)
    (got, back), (wanted, back_wanted) = jax.vjp(ours, x, kernel), jax.vjp(theirs, x, kernel)
    assert_close(got, wanted)
    y_bar = draw(2, wanted.shape)
    jax.tree.map(assert_close, jax.jit(back)(y_bar), jax.jit(back_wanted)(y_bar))


@each_case
def test_directional_derivatives_are_those_of_xla(ours, theirs, shape, kernel_shape):
    at, along = (draw(0, shape), draw(1, kernel_shape)), (draw(2, shape), draw(3, kernel_shape))
    jax.tree.map(assert_close, jax.jvp(ours, at, along), jax.jvp(theirs, at, along))


@each_case
def test_a_derivative_by_the_images_can_be_mapped_over_directions(ours, theirs, shape, kernel_shape):
    """As the exact divergence of the likelihood does."""
    x, kernel, along = draw(0, shape), draw(1, kernel_shape), draw(2, (3, *shape))

    def slopes(fn):
        return jax.vmap(jax.linearize(lambda x: fn(x, kernel), x)[1])(along)

    got, wanted = slopes(ours), slopes(theirs)
    assert_close(got, wanted)


@each_case
def test_gradients_can_be_mapped_and_differentiated_again(ours, theirs, shape, kernel_shape):
    x, kernel, along = draw(0, (2, *shape)), draw(1, kernel_shape), draw(2, kernel_shape)

    def slopes_of_gradients(fn):
        def gradients(kernel):
            return jax.vmap(jax.grad(lambda kernel, x: jnp.sum(fn(x, kernel) ** 3), (0, 1)), (None, 0))(kernel, x)

        return jax.jvp(gradients, (kernel,), (along,))

    def several_kernels(fn):
        return jax.vmap(fn, (None, 0))(x[0], jnp.stack([kernel, along]))

    jax.tree.map(partial(assert_close, tolerance=1e-5), slopes_of_gradients(ours), slopes_of_gradients(theirs))
    assert_close(several_kernels(ours), several_kernels(theirs))


@each_case
def test_all_convolutions_of_a_gradient_are_such_as_xla_computes_quickly_in_loops(ours, theirs, shape, kernel_shape):
    def loss(fn):
        return lambda x, kernel: jnp.sum(fn(x, kernel) ** 2)

    def convolutions(fn):
        text = jax.jit(jax.grad(loss(fn), (0, 1))).lower(draw(0, shape), draw(1, kernel_shape)).as_text()
        return [line for line in text.splitlines() if "stablehlo.convolution" in line]

    def quick(line):
        plain = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line
        return plain and "lhs_dilate = [1, 1], rhs_dilate = [1, 1], reverse = [false, false]" in line

    assert all(map(quick, convolutions(ours)))
    assert theirs is jnp.matmul or not all(map(quick, convolutions(theirs)))


@pytest.mark.parametrize(("ours", "theirs"), [(convolve, conv), (convolve_doubled, conv_doubled)])
def test_the_kernel_gradient_of_bfloat16_is_summed_in_float32(ours, theirs):
    x, kernel = draw(0, (64, 16, 16, 4)), draw(1, (3, 3, 4, 4))
    y_bar = jnp.ones_like(theirs(x, kernel), jnp.bfloat16)
    exact = jax.vjp(theirs, x.astype(jnp.bfloat16).astype(jnp.float32), kernel)[1](y_bar.astype(jnp.float32))[1]
    got = jax.vjp(ours, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))[1](y_bar)[1]
    assert_close(got, exact.astype(jnp.bfloat16), tolerance=2**-7)


@pytest.mark.parametrize(
    ("ours", "strides", "padding"),
    [(convolve, (1, 1), "VALID"), (convolve, (3, 3), "SAME"), (convolve_doubled, (2, 2), "SAME")],
)
def test_other_convolutions_are_refused(ours, strides, padding):
    with pytest.raises(ValueError, match="convolved here"):
        ours(draw(0, SHAPE), draw(1, (3, 3, 5, 7)), strides, padding)
