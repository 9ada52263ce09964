"""The convolutions for CPUs against XLA's own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.cpu import convolve

pytestmark = pytest.mark.usefixtures("quick_to_compile")

AT, ALONG = (
    (
        jax.random.normal(jax.random.key(seed), (3, 12, 14, 5)),
        jax.random.normal(jax.random.key(seed + 1), (3, 3, 5, 7)),
    )
    for seed in (0, 2)
)
CASES = {
    "stride 1": {"strides": (1, 1), "padding": "SAME"},
    "stride 2, right and bottom": {"strides": (2, 2), "padding": [(0, 1), (0, 1)]},
    "stride 2, all sides": {"strides": (2, 2), "padding": [(1, 1), (1, 1)]},
    "stride 2, valid": {"strides": (2, 2), "padding": "VALID"},
    "stride 2, same": {"strides": (2, 2), "padding": "SAME"},
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def pair(case):
    """(ours, XLA's), functions of images and kernel."""
    theirs = partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    options = {"window_strides": case["strides"], "padding": case["padding"]}
    return partial(convolve, **case), partial(theirs, **options)


def assert_close(got, wanted):
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


@each_case
def test_values_and_derivatives_in_both_modes_are_xla_s(case):
    ours, theirs = pair(case)
    jax.tree.map(assert_close, jax.jvp(ours, AT, ALONG), jax.jvp(theirs, AT, ALONG))
    (_, back), (wanted, back_wanted) = jax.vjp(ours, *AT), jax.vjp(theirs, *AT)
    jax.tree.map(assert_close, back(jnp.cos(wanted)), back_wanted(jnp.cos(wanted)))


@each_case
def test_derivatives_can_be_mapped_and_differentiated_again(case):
    """As the exact divergence of the likelihood maps over directions."""

    def slopes(fn):
        return jax.vmap(jax.linearize(lambda x: fn(x, AT[1]), AT[0])[1])(jnp.stack([AT[0], ALONG[0]]))

    def slope_of_gradients(fn):
        def gradients(kernel):
            loss = jax.grad(lambda kernel, x: jnp.sum(fn(x[None], kernel) ** 3), (0, 1))
            return jax.vmap(loss, (None, 0))(kernel, AT[0])

        return jax.jvp(gradients, AT[1:], ALONG[1:])

    def several_kernels(fn):
        return jax.vmap(fn, (None, 0))(AT[0], jnp.stack([AT[1], ALONG[1]]))

    ours, theirs = pair(case)
    for transformed in (slopes, slope_of_gradients, several_kernels):
        jax.tree.map(assert_close, transformed(ours), transformed(theirs))


@each_case
def test_gradients_are_convolutions_that_xla_computes_quickly_in_loops(case):
    def all_are_quick(fn):
        loss = jax.grad(lambda x, kernel: jnp.sum(fn(x, kernel) ** 2), (0, 1))
        text = jax.jit(loss).lower(*AT).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert len(lines) == 3
        plain = "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
        unchanged = "lhs_dilate = [1, 1], rhs_dilate = [1, 1], reverse = [false, false]"
        return all(plain in line and unchanged in line for line in lines)

    ours, theirs = pair(case)
    assert all_are_quick(ours)
    assert not all_are_quick(theirs)
