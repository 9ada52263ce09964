"""Bilinear resizing by the two conventions that published feature extractors were measured with."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear(images: Float[Array, "b h w c"], size: int, convention: str) -> Float[Array, "b size size c"]:
    """Square images of `size` pixels a side, interpolated and not smoothed first, in float32.

    convention, of where output pixel i of `size` lies among n input pixels:
        "pytorch": at (i + 1/2) n / size - 1/2, so that the pictures' edges meet: F.interpolate(align_corners=False).
        "tf1": at i n / size, so that the first pixels' centres meet: TensorFlow 1's resize_bilinear.
    """
    rows, columns = (jnp.asarray(_weights(n, size, convention)) for n in images.shape[1:3])
    return jnp.einsum("yh,bhwc,xw->byxc", rows, images, columns, precision=jax.lax.Precision.HIGHEST)


def _weights(n: int, size: int, convention: str) -> Float[np.ndarray, "size n"]:
    """Row i holds the weights of the input pixels in output pixel i."""
    shift = {"pytorch": 0.5, "tf1": 0.0}[convention]
    at = ((np.arange(size) + shift) * n / size - shift).clip(0, n - 1)
    left = np.floor(at).astype(int)
    weights = np.zeros((size, n))
    np.add.at(weights, (np.arange(size), left), 1 - (at - left))
    np.add.at(weights, (np.arange(size), np.minimum(left + 1, n - 1)), at - left)
    return weights.astype(np.float32)
