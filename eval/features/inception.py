"""The InceptionV3 of FID: TensorFlow's graph of 2015-12-05, as pytorch-fid and torch-fidelity hold it.

It is not the network of the paper (arXiv 1512.00567): its average pools do not count padding and its last block pools
by maximum, which changes FID; its 1008 classes change the Inception Score. Its weights are a file that the user has.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, UInt8

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor
from eval.features.layers import PRECISION, Conv, bilinear, kernel_shapes, network_extractor, with_layers
from eval.features.weights import Layers, inception_file, read_layers

SIZE, WIDTH, CLASSES = 299, 2048, 1008
SPATIAL_CHANNELS = 7
SPATIAL_WIDTH = SPATIAL_CHANNELS * 17 * 17
BATCH = 32

# The branches of each kind of block, which lie side by side. A branch is a chain of layers (features, kernel); a layer
# of two kernels stands for two layers side by side.
ONE, THREE, FIVE, ROW, COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
Branches = Mapping[str, Sequence[tuple]]
MIXED_5: Branches = {  # 35x35 pixels
    "branch1x1": [(64, ONE)],
    "branch5x5": [(48, ONE), (64, FIVE)],
    "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE)],
}
MIXED_6A: Branches = {  # from 35x35 pixels to 17x17
    "branch3x3": [(384, THREE)],
    "branch3x3dbl": [(64, ONE), (96, THREE), (96, THREE)],
}
MIXED_7A: Branches = {  # from 17x17 pixels to 8x8
    "branch3x3": [(192, ONE), (320, THREE)],
    "branch7x7x3": [(192, ONE), (192, ROW), (192, COLUMN), (192, THREE)],
}
MIXED_7: Branches = {  # 8x8 pixels
    "branch1x1": [(320, ONE)],
    "branch3x3": [(384, ONE), (384, (1, 3), (3, 1))],
    "branch3x3dbl": [(448, ONE), (384, THREE), (384, (1, 3), (3, 1))],
}


def mixed_6(width: int) -> Branches:
    """The branches of a block of 17x17 pixels; a window of 7x7 is a row of 7 and a column of 7."""
    return {
        "branch1x1": [(192, ONE)],
        "branch7x7": [(width, ONE), (width, ROW), (192, COLUMN)],
        "branch7x7dbl": [(width, ONE), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW)],
    }


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig | None = None, batch_size: int = BATCH) -> Extractor:
    """Pool features, and the logits without bias: the Inception Score has been computed from these from the start.

    With `cfg.spatial` it is the features that `spatial_outputs` takes instead, of which the distance is sFID.
    batch_size: images at a time, 30 MB each; changes speed and memory only.

    Raises ValueError for a file of weights that is damaged or of another network; FileNotFoundError if it is not there.
    """
    layers = read_inception(inception_file(cfg.weights))
    shared = (batch_size, cfg.cache)
    if cfg.spatial:
        spatial = partial(spatial_outputs, resize=cfg.resize)
        return network_extractor(f"inception_spatial-{cfg.resize}", "sFID", spatial, layers, SPATIAL_WIDTH, *shared)
    network = partial(outputs, resize=cfg.resize)
    return network_extractor(f"inception-{cfg.resize}", "FID", network, layers, WIDTH, *shared)


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
    features = inception(with_layers(layers), _pixels(images, resize))
    return features, jnp.matmul(features, layers["fc"].kernel, precision=PRECISION)


def spatial_outputs(
    layers: Layers, images: UInt8[Array, "b h w c"], resize: str
) -> tuple[Float[Array, "b 2023"], None]:
    """The features of sFID (Nash et al., arXiv 2103.03841), which say where things are, as guided-diffusion takes them.

    They are the first 7 channels of TensorFlow's layer mixed_6/conv, of 17x17 pixels, row by row. guided-diffusion has
    the graph's own resize, "tf1".
    """
    x = inception(with_layers(layers), _pixels(images, resize), up_to="Mixed_6d")
    return x[..., :SPATIAL_CHANNELS].reshape(len(x), SPATIAL_WIDTH), None


def _pixels(images: UInt8[Array, "b h w c"], resize: str) -> Float[Array, "b 299 299 3"]:
    pixels = bilinear(images, SIZE, resize)
    return pixels / 127.5 - 1.0 if resize == "pytorch" else pixels / 128.0 - 1.0


def inception(conv: Conv, x: Float[Array, "b 299 299 3"], up_to: str | None = None) -> Array:
    """The network up to its last pool, or all channels of the block of 17x17 pixels `up_to`. x: pixels in [-1, 1]."""
    half = partial(nnx.max_pool, window_shape=(3, 3), strides=(2, 2))
    x = _relu(conv, x, "Conv2d_1a_3x3", 32, THREE, stride=2, padding="VALID")
    x = _relu(conv, x, "Conv2d_2a_3x3", 32, THREE, padding="VALID")
    x = _relu(conv, x, "Conv2d_2b_3x3", 64, THREE)
    x = half(x)
    x = _relu(conv, x, "Conv2d_3b_1x1", 80)
    x = _relu(conv, x, "Conv2d_4a_3x3", 192, THREE, padding="VALID")
    x = half(x)
    for block, features in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _mixed(conv, x, block, MIXED_5, _averaged(conv, x, block, features))
    x = _mixed(conv, x, "Mixed_6a", MIXED_6A, half(x), stride=2, padding="VALID")
    for block, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _mixed(conv, x, block, mixed_6(width), _averaged(conv, x, block, 192))
        if block == up_to:
            return x
    x = _mixed(conv, x, "Mixed_7a", MIXED_7A, half(x), stride=2, padding="VALID")
    x = _mixed(conv, x, "Mixed_7b", MIXED_7, _averaged(conv, x, "Mixed_7b", 192))
    largest = nnx.max_pool(x, (3, 3), padding="SAME")
    x = _mixed(conv, x, "Mixed_7c", MIXED_7, _relu(conv, largest, "Mixed_7c.branch_pool", 192))
    return x.mean(axis=(1, 2))


def _mixed(conv: Conv, x: Array, block: str, branches: Branches, pooled: Array, **options: Any) -> Array:
    """A block: its branches and, last, the one that pools. options: of the last layer of every branch."""
    ends = []
    for branch, layers in branches.items():
        y = x
        for number, (features, *kernels) in enumerate(layers, start=1):
            name = f"{block}.{branch}" + (f"_{number}" if len(layers) > 1 else "")
            names = [name] if len(kernels) == 1 else [f"{name}a", f"{name}b"]
            last = options if number == len(layers) else {}
            pairs = zip(names, kernels, strict=True)
            y = jnp.concatenate([_relu(conv, y, name, features, kernel, **last) for name, kernel in pairs], axis=-1)
        ends.append(y)
    return jnp.concatenate([*ends, pooled], axis=-1)


def _relu(conv: Conv, x: Array, name: str, features: int, kernel: tuple[int, int] = ONE, **options: Any) -> Array:
    return jax.nn.relu(conv(x, name, features, kernel, **options))


def _averaged(conv: Conv, x: Array, block: str, features: int) -> Array:
    """The branch that pools by mean, which may follow the convolution of single pixels: there is less to pool then."""
    y = conv(x, f"{block}.branch_pool", features)
    return jax.nn.relu(nnx.avg_pool(y, (3, 3), padding="SAME", count_include_pad=False))
