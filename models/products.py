"""Images times kernels, with gradients that CPUs compute quickly.

XLA's CPU code computes a convolution from a library, but writes its gradient with respect to the kernel as a
convolution with windows as large as the images, which it first transposes, and computes what they are made of anew for
each use: two to three times the time of the convolution. Here that gradient is a sum over groups of images of one
matrix product whose operands stay in the cache. In loops, XLA leaves convolutions whose axes are in another order than
images [b, h, w, c] and kernels [3, 3, n_in, n_out] to code that takes 30 to 100 times as long: here none is written.
Taps that see the same pixel of a doubled image are added before they are multiplied, which halves the products.
On GPUs and TPUs all of this is XLA's own.

`convolve`, `convolve_doubled` and `multiply` take the place of what nnx.Conv and nnx.Linear call. They can be
differentiated any number of times, in forward and reverse mode, and mapped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]
Kernel = Float[Array, "3 3 n_in n_out"]

_ROWS = 2048  # of one product, whose operands then stay in a core's cache


def convolve(x: Images, kernel: Kernel, strides: Any = (1, 1), padding: Any = "SAME", **_: Any) -> Images:
    """3x3 convolution of stride 1 within a frame of zeros, or of stride 2 with any padding.

    Raises ValueError for anything else.
    """
    halving = tuple(strides) == (2, 2)
    if not halving and (tuple(strides) != (1, 1) or padding != "SAME"):
        raise ValueError(f"convolved here: stride 1 with padding 'SAME', or stride 2; got {strides} and {padding!r}")
    if not _on_cpu():
        return _convolve_as_told(x, kernel, strides, padding)
    return _convolve_halving(_framed(x, padding), kernel) if halving else _convolve(x, kernel)


def convolve_doubled(
    x: Images, kernel: Kernel, strides: Any = (1, 1), padding: Any = "SAME", **_: Any
) -> Float[Array, "b 2*h 2*w d"]:
    """`convolve` of the image at twice the size by nearest neighbour.

    Raises ValueError for another stride or padding.
    """
    if tuple(strides) != (1, 1) or padding != "SAME":
        raise ValueError(f"convolved here: stride 1 with padding 'SAME', got {strides} and {padding!r}")
    return (_convolve_doubled if _on_cpu() else _convolve_doubled_plainly)(x, kernel)


def multiply(x: Float[Array, "... c"], kernel: Float[Array, "c d"], *_: Any, **__: Any) -> Float[Array, "... d"]:
    """Each pixel's channels times a matrix."""
    return (_multiply if _on_cpu() else jnp.matmul)(x, kernel)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _framed(x: Images, padding: Any) -> Images:
    """x with its padding, less what a window of 3 at stride 2 does not reach."""
    pairs = lax.padtype_to_pads(x.shape[1:3], (3, 3), (2, 2), padding) if isinstance(padding, str) else padding

    def change(size: int, low: int, high: int) -> tuple[int, int, int]:
        reached = 2 * ((size + low + high - 3) // 2) + 3
        return low, reached - size - low, 0

    along = [change(size, *pair) for size, pair in zip(x.shape[1:3], pairs, strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *along, (0, 0, 0)])


def _bilinear(
    product: Callable[[Array, Array], Array],
    x_gradient: Callable[[Array, Array], Array],
    kernel_gradient: Callable[[Array, Array], Array],
    elsewhere: Callable[[Array, Array], Array] | None = None,
) -> Callable[[Array, Array], Array]:
    """product(x, kernel) with the gradients x_gradient(kernel, y_bar) and kernel_gradient(x, y_bar).

    elsewhere: what is lowered for other devices than CPUs, if not product.

    A primitive, since custom_vjp has no forward mode, and custom_jvp with linear_call is not mapped over kernels nor
    differentiated twice.
    """
    primitive = Primitive(product.__name__.strip("_"))
    product = jax.jit(product)  # to be traced once for all that are alike
    primitive.def_impl(product)

    def shape(x: Any, kernel: Any) -> jax.core.ShapedArray:
        y = jax.eval_shape(product, x, kernel)
        return jax.core.ShapedArray(y.shape, y.dtype)

    def mapped(values: tuple[Array, Array], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
        if axes[1] is not None:
            return jax.vmap(product, axes)(*values), 0
        assert axes[0] is not None
        x = jnp.moveaxis(values[0], axes[0], 0)
        y = primitive.bind(x.reshape(-1, *x.shape[2:]), values[1])
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0

    primitive.def_abstract_eval(shape)
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere or product, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(product, multiple_results=False), platform="cpu")
    ad.defbilinear(
        primitive,
        lambda y_bar, _, kernel: x_gradient(kernel, y_bar),
        lambda y_bar, x, _: kernel_gradient(x, y_bar),
    )
    batching.primitive_batchers[primitive] = mapped
    return primitive.bind


def _convolve_as_told(x: Images, kernel: Float[Array, "k l n_in n_out"], strides: Any, padding: Any) -> Images:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _convolve_plainly(x: Images, kernel: Kernel) -> Images:
    return _convolve_as_told(x, kernel, (1, 1), "SAME")


def _convolve_doubled_plainly(x: Images, kernel: Kernel) -> Images:
    return _convolve_plainly(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), kernel)


def _convolve_doubled_in_half(x: Images, kernel: Kernel) -> Images:
    """Half the products: a window of the doubled image shows 2x2 pixels, so taps that see the same one are added.

    A 2x2 window over x gives, as channels, the 2x2 pixels around the corner between its own.
    """
    n_in = x.shape[-1]

    def seen(taps: Array) -> Array:
        """[3, ...] to [side of the corner, pixel, ...]"""
        return jnp.stack([jnp.stack([taps[0] + taps[1], taps[2]]), jnp.stack([taps[0], taps[1] + taps[2]])])

    window = seen(jnp.moveaxis(seen(kernel), 2, 0)).transpose(3, 1, 4, 2, 0, 5)
    squares = _convolve_as_told(x, window.reshape(2, 2, n_in, -1), (1, 1), [(1, 1), (1, 1)])
    return _of_squares(squares)[:, 1:-1, 1:-1]


def _of_squares(squares: Float[Array, "b h w 4*c"]) -> Float[Array, "b 2*h 2*w c"]:
    """The 2x2 pixels that lie in each pixel's channels."""
    b, h, w, c = squares.shape
    return squares.reshape(b, h, w, 2, 2, c // 4).swapaxes(2, 3).reshape(b, 2 * h, 2 * w, c // 4)


def _convolve_halving_plainly(x: Float[Array, "b 2*h+1 2*w+1 c"], kernel: Kernel) -> Images:
    return _convolve_as_told(x, kernel, (2, 2), "VALID")


def _x_gradient(kernel: Kernel, y_bar: Images) -> Images:
    """Of `convolve`: the convolution with the kernel turned round."""
    return _convolve_plainly(y_bar, kernel[::-1, ::-1].swapaxes(2, 3))


def _doubled_x_gradient(kernel: Kernel, y_bar: Images) -> Images:
    """Of `convolve_doubled`: a pixel is seen from 4x4 pixels of the doubled image, through one or two taps a side."""

    def seen(taps: Array) -> Array:
        return jnp.stack([taps[2], taps[1] + taps[2], taps[0] + taps[1], taps[0]])

    window = seen(jnp.moveaxis(seen(kernel), 1, 0)).transpose(1, 0, 3, 2)
    return _convolve_as_told(y_bar, window, (2, 2), [(1, 1), (1, 1)])


def _halving_x_gradient(kernel: Kernel, y_bar: Images) -> Float[Array, "b 2*h+1 2*w+1 c"]:
    """Of stride 2: taps 0 and 2 meet every other pixel, tap 1 those between.

    A 2x2 window gives the 2x2 pixels of all kinds as channels.
    """
    n_in, n_out = kernel.shape[2:]
    kinds = jnp.pad(kernel, [(0, 1), (0, 1), (0, 0), (0, 0)]).reshape(2, 2, 2, 2, n_in, n_out)[::-1, :, ::-1]
    window = kinds.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, n_out, 4 * n_in)
    return _of_squares(_convolve_as_told(y_bar, window, (1, 1), [(1, 1), (1, 1)]))[:, :-1, :-1]


@jax.jit
def _kernel_gradient(x: Images, y_bar: Images) -> Kernel:
    """Of `convolve`. Rows are shifted in x and columns in y_bar, so that one product holds all nine taps."""
    h, w, n_in, n_out = *x.shape[1:], y_bar.shape[-1]

    def shifted_rows(x: Array) -> Array:
        framed = lax.optimization_barrier(jnp.pad(x, [(0, 0), (0, 0), (1, 1), (0, 0)]))  # or x is transposed twice
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
    framed = jnp.pad(y_bar, [(0, 0), (1, 1), (1, 1), (0, 0)])
    tall = framed[:, 1:] + framed[:, :-1]
    squares = tall[:, :, 1:] + tall[:, :, :-1]  # [b, 2 h + 1, 2 w + 1, n_out]

    def all_taps(squares: Array) -> Array:
        starts = [(2 - row, 2 - column) for row in (0, 1, 2) for column in (0, 1, 2)]
        return jnp.concatenate([squares[..., i : i + 2 * h : 2, j : j + 2 * w : 2, :] for i, j in starts], -1)

    taps = _sum_of_products(x, squares, lambda x: x, all_taps).reshape(n_in, 3, 3, n_out)
    return taps.transpose(1, 2, 0, 3).astype(y_bar.dtype)


@jax.jit
def _halving_kernel_gradient(x: Float[Array, "b 2*h+1 2*w+1 c"], y_bar: Images) -> Kernel:
    """Of stride 2: one product for all nine taps."""
    h, w, n_in, n_out = *y_bar.shape[1:3], x.shape[-1], y_bar.shape[-1]

    def all_taps(x: Array) -> Array:
        starts = [(row, column) for row in (0, 1, 2) for column in (0, 1, 2)]
        return jnp.concatenate([x[..., i : i + 2 * h : 2, j : j + 2 * w : 2] for i, j in starts])

    taps = _sum_of_products(x, y_bar, all_taps, lambda y_bar: y_bar)
    return taps.reshape(3, 3, n_in, n_out).astype(y_bar.dtype)


def _matrix_gradient(x: Array, y_bar: Array) -> Array:
    x, y_bar = lax.optimization_barrier((x, y_bar))  # or the product's transposition computes them anew, out of order
    transposed = lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)  # or slower code transposes as it multiplies
    return transposed @ y_bar.reshape(-1, y_bar.shape[-1])


def _sum_of_products(
    x: Images, y: Images, left: Callable[[Array], Array], right: Callable[[Array], Array]
) -> Float[Array, "k m"]:
    """Each channel of left(x) times each of right(y), summed over pixels and images, a few of these at a time: float32.

    left maps x as [c, g, h, w] to [k, g, h', w']; right maps y as [g, h, w, c] to [g, h', w', m].
    """
    # two groups or more: of a loop of one turn, XLA would compute the operands early and keep them
    most = max(min(_ROWS // (x.shape[1] * x.shape[2]), len(x) // 2), 1)
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


_convolve = _bilinear(_convolve_plainly, _x_gradient, _kernel_gradient)
_convolve_doubled = _bilinear(
    _convolve_doubled_in_half, _doubled_x_gradient, _doubled_kernel_gradient, _convolve_doubled_plainly
)
_convolve_halving = _bilinear(_convolve_halving_plainly, _halving_x_gradient, _halving_kernel_gradient)
_multiply = _bilinear(jnp.matmul, lambda kernel, y_bar: y_bar @ kernel.T, _matrix_gradient)
