"""DINOv2's features and their distance against torch, with the same random weights and the same images.

The positions for 224 pixels are interpolated as torch hub's code does, images are resized by Pillow as torchvision's
Resize of a PIL image does, and all else is the network in transformers.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from extractor_files import random_dinov2
from PIL import Image
from safetensors.numpy import save_file

from eval.features.dinov2 import IMAGENET_MEAN, IMAGENET_STD, SIZE, features_of, read_dinov2
from eval.features.weights import Tensors
from eval.metrics.frechet import feature_statistics, frechet_distance

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")
transformers = pytest.importorskip("transformers", reason="compares with it; make test-peers installs it")


NAMES = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm.": "layernorm.",
    "blocks.": "encoder.layer.",
}
INSIDE = {
    "attn.proj": "attention.o_proj",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}


def as_transformers(state: Tensors) -> dict[str, Any]:
    """Torch hub's tensors under the names of transformers, whose queries, keys and values are apart."""
    found = {}
    for name, tensor in state.items():
        for ours, theirs in NAMES.items():
            name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
        for ours, theirs in INSIDE.items():
            name = name.replace(ours, theirs)
        if "attn.qkv" in name:
            for part, rows in zip("qkv", np.split(tensor, 3), strict=True):
                found[name.replace("attn.qkv", f"attention.{part}_proj")] = torch.tensor(rows)
        elif name != "pos_embed":
            found[name] = torch.tensor(tensor)
    return found


def positions(state: Tensors, patch: int) -> Any:
    """The class token's place and those of the patches of an image of SIZE pixels."""
    first, places = torch.tensor(state["pos_embed"]).split([1, state["pos_embed"].shape[1] - 1], dim=1)
    grid, size = int(places.shape[1] ** 0.5), SIZE // patch
    if grid != size:
        places = places.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        scale = (size + 0.1) / grid
        places = torch.nn.functional.interpolate(places, scale_factor=(scale, scale), mode="bicubic")
        assert places.shape[2:] == (size, size)
        places = places.permute(0, 2, 3, 1).reshape(1, size**2, -1)
    return torch.cat([first, places], dim=1)


def peer(state: Tensors, patch: int) -> Any:
    """transformers' network with the tensors."""
    width, depth = state["norm.bias"].size, sum(name.endswith("ls1.gamma") for name in state)
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
    network = transformers.Dinov2Model(transformers.Dinov2Config(image_size=SIZE, patch_size=patch, **sizes)).eval()
    network.load_state_dict(as_transformers(state) | {"embeddings.position_embeddings": positions(state, patch)})
    return network


def theirs_of(network: Any, images: np.ndarray) -> np.ndarray:
    pictures = [Image.fromarray(image.repeat(3 // image.shape[-1], axis=-1)) for image in images]
    resized = np.stack([np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for picture in pictures])
    pixels = ((resized / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32)
    with torch.no_grad():
        return network(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output.numpy()


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({}, (32, 32, 3)),
        ({"width": 192, "depth": 3, "grid": 16}, (260, 300, 3)),
        ({"depth": 1, "patch": 28}, (28, 28, 1)),
    ],
)
def test_features_and_distance(tmp_path: Path, sizes: dict[str, int], shape: tuple[int, int, int]) -> None:
    state, rng = random_dinov2(**sizes), np.random.default_rng(0)
    save_file(state, tmp_path / "a.safetensors")
    sets = [rng.integers(0, top, (6, *shape), np.uint8) for top in (256, 200)]
    network, ours_of = peer(state, sizes.get("patch", 14)), jax.jit(features_of)
    theirs = [theirs_of(network, images) for images in sets]
    ours = [np.asarray(ours_of(read_dinov2(tmp_path / "a.safetensors"), images)) for images in sets]
    distances = [
        frechet_distance(*(feature_statistics([rows], "dinov2@1", "rows") for rows in both)) for both in (ours, theirs)
    ]
    found = max(float(np.abs(a - b).max() / np.sqrt((b**2).mean())) for a, b in zip(ours, theirs, strict=True))
    print(f"{shape} {sizes}: features {found:.1e}, distance {abs(distances[0] / distances[1] - 1):.1e}")
    assert found < 1e-3
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)
