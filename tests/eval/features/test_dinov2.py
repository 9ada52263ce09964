"""DINOv2's network with random weights against what torch answered, which is not needed here, and files of others."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from extractor_files import random_dinov2
from PIL import Image
from safetensors.numpy import save_file

from eval.features import dinov2
from eval.features.config import ExtractorConfig
from eval.features.layers import bicubic

# The second of two images of noise, the weights of `random_dinov2`; transformers 5.24.0, torch 2.13.0, CPU.
IMAGES = np.random.default_rng(32).integers(0, 256, (2, 32, 32, 3), np.uint8)
AT = [0, 31, 64, 127]
TRANSFORMERS = [0.40595433, -2.070365, 0.21959051, 0.64569616]


def test_the_published_networks_answer(tmp_path: Path) -> None:
    save_file(random_dinov2(), tmp_path / "a.safetensors")
    cfg = ExtractorConfig(name="dinov2", weights=str(tmp_path / "a.safetensors"))
    extractor = dinov2.extractor(cfg, batch_size=2)
    features, logits = extractor.outputs(IMAGES)
    np.testing.assert_allclose(features[1, AT], TRANSFORMERS, rtol=1e-3)
    assert logits is None
    assert (features.shape, features.dtype, extractor.dim, extractor.distance) == ((2, 128), np.float32, 128, "FD")
    assert extractor.name.startswith("dinov2_vit12814@")


@pytest.mark.parametrize("shape", [(32, 48, 3), (260, 300, 1), (224, 224, 3)])
def test_images_are_resized_as_pillow_does(shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected = Image.fromarray(image.repeat(3 // shape[-1], axis=-1)).resize((224, 224), Image.Resampling.BICUBIC)
    off = np.abs(np.asarray(bicubic(jnp.asarray(image[None]), 224)[0]) - np.asarray(expected))
    assert off.max() <= 1  # where float32 rounds half the other way
    assert (off > 0).mean() < 2e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pos_embed": None}, "does not hold one of DINOv2's vision transformers; use dinov2_vitl14_pretrain.pth"),
        ({"blocks.1.ls2.gamma": None}, "lacks blocks.1.ls2.gamma, which the network needs"),
        ({"register_tokens": np.zeros((1, 4, 128))}, "holds register_tokens, which the network does not have"),
        ({"norm.bias": np.full(128, np.nan)}, "NaN or infinite values in norm.bias"),
        ({"cls_token": np.zeros((1, 1, 64))}, r"cls_token of shape \[1, 1, 64\], but the network needs \[1, 1, 128\]"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    state = random_dinov2(grid=4) | changes
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=message):
        dinov2.read_dinov2(tmp_path / "a.safetensors")
