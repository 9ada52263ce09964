"""Layers of frozen convolutional networks, float32, images as [b, h, w, c].

A network is a plain function of pixels and of `conv`, which stands for all its convolutions, each called by name. It is
read twice: `kernel_shapes` learns from it which weights it needs, `with_layers` computes.
"""

import math
from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Num, UInt8

from eval.features.weights import Layer, Layers, Shapes

# GPUs would otherwise round to TF32, which keeps 10 bits
PRECISION = jax.lax.Precision.HIGHEST


Conv = Callable[..., Array]
"""A convolution with bias: conv(x, name, features, kernel=(1, 1), stride=1, padding="SAME", depthwise=False).

padding: "SAME", with the odd pixel at the end as in TensorFlow, or "VALID". depthwise: each output feature depends on
the input feature of the same number alone.
"""

ConvNet = Callable[[Conv, Float[Array, "b h w c"]], Float[Array, "b d"]]


def kernel_shapes(network: ConvNet, size: int) -> Shapes:
    """The shape of every convolution's kernel, by name; nothing is computed.

    size: height and width of the RGB images that the network takes, in pixels.
    """
    shapes: Shapes = {}

    def conv(x, name, features, kernel=(1, 1), stride=1, padding="SAME", depthwise=False):
        shapes[name] = (*kernel, 1 if depthwise else x.shape[-1], features)
        return _convolve(x, Layer(jnp.zeros(shapes[name]), jnp.zeros(features)), stride, padding, depthwise)

    jax.eval_shape(partial(network, conv), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return shapes


def with_layers(layers: Layers) -> Conv:
    """The `conv` of a network whose convolutions have these weights."""

    def conv(x, name, features, kernel=(1, 1), stride=1, padding="SAME", depthwise=False):
        return _convolve(x, layers[name], stride, padding, depthwise)

    return conv


def _convolve(x: Array, layer: Layer, stride: int, padding: str, depthwise: bool) -> Array:
    if depthwise:
        return _depthwise(x, layer.kernel, stride, padding) + layer.bias
    y = jax.lax.conv_general_dilated(
        x, layer.kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=PRECISION
    )
    return y + layer.bias


def _depthwise(x: Array, kernel: Array, stride: int, padding: str) -> Array:
    """A depthwise convolution as a sum over the kernel's pixels: ten times as fast on CPUs as XLA's grouped one."""
    sides = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), padding)
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)))
    rows, columns = (n - side + 1 for n, side in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    terms = [
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i, j in np.ndindex(*kernel.shape[:2])
    ]
    return reduce(jnp.add, terms)


def dense(x: Float[Array, "b d"], kernel: Float[Array, "d k"]) -> Float[Array, "b k"]:
    """x @ kernel in full float32 precision."""
    return jnp.matmul(x, kernel, precision=PRECISION)


def rgb(images: Num[Array, "b h w c"]) -> Float[Array, "b h w 3"]:
    """Grey or RGB images as RGB, with the same values in float32."""
    return jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:-1], 3))


def on_devices(
    outputs: Callable[[Layers, Array], tuple[Array, Array]], layers: Layers, batch_size: int
) -> Callable[[UInt8[np.ndarray, "b h w c"]], tuple[Array, Array]]:
    """`outputs(layers, images)`, compiled, its batches sharded over as many local devices as divide batch_size."""
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices[: math.gcd(len(devices), batch_size)]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    replicated = jax.device_put(layers, NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(outputs)
    return lambda images: compiled(replicated, jax.device_put(images, rows))


def max_pool(x: Float[Array, "b h w c"], stride: int = 1, padding: str = "SAME") -> Float[Array, "b h2 w2 c"]:
    """The largest value of each 3x3 window: every one ("SAME", stride 1), or those inside the image ("VALID")."""
    return nnx.max_pool(x, (3, 3), (stride, stride), padding)


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of each pixel's 3x3 neighbourhood, of which only what lies inside the image counts."""
    return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def bilinear(images: Float[Array, "b h w c"], size: int, convention: str) -> Float[Array, "b size size c"]:
    """Square images of `size` pixels a side, interpolated and not smoothed first, in float32.

    convention, of where output pixel i of `size` lies among n input pixels:
        "pytorch": at (i + 1/2) n / size - 1/2, so that the pictures' edges meet: F.interpolate(align_corners=False).
        "tf1": at i n / size, so that the first pixels' centres meet: TensorFlow 1's resize_bilinear.
    """
    rows, columns = (jnp.asarray(_interpolation(n, size, convention)) for n in images.shape[1:3])
    return jnp.einsum("yh,bhwc,xw->byxc", rows, images, columns, precision=PRECISION)


def _interpolation(n: int, size: int, convention: str) -> Float[np.ndarray, "size n"]:
    """Row i holds the weights of the input pixels in output pixel i."""
    shift = {"pytorch": 0.5, "tf1": 0.0}[convention]
    at = ((np.arange(size) + shift) * n / size - shift).clip(0, n - 1)
    left = np.floor(at).astype(int)
    weights = np.zeros((size, n))
    np.add.at(weights, (np.arange(size), left), 1 - (at - left))
    np.add.at(weights, (np.arange(size), np.minimum(left + 1, n - 1)), at - left)
    return weights.astype(np.float32)
