"""Layers of frozen convolutional networks, float32, images as [b, h, w, c], and the extractor that they make.

A network is a plain function of pixels and of `conv`, which stands for all its convolutions, each called by name. It is
read twice: `kernel_shapes` learns from it which weights it needs, `with_layers` computes.
"""

import math
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Num

from eval.features.extractor import Extractor, identity
from eval.features.weights import Layer, Layers, Shapes

# GPUs would otherwise round to TF32, which keeps 10 bits
PRECISION = jax.lax.Precision.HIGHEST


Conv = Callable[..., Array]
"""A convolution with bias: conv(x, name, features, kernel=(1, 1), stride=1, padding="SAME", depthwise=False).

padding: "SAME", with the odd pixel at the end as in TensorFlow, or "VALID". depthwise: each output feature depends on
the input feature of the same number alone.
"""


def kernel_shapes(network: Callable[[Conv, Float[Array, "b h w c"]], Array], size: int) -> Shapes:
    """The shape of every convolution's kernel, by name; nothing is computed.

    size: height and width of the RGB images that the network takes, in pixels.
    """
    shapes: Shapes = {}

    def conv(x, name, features, kernel=(1, 1), depthwise=False, **options):
        shapes[name] = (*kernel, 1 if depthwise else x.shape[-1], features)
        layers = {name: Layer(jnp.zeros(shapes[name]), jnp.zeros(features))}
        return with_layers(layers)(x, name, features, kernel, depthwise=depthwise, **options)

    jax.eval_shape(partial(network, conv), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    return shapes


def with_layers(layers: Layers) -> Conv:
    """The `conv` of a network whose convolutions have these weights."""

    def conv(x, name, features, kernel=(1, 1), stride=1, padding="SAME", depthwise=False):
        weights, bias = layers[name]
        if depthwise:
            return _depthwise(x, weights, stride, padding) + bias
        axes = ("NHWC", "HWIO", "NHWC")
        strides = (stride, stride)
        y = jax.lax.conv_general_dilated(x, weights, strides, padding, dimension_numbers=axes, precision=PRECISION)
        return y + bias

    return conv


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


def bilinear(images: Num[Array, "b h w c"], size: int, convention: str) -> Float[Array, "b size size 3"]:
    """Grey or RGB images as square RGB images of `size` pixels a side, interpolated and not smoothed first, in float32.

    convention, of where output pixel i of `size` lies among n input pixels:
        "pytorch": at (i + 1/2) n / size - 1/2, so that the pictures' edges meet: F.interpolate(align_corners=False).
        "tf1": at i n / size, so that the first pixels' centres meet: TensorFlow 1's resize_bilinear.
    """
    shift = {"pytorch": 0.5, "tf1": 0.0}[convention]

    def weights(n: int) -> Float[np.ndarray, "size n"]:
        at = (np.arange(size) + shift) * n / size - shift
        return np.array([np.interp(at, np.arange(n), pixel) for pixel in np.eye(n)], np.float32).T

    rgb = jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:-1], 3))
    rows, columns = map(weights, images.shape[1:3])
    return jnp.einsum("yh,bhwc,xw->byxc", rows, rgb, columns, precision=PRECISION)


def bicubic(images: Num[Array, "b h w c"], size: int) -> Float[Array, "b size size 3"]:
    """Grey or RGB images as square RGB images of `size` pixels a side, smoothed where they shrink, as Pillow does it.

    Columns come first and then rows, though Pillow 13 begins with the rows of an image that is much higher than wide;
    after each the values are whole numbers from 0 to 255, here in float32.
    """
    x = jnp.broadcast_to(images.astype(jnp.float32), (*images.shape[:-1], 3))
    for axis in (2, 1):
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        x = jnp.clip(jnp.floor(jax.image.resize(x, shape, "cubic", precision=PRECISION) + 0.5), 0, 255)
    return x


def network_extractor(
    name: str,
    distance: str,
    outputs: Callable[[Any, Array], tuple[Array, Array | None]],
    params: Any,
    dim: int,
    batch_size: int,
    cache_dir: Path,
) -> Extractor:
    """The extractor of the compiled `outputs(params, images)`, named NAME@HASH by its parameters, a tree of arrays.

    Its batches are sharded over as many local devices as divide `batch_size`.
    """
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices[: math.gcd(len(devices), batch_size)]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    replicated = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(outputs)
    return Extractor(
        name=identity(name, *jax.tree.leaves(params)),
        distance=distance,
        dim=dim,
        batch_size=batch_size,
        cache_dir=cache_dir,
        embed=lambda images: compiled(replicated, jax.device_put(images, rows)),
    )
