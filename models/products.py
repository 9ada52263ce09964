"""Images times kernels, with gradients that CPUs compute quickly.

XLA's CPU code computes a convolution from a library, but writes its gradient with respect to the kernel as a
convolution with windows as large as the images, which it first transposes, and computes what they are made of anew for
each use: two to three times the time of the convolution. Here that gradient is a sum over groups of images of one
matrix product whose operands stay in the cache. On GPUs and TPUs all of this is XLA's own.

`convolve`, `convolve_doubled` and `multiply` take the place of what nnx.Conv and nnx.Linear call. They are
differentiable in forward and reverse mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, linear_call
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 n_in n_out"]

_ROWS = 2048  # of one product, whose operands then stay in a core's cache
_FEWEST = 128  # pixels convolved; with less XLA's own gradient is the quicker one


def convolve(x: Images, kernel: Kernel, strides: Any = (1, 1), padding: Any = "SAME", **_: Any) -> Images:
    """3x3 convolution within a frame of zeros. Raises ValueError for another stride or padding."""
    _check(strides, padding)
    return (_convolve if _on_cpu() else _convolve_plainly)(x, kernel)


def convolve_doubled(
    x: Images, kernel: Kernel, strides: Any = (1, 1), padding: Any = "SAME", **_: Any
) -> Float[Array, "b 2*h 2*w d"]:
    """`convolve` of the image at twice the size by nearest neighbour."""
    _check(strides, padding)
    return (_convolve_doubled if _on_cpu() else _convolve_doubled_plainly)(x, kernel)


def multiply(x: Float[Array, "... c"], kernel: Float[Array, "c d"], *_: Any, **__: Any) -> Float[Array, "... d"]:
    """Each pixel's channels times a matrix."""
    return (_multiply if _on_cpu() else jnp.matmul)(x, kernel)


def _check(strides: Any, padding: Any) -> None:
    if tuple(strides) != (1, 1) or padding != "SAME":
        raise ValueError(f"only strides (1, 1) and padding 'SAME' are convolved here, got {strides} and {padding!r}")


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _bilinear(
    product: Callable[[Array, Array], Array], kernel_gradient: Callable[[Array, Array], Array]
) -> Callable[[Array, Array], Array]:
    """product(x, kernel), whose gradient with respect to the kernel is kernel_gradient(x, gradient of the product)."""
    fn = jax.custom_jvp(product)

    def jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        (x, kernel), (x_dot, kernel_dot) = primals, tangents
        slopes = []
        if not isinstance(x_dot, SymbolicZero):
            slopes.append(product(x_dot, kernel))
        if not isinstance(kernel_dot, SymbolicZero):
            slopes.append(linear_call(product, kernel_gradient, x, kernel_dot))
        return product(x, kernel), sum(slopes[1:], slopes[0])

    fn.defjvp(jvp, symbolic_zeros=True)
    return fn


def _convolve_plainly(x: Images, kernel: Kernel) -> Images:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_doubled_plainly(x: Images, kernel: Kernel) -> Images:
    return _convolve_plainly(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), kernel)


@jax.jit
def _kernel_gradient(x: Images, y_bar: Images) -> Kernel:
    """Of `convolve`. Rows are shifted in x and columns in y_bar, so that one product holds all nine taps."""
    h, w, n_in, n_out = *x.shape[1:], y_bar.shape[-1]
    if h * w < _FEWEST:
        return _gradient_by_xla(_convolve_plainly, x, y_bar)

    def shifted_rows(x: Array) -> Array:
        framed = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)])
        return jnp.concatenate([framed[..., tap : tap + h, :] for tap in (0, 1, 2)])

    def shifted_columns(y_bar: Array) -> Array:
        framed = jnp.pad(y_bar, [(0, 0), (0, 0), (1, 1), (0, 0)])
        return jnp.concatenate([framed[..., 2 - tap : 2 - tap + w, :] for tap in (0, 1, 2)], -1)

    taps = _sum_of_products(x, y_bar, shifted_rows, shifted_columns).reshape(3, n_in, 3, n_out)
    return taps.swapaxes(1, 2).astype(y_bar.dtype)


@jax.jit
def _doubled_kernel_gradient(x: Images, y_bar: Images) -> Kernel:
    """Of `convolve_doubled`: a tap sees each pixel of x through 2x2 pixels of the doubled image, whose sum is taken."""
    h, w, n_in, n_out = *x.shape[1:], y_bar.shape[-1]
    if 4 * h * w < _FEWEST:
        return _gradient_by_xla(_convolve_doubled_plainly, x, y_bar)
    framed = jnp.pad(y_bar, [(0, 0), (1, 1), (1, 1), (0, 0)])
    tall = framed[:, 1:] + framed[:, :-1]
    squares = tall[:, :, 1:] + tall[:, :, :-1]  # [b, 2 h + 1, 2 w + 1, n_out]

    def all_taps(squares: Array) -> Array:
        starts = [(2 - row, 2 - column) for row in (0, 1, 2) for column in (0, 1, 2)]
        return jnp.concatenate([squares[..., i : i + 2 * h : 2, j : j + 2 * w : 2, :] for i, j in starts], -1)

    taps = _sum_of_products(x, squares, lambda x: x, all_taps).reshape(n_in, 3, 3, n_out)
    return taps.transpose(1, 2, 0, 3).astype(y_bar.dtype)


def _gradient_by_xla(product: Callable[[Array, Array], Array], x: Images, y_bar: Images) -> Kernel:
    kernel = jnp.zeros((3, 3, x.shape[-1], y_bar.shape[-1]), x.dtype)
    return jax.linear_transpose(partial(product, x), kernel)(y_bar)[0]


def _matrix_gradient(x: Array, y_bar: Array) -> Array:
    x, y_bar = lax.optimization_barrier((x, y_bar))  # or the product's transposition computes them anew, out of order
    return x.reshape(-1, x.shape[-1]).T @ y_bar.reshape(-1, y_bar.shape[-1])


def _sum_of_products(
    x: Images, y: Images, left: Callable[[Array], Array], right: Callable[[Array], Array]
) -> Float[Array, "k m"]:
    """Each channel of left(x) times each of right(y), summed over pixels and images, a few of these at a time: float32.

    left maps x as [c, g, h, w] to [k, g, h', w']; right maps y as [g, h, w, c] to [g, h', w', m].
    """
    most = min(max(_ROWS // (x.shape[1] * x.shape[2]), 1), len(x))
    group = next(count for count in range(most, 0, -1) if len(x) % count == 0)
    x, y = (z.reshape(-1, group, *z.shape[1:]) for z in (x, y))

    def add(i: Array, total: Array) -> Array:
        a, b = operands(*(lax.dynamic_index_in_dim(z, i, keepdims=False) for z in (x, y)))
        return total + jnp.matmul(a, b, preferred_element_type=jnp.float32)

    def operands(x: Array, y: Array) -> tuple[Array, Array]:
        a, b = left(lax.optimization_barrier(jnp.moveaxis(x, -1, 0))), right(y)
        return lax.optimization_barrier((a.reshape(len(a), -1), b.reshape(-1, b.shape[-1])))

    a, b = jax.eval_shape(operands, x[0], y[0])
    return lax.fori_loop(0, len(x), add, jnp.zeros((len(a), b.shape[-1])))


_convolve = _bilinear(_convolve_plainly, _kernel_gradient)
_convolve_doubled = _bilinear(_convolve_doubled_plainly, _doubled_kernel_gradient)
_multiply = _bilinear(jnp.matmul, _matrix_gradient)
