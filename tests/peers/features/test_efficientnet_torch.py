"""EfficientNet-Lite0 against the torch model whose weights it reads."""

import jax
import numpy as np
import pytest

from eval.features.efficientnet_lite0 import SIZE, outputs, read_efficientnet
from eval.features.weights import efficientnet_file

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")
peer = pytest.importorskip("efficientnet_lite_pytorch", reason="compares with it; make test-peers installs it")


@pytest.mark.parametrize("shape", [(32, 32, 3), (224, 224, 3), (28, 28, 1)])
def test_features_and_logits(shape: tuple[int, int, int]) -> None:
    network = peer.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(efficientnet_file(None))).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    given = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)).expand(-1, 3, -1, -1)
    given = torch.nn.functional.interpolate(given, (SIZE, SIZE), mode="bilinear", align_corners=False)
    with torch.no_grad():
        theirs = network.extract_features((given - 127) / 128).mean((2, 3)), network((given - 127) / 128)
    ours = jax.jit(outputs)(read_efficientnet(efficientnet_file(None)), pixels)
    for name, a, b in zip(("features", "logits"), ours, theirs, strict=True):
        found = float(np.abs(np.asarray(a) - b.numpy()).max() / b.abs().max())
        print(f"{shape} {name} {found:.1e}")
        assert found < 1e-4
