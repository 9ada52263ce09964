"""The InceptionV3 of FID: TensorFlow's graph of 2015-12-05, as pytorch-fid and torch-fidelity hold it.

It is not the network of the paper (arXiv 1512.00567): its average pools do not count padding, its last block pools by
maximum, and it has 1008 classes; each changes FID. Its weights are a file that the user has.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor, identity
from eval.features.layers import (
    Conv,
    average_pool,
    bilinear,
    dense,
    kernel_shapes,
    max_pool,
    on_devices,
    rgb,
    with_layers,
)
from eval.features.weights import Layers, inception_file, read_layers

SIZE, WIDTH, CLASSES = 299, 2048, 1008
BATCH = 32


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig | None = None, batch_size: int = BATCH) -> Extractor:
    """Pool features, and the logits without bias: the Inception Score has been computed from these from the start.

    batch_size: images at a time, 30 MB each; changes speed and memory only.

    Raises ValueError for a file of weights that is damaged or of another network; FileNotFoundError if it is not there.
    """
    layers = read_inception(inception_file(cfg.weights))
    return Extractor(
        name=identity(f"inception-{cfg.resize}", *(array for name in sorted(layers) for array in layers[name])),
        distance="FID",
        dim=WIDTH,
        batch_size=batch_size,
        cache_dir=Path(cfg.cache_dir),
        embed=on_devices(partial(outputs, resize=cfg.resize), layers, batch_size),
    )


def read_inception(path: Path) -> Layers:
    """Weights in a file of pytorch-fid or torch-fidelity, or .safetensors so named. Raises as `read_layers`."""
    kernels = kernel_shapes(inception, SIZE)
    return read_layers(path, kernels, lambda name: (f"{name}.conv.weight", f"{name}.bn"), "fc", (CLASSES, WIDTH))


def outputs(
    layers: Layers, images: UInt8[Array, "b h w c"], resize: str
) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
    """(pool features, logits less their bias) of grey or RGB images of any size.

    resize: "pytorch" interpolates and scales as pytorch-fid does, to [-1, 1]; "tf1" as the graph itself and
        torch-fidelity do, to [-1, 127/128]. See `bilinear`.
    """
    pixels = bilinear(rgb(images), SIZE, resize)
    pixels = pixels / 127.5 - 1.0 if resize == "pytorch" else pixels / 128.0 - 1.0
    features = inception(with_layers(layers), pixels)
    return features, dense(features, layers["fc"].kernel)


def inception(conv: Conv, x: Float[Array, "b 299 299 3"]) -> Float[Array, "b 2048"]:
    """The network up to its last pool. x: pixels in [-1, 1]."""
    x = _relu(conv, x, "Conv2d_1a_3x3", 32, (3, 3), stride=2, padding="VALID")
    x = _relu(conv, x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
    x = _relu(conv, x, "Conv2d_2b_3x3", 64, (3, 3))
    x = max_pool(x, stride=2, padding="VALID")
    x = _relu(conv, x, "Conv2d_3b_1x1", 80)
    x = _relu(conv, x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID")
    x = max_pool(x, stride=2, padding="VALID")
    x = _mixed_5(conv, x, "Mixed_5b", 32)
    x = _mixed_5(conv, x, "Mixed_5c", 64)
    x = _mixed_5(conv, x, "Mixed_5d", 64)
    x = _mixed_6a(conv, x, "Mixed_6a")
    x = _mixed_6(conv, x, "Mixed_6b", 128)
    x = _mixed_6(conv, x, "Mixed_6c", 160)
    x = _mixed_6(conv, x, "Mixed_6d", 160)
    x = _mixed_6(conv, x, "Mixed_6e", 192)
    x = _mixed_7a(conv, x, "Mixed_7a")
    x = _mixed_7(conv, x, "Mixed_7b", _averaged(conv, x, "Mixed_7b", 192))
    x = _mixed_7(conv, x, "Mixed_7c", _relu(conv, max_pool(x), "Mixed_7c.branch_pool", 192))
    return x.mean(axis=(1, 2))


def _mixed_5(conv: Conv, x: Array, name: str, pool: int) -> Array:
    """35x35 pixels. pool: features of the branch that pools."""
    one = _relu(conv, x, f"{name}.branch1x1", 64)
    five = _chain(conv, x, f"{name}.branch5x5", (48, (1, 1)), (64, (5, 5)))
    three = _chain(conv, x, f"{name}.branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)))
    return _join(one, five, three, _averaged(conv, x, name, pool))


def _mixed_6a(conv: Conv, x: Array, name: str) -> Array:
    """From 35x35 pixels to 17x17."""
    three = _relu(conv, x, f"{name}.branch3x3", 384, (3, 3), stride=2, padding="VALID")
    double = _chain(conv, x, f"{name}.branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
    double = _relu(conv, double, f"{name}.branch3x3dbl_3", 96, (3, 3), stride=2, padding="VALID")
    return _join(three, double, max_pool(x, stride=2, padding="VALID"))


def _mixed_6(conv: Conv, x: Array, name: str, width: int) -> Array:
    """17x17 pixels; a window of 7x7 is a row of 7 and a column of 7."""
    row, column = (1, 7), (7, 1)
    one = _relu(conv, x, f"{name}.branch1x1", 192)
    seven = _chain(conv, x, f"{name}.branch7x7", (width, (1, 1)), (width, row), (192, column))
    steps = (width, (1, 1)), (width, column), (width, row), (width, column), (192, row)
    double = _chain(conv, x, f"{name}.branch7x7dbl", *steps)
    return _join(one, seven, double, _averaged(conv, x, name, 192))


def _mixed_7a(conv: Conv, x: Array, name: str) -> Array:
    """From 17x17 pixels to 8x8."""
    three = _relu(conv, x, f"{name}.branch3x3_1", 192)
    three = _relu(conv, three, f"{name}.branch3x3_2", 320, (3, 3), stride=2, padding="VALID")
    seven = _chain(conv, x, f"{name}.branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
    seven = _relu(conv, seven, f"{name}.branch7x7x3_4", 192, (3, 3), stride=2, padding="VALID")
    return _join(three, seven, max_pool(x, stride=2, padding="VALID"))


def _mixed_7(conv: Conv, x: Array, name: str, pooled: Array) -> Array:
    """8x8 pixels. pooled: the branch that pools."""
    one = _relu(conv, x, f"{name}.branch1x1", 320)
    three = _relu(conv, x, f"{name}.branch3x3_1", 384)
    double = _chain(conv, x, f"{name}.branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
    ends = [
        _relu(conv, y, f"{name}.{end}", 384, kernel)
        for y, branch in ((three, "branch3x3_2"), (double, "branch3x3dbl_3"))
        for end, kernel in ((f"{branch}a", (1, 3)), (f"{branch}b", (3, 1)))
    ]
    return _join(one, *ends, pooled)


def _relu(conv: Conv, x: Array, name: str, features: int, kernel: tuple[int, int] = (1, 1), **options: Any) -> Array:
    return jax.nn.relu(conv(x, name, features, kernel, **options))


def _chain(conv: Conv, x: Array, name: str, *steps: tuple[int, tuple[int, int]]) -> Array:
    """Layers name_1, name_2, ... one after the other, each of (features, kernel)."""
    for number, (features, kernel) in enumerate(steps, start=1):
        x = _relu(conv, x, f"{name}_{number}", features, kernel)
    return x


def _averaged(conv: Conv, x: Array, name: str, features: int) -> Array:
    """The branch that pools by mean, which may follow the convolution of single pixels: there is less to pool then."""
    return jax.nn.relu(average_pool(conv(x, f"{name}.branch_pool", features)))


def _join(*branches: Array) -> Array:
    return jnp.concatenate(branches, axis=-1)
