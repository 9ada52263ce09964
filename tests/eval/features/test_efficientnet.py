"""EfficientNet-Lite0 with its published weights: what the torch model answers, and what is in a photograph."""

from importlib import resources

import numpy as np
import pytest
from PIL import Image

from eval.features import efficientnet_lite0
from eval.features.config import ExtractorConfig

pytestmark = pytest.mark.slow

# The second of two images of noise; efficientnet-lite-pytorch 0.1.0, torch 2.13.0, CPU.
IMAGES = np.random.default_rng(32).integers(0, 256, (2, 32, 32, 3), np.uint8)
FEATURES = {0: 0.53269970, 390: 1.41793764, 674: 1.52210319, 951: 0.46763283, 1259: 3.89954615, 1200: 0.0}
LOGITS = {0: 0.50276494, 333: -2.24776173, 666: 1.50926101, 999: -2.06757092}
DAISY = 985  # ImageNet's class


@pytest.fixture(scope="module")
def extractor():
    return efficientnet_lite0.extractor(ExtractorConfig(name="efficientnet_lite0"), batch_size=2)


def test_the_torch_model(extractor):
    features, logits = extractor.outputs(IMAGES)
    np.testing.assert_allclose(features[1, list(FEATURES)], list(FEATURES.values()), rtol=1e-4)
    np.testing.assert_allclose(logits[1, list(LOGITS)], list(LOGITS.values()), rtol=1e-4)
    assert (features.shape, logits.shape) == ((2, 1280), (2, 1000))


def test_a_flower_is_seen_in_a_photograph_of_one(extractor):
    """scikit-learn ships it. That the scaling of pixels is right shows in this alone."""
    with resources.files("sklearn.datasets.images").joinpath("flower.jpg").open("rb") as file:
        photograph = np.asarray(Image.open(file).crop((106, 0, 533, 427)).resize((224, 224)))
    _, logits = extractor.outputs(photograph[None])
    assert logits[0].argmax() == DAISY


def test_its_distance_is_not_called_fid(extractor):
    assert (extractor.distance, extractor.dim, extractor.accuracy) == ("FD", 1280, None)
    assert extractor.name.startswith("efficientnet_lite0@")
