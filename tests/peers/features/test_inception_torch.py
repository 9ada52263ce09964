"""Our InceptionV3 against pytorch-fid's and torch-fidelity's, with the same random weights and the same images.

Both packages ask for torchvision, of which they use no more here than the blocks that pytorch-fid's own derive from;
torch-fidelity defines the same blocks, and stands in for it.
"""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import jax
import numpy as np
import pytest
from extractor_files import random_inception

from eval.features.config import ExtractorConfig
from eval.features.inception import extractor, outputs, read_inception
from eval.features.weights import Layers
from eval.metrics.frechet import feature_statistics, frechet_distance

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")
for package in ("pytorch_fid", "torch_fidelity"):
    if find_spec(package) is None:
        pytest.skip(f"compares with {package}; make test-peers installs it", allow_module_level=True)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file that torch saved."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({name: torch.from_numpy(tensor) for name, tensor in random_inception().items()}, path)
    return path


@pytest.fixture(scope="module")
def layers(weights: Path) -> Layers:
    return read_inception(weights)


@pytest.fixture(scope="module")
def fidelity() -> Any:
    """torch-fidelity's module of the network, without the rest of the package."""
    found = find_spec("torch_fidelity")
    assert found is not None
    package = ModuleType("torch_fidelity")
    package.__path__ = list(found.submodule_search_locations or [])
    with patch.dict(sys.modules, {"torch_fidelity": package}):
        return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def network(fidelity: Any, weights: Path) -> Any:
    """torch-fidelity's network with the weights; what counts batches is not in the file."""
    load = torch.nn.Module.load_state_dict
    with patch.object(torch.nn.Module, "load_state_dict", lambda self, state: load(self, state, strict=False)):
        return fidelity.FeatureExtractorInceptionV3(
            "inception", ["2048", "logits_unbiased", "logits"], feature_extractor_weights_path=str(weights)
        )


@pytest.fixture(scope="module")
def pytorch_fid(fidelity: Any, network: Any) -> Any:
    """pytorch-fid's network, with its own resize, scaling and blocks."""
    vision, models, blocks = ModuleType("torchvision"), ModuleType("models"), ModuleType("inception")
    vision.__version__, vision.models, models.inception = "0.28.0", models, blocks  # type: ignore[attr-defined]
    blocks.InceptionA, blocks.InceptionC = fidelity.InceptionA, fidelity.InceptionC  # type: ignore[attr-defined]
    blocks.InceptionE = fidelity.InceptionE_1  # type: ignore[attr-defined]

    def inception_v3(**_: Any) -> Any:
        with patch.object(torch.nn.Module, "load_state_dict"), patch.object(torch, "load"):
            return fidelity.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path="none")

    models.inception_v3 = inception_v3  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"torchvision": vision, "torchvision.models": models}):
        module = importlib.import_module("pytorch_fid.inception")
        with patch.object(module, "load_state_dict_from_url", lambda *_, **__: network.state_dict()):
            return module.InceptionV3().eval()


def images(size: int) -> np.ndarray:
    """Noise, and the smooth pictures that it becomes when it is averaged."""
    noise = np.random.default_rng(size).integers(0, 256, (4, size, size, 3), np.uint8)
    smooth = noise[:2].reshape(2, size // 8, 8, size // 8, 8, 3).mean(axis=(2, 4)).repeat(8, 1).repeat(8, 2)
    return np.concatenate([noise[2:], (4 * (smooth - 128) + 128).clip(0, 255).astype(np.uint8)])


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference, relative to the size of each image's vector."""
    theirs = theirs.numpy()
    size = np.sqrt((theirs**2).mean(axis=1, keepdims=True))
    return float((np.abs(np.asarray(ours) - theirs) / size).max())


def as_torch(pixels: np.ndarray) -> Any:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("size", [32, 64])
def test_torch_fidelity(network: Any, layers: Layers, size: int) -> None:
    pixels = images(size)
    with torch.no_grad():
        features, unbiased, logits = network(as_torch(pixels))
    ours = jax.jit(outputs, static_argnums=2)(layers, pixels, "tf1")
    found = [relative(ours[0], features), relative(ours[1], unbiased), relative(ours[1] + layers["fc"].bias, logits)]
    print(f"{size}x{size}: features {found[0]:.1e}, logits {found[1]:.1e} without bias and {found[2]:.1e} with")
    assert max(found) < 1e-4


@pytest.mark.parametrize("size", [32, 64])
def test_pytorch_fid(pytorch_fid: Any, layers: Layers, size: int) -> None:
    pixels = images(size)
    with torch.no_grad():
        [features] = pytorch_fid(as_torch(pixels) / 255)
    ours, _ = jax.jit(outputs, static_argnums=2)(layers, pixels, "pytorch")
    found = relative(ours, features[:, :, 0, 0])
    print(f"{size}x{size}: features {found:.1e}")
    assert found < 1e-4


def test_spatial_features_and_sfid(network: Any, weights: Path, tmp_path: Path) -> None:
    """TensorFlow's mixed_6/conv is the convolution of single pixels in the block that torch calls Mixed_6d, after ReLU.

    guided-diffusion takes its first 7 channels, which come last in each pixel.
    """
    caught: list[Any] = []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda *arguments: caught.append(arguments[-1]))
    pixels = images(32)
    with torch.no_grad():
        network(as_torch(pixels))
    hook.remove()
    theirs = caught[0][:, :7].permute(0, 2, 3, 1).reshape(len(pixels), -1)
    cfg = ExtractorConfig("inception", str(tmp_path), weights=str(weights), resize="tf1", spatial=True)
    spatial = extractor(cfg, batch_size=4)
    ours = spatial.features(pixels)
    sets = [[rows[:2], rows[2:]] for rows in (ours, theirs.numpy())]
    distances = [frechet_distance(*(feature_statistics([rows], "spatial@1", "rows") for rows in both)) for both in sets]
    found = relative(ours, theirs)
    print(f"features {found:.1e}, sFID {distances[0]:.6g} and {distances[1]:.6g}")
    assert found < 1e-4
    assert theirs.min() == 0
    assert (theirs.shape[1], spatial.dim, spatial.distance) == (2023, 2023, "sFID")
    assert spatial.name.startswith("inception_spatial-tf1@")
    assert distances[0] == pytest.approx(distances[1], rel=1e-3)


def test_the_two_resizes_differ(layers: Layers) -> None:
    """By far more than what the tests above allow, so that neither could pass with the other's."""
    pixels = images(32)
    a, b = (np.asarray(jax.jit(outputs, static_argnums=2)(layers, pixels, name)[0]) for name in ("pytorch", "tf1"))
    assert np.abs(a - b).max() / np.sqrt((a**2).mean()) > 1e-2
