"""Convolutions on CPUs, with gradients that XLA computes quickly inside of loops.

XLA's CPU compiler leaves a convolution to a fast library only if its axes are in the order images [b, h, w, c], kernels
[h, w, c, d], with nothing reversed or dilated. It brings others into this form, but not inside of a loop, where they
take 30 to 100 times as long: the loop over micro-batches in training, or a solver's steps in the likelihood. The
gradients of `lax.conv_general_dilated` are such others. Here they are convolutions of the fast form.
"""

from typing import Any

import jax
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "k l c d"]
Padding = tuple[tuple[int, int], ...]


def convolve(x: Images, kernel: Kernel, strides: Any = (1, 1), padding: Any = "SAME", **_: Any) -> Images:
    """`lax.conv_general_dilated` as `nnx.Conv` calls it, for undilated kernels and stride 1, or 2 in both directions.

    It can be mapped, and differentiated any number of times in forward and reverse mode.
    """
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    y = _convolve.bind(x, kernel, padding=tuple(map(tuple, padding)))
    return y[:, :: strides[0], :: strides[1]]


def _plain(x: Images, kernel: Kernel, *, padding: Padding) -> Images:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _abstract(x: Any, kernel: Any, *, padding: Padding) -> jax.core.ShapedArray:
    y = jax.eval_shape(lambda x, kernel: _plain(x, kernel, padding=padding), x, kernel)
    return jax.core.ShapedArray(y.shape, y.dtype)


def _images_gradient(y_bar: Images, _: Any, kernel: Kernel, *, padding: Padding) -> Images:
    around = tuple((k - 1 - low, k - 1 - high) for k, (low, high) in zip(kernel.shape, padding, strict=False))
    return _convolve.bind(y_bar, kernel[::-1, ::-1].swapaxes(2, 3), padding=around)


def _kernel_gradient(y_bar: Images, x: Images, _: Any, *, padding: Padding) -> Kernel:
    taps = _convolve.bind(x.transpose(3, 1, 2, 0), y_bar.transpose(1, 2, 0, 3), padding=padding)
    return taps.transpose(1, 2, 0, 3)


def _mapped(values: tuple[Array, Array], axes: tuple[int | None, int | None], *, padding: Padding) -> tuple[Array, int]:
    x, kernel = values
    if axes[0] is None or axes[1] is not None:
        return jax.vmap(lambda x, kernel: _plain(x, kernel, padding=padding), axes)(x, kernel), 0
    x = jax.numpy.moveaxis(x, axes[0], 0)
    y = _convolve.bind(x.reshape(-1, *x.shape[2:]), kernel, padding=padding)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


_convolve = Primitive("convolve")  # custom_vjp has no forward mode, and custom_jvp no say in how it is transposed
_convolve.def_impl(jax.jit(_plain, static_argnames="padding"))
_convolve.def_abstract_eval(_abstract)
mlir.register_lowering(_convolve, mlir.lower_fun(_plain, multiple_results=False))
ad.defbilinear(_convolve, _images_gradient, _kernel_gradient)
batching.primitive_batchers[_convolve] = _mapped
