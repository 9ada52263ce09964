"""InceptionV3 with random weights against what pytorch-fid and torch-fidelity answered, which are not needed here."""

import numpy as np
import pytest
from extractor_files import random_inception
from safetensors.numpy import save_file

from eval.features import inception
from eval.features.config import ExtractorConfig

pytestmark = pytest.mark.slow

# The second of two images of noise, the weights of `random_inception`; torch 2.13.0, CPU.
IMAGES = np.random.default_rng(32).integers(0, 256, (2, 32, 32, 3), np.uint8)
AT = [0, 505, 1000, 1501, 2047]
PYTORCH_FID = [11.65539265, 2.40787578, 6.14438248, 8.87298775, 6.47804737]  # 0.3.0, on torchvision 0.28.0
TORCH_FIDELITY = [11.51230431, 2.13946319, 5.57013226, 8.45133114, 5.98811197]  # 0.4.0
LOGITS = [14.13632202, -3.80987406, -1.40497875, -3.70939589]  # at 0, 300, 600 and 1007, without their bias; the same


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(random_inception(), path)
    return str(path)


@pytest.fixture(scope="module")
def extractor(weights):
    return inception.extractor(ExtractorConfig(name="inception", weights=weights, resize="tf1"), batch_size=2)


def test_the_graph_of_2015(extractor):
    features, logits = extractor.outputs(IMAGES)
    np.testing.assert_allclose(features[1, AT], TORCH_FIDELITY, rtol=1e-4)
    np.testing.assert_allclose(logits[1, [0, 300, 600, 1007]], LOGITS, rtol=1e-4)
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert (features.dtype, extractor.dim, extractor.distance) == (np.float32, 2048, "FID")


def test_pytorch_fids_resize_goes_by_another_name(extractor, weights):
    other = inception.extractor(ExtractorConfig(name="inception", weights=weights), batch_size=2)
    np.testing.assert_allclose(other.features(IMAGES)[1, AT], PYTORCH_FID, rtol=1e-4)
    assert extractor.name.startswith("inception-tf1@")
    assert other.name.startswith("inception-pytorch@")
    assert other.name.partition("@")[2] == extractor.name.partition("@")[2]


def test_an_image_does_not_depend_on_those_beside_it(extractor):
    many = np.concatenate([IMAGES[::-1], np.zeros((1, 32, 32, 3), np.uint8), IMAGES])
    features = extractor.features(many)
    np.testing.assert_allclose(features[-2:], extractor.features(IMAGES), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(features[1::-1], features[-2:], rtol=1e-5, atol=1e-5)


def test_grey_is_three_equal_colours(extractor):
    grey = IMAGES[:, :, :, :1]
    np.testing.assert_allclose(
        extractor.features(grey), extractor.features(grey.repeat(3, axis=-1)), rtol=1e-5, atol=1e-5
    )
