"""The classifier behind FID: accuracy, cache, determinism, and that its distances order bad images."""

import dataclasses
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from data import Split
from data.config import DatasetConfig
from eval.features import classifier
from eval.features.classifier import classifier_extractor, read_classifier
from eval.features.config import ExtractorConfig, load_extractor, shipped_for, validate_extractor
from eval.metrics.frechet import feature_statistics, frechet_distance, metric_name
from eval.metrics.reference import load_reference, missing_features, reference_of
from formats.files import read_npz, write_npz
from runs.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    return (bunch.images[order] * (255 / 16)).round().astype(np.uint8)[..., None], bunch.target[order]


@pytest.fixture(scope="module")
def halves(digits):
    images, labels = digits
    return Split(images[:1500], labels[:1500], 10), Split(images[1500:], labels[1500:], 10)


@pytest.fixture(scope="module")
def trained(halves, tmp_path_factory):
    cfg = ExtractorConfig(steps=300, cache_dir=str(tmp_path_factory.mktemp("cache")))
    return cfg, classifier_extractor(halves[0], halves[1], cfg, "digits")


def few_images(shape=(8, 8, 1), n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n) % 3


def tiny(folder, **changes):
    return dataclasses.replace(ExtractorConfig(steps=3, batch_size=16, features=8, cache_dir=str(folder)), **changes)


def make(cfg, images, labels, name="few"):
    return classifier_extractor(Split(images, labels, 3), Split(images[:10], labels[:10], 3), cfg, name)


def test_digits_are_recognised(trained):
    _, extractor = trained
    assert extractor.accuracy >= 0.97
    assert extractor.dim == 64


def test_distance_is_small_between_halves_and_grows_with_damage(trained, digits):
    _, extractor = trained
    images, rng = digits[0], np.random.default_rng(1)
    reference = reference_of(extractor, images[::2], "digits").statistics

    def distance(changed):
        stats = feature_statistics([extractor.features(changed)], extractor.name, "changed")
        return frechet_distance(stats, reference)

    noise = rng.normal(size=images[1::2].shape)
    damaged = [np.clip(images[1::2] + level * noise, 0, 255).astype(np.uint8) for level in (0, 30, 60, 120)]
    distances = [distance(changed) for changed in damaged]
    assert distances == sorted(distances)
    assert distances[1] > 2 * distances[0]
    assert distances[3] > 20 * distances[0]


def test_features_do_not_depend_on_batching(trained, digits):
    _, extractor = trained
    images = digits[0]
    whole = extractor.features(images)
    assert whole.shape == (len(images), 64)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(extractor.features(images[300:307]), whole[300:307])
    np.testing.assert_array_equal(extractor.features(images[::-1]), whole[::-1])


def test_no_product_is_rounded_on_gpus(trained):
    traced = str(jax.make_jaxpr(trained[1].embed)(np.zeros((256, 8, 8, 1), np.uint8)))
    assert (traced.count("Precision.HIGHEST, Precision.HIGHEST"), traced.count("precision=None")) == (4, 0)


def test_second_call_reads_the_cache(trained, halves, monkeypatch):
    cfg, extractor = trained
    images = halves[0].images
    monkeypatch.setattr(classifier, "_train", lambda *_: pytest.fail("trained again"))
    again = classifier_extractor(halves[0], halves[1], cfg, "digits")
    assert (again.name, again.accuracy) == (extractor.name, extractor.accuracy)
    np.testing.assert_array_equal(again.features(images), extractor.features(images))


def test_same_seed_same_weights_and_another_seed_others(tmp_path):
    images, labels = few_images((4, 4, 1))
    first, second, other = (
        make(tiny(tmp_path / folder, seed=seed), images, labels) for folder, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.name == second.name != other.name
    np.testing.assert_array_equal(first.features(images), second.features(images))
    assert np.abs(first.features(images) - other.features(images)).max() > 1e-3


@pytest.fixture
def untrained(monkeypatch):
    """Leave training out, for tests of what surrounds it."""
    monkeypatch.setattr(classifier, "_train", lambda network, *_: network)


def test_jobs_that_need_a_classifier_at_once_share_one(tmp_path, monkeypatch):
    """The second waits for the first; on GPUs each training would give other weights."""
    trained = []

    def train(network, *_):
        trained.append(network)
        time.sleep(0.2)
        return network

    monkeypatch.setattr(classifier, "_train", train)
    images, labels = few_images()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: make(tiny(tmp_path), images, labels), range(2))
    assert (len(trained), first.name) == (1, second.name)


@pytest.mark.usefixtures("untrained")
def test_identity_follows_data_labels_and_settings(tmp_path):
    images, labels = few_images()
    changed = images.copy()
    changed[0, 0, 0] ^= 1
    names = {
        make(cfg, *data).name
        for cfg, data in [
            (tiny(tmp_path), (images, labels)),
            (tiny(tmp_path), (changed, labels)),
            (tiny(tmp_path), (images, (labels + 1) % 3)),
            (tiny(tmp_path, steps=4), (images, labels)),
        ]
    }
    assert len(names) == 4
    assert all(name.startswith("few-classifier") for name in names)


def test_other_weights_of_the_same_settings_are_another_extractor(tmp_path, monkeypatch):
    """Another machine rounds otherwise, so that its training ends elsewhere; their distances do not compare."""
    found = []
    for machine in range(2):

        def train(network, *_, machine=machine):
            network.hidden.bias[...] += machine
            return network

        monkeypatch.setattr(classifier, "_train", train)
        found.append(make(tiny(tmp_path / str(machine)), *few_images((4, 4, 1))))
    assert found[0].name != found[1].name
    assert {path.name for path in tmp_path.glob("0/*")} == {path.name for path in tmp_path.glob("1/*")}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 3), (9, 5, 1)])
def test_image_sizes(tmp_path, shape):
    images, labels = few_images(shape)
    features = make(tiny(tmp_path), images, labels).features(images)
    assert features.shape == (40, 8)
    assert features.std(axis=0).max() > 0


@pytest.mark.usefixtures("untrained")
def test_reference_statistics_are_cached_per_data_set(tmp_path):
    images, labels = few_images()
    extractor = make(tiny(tmp_path), images, labels, name="my/own images")
    stats = reference_of(extractor, images, "my/own images").statistics
    assert metric_name(stats, "FID") == f"FID-my-own-images-classifier{classifier.RECIPE}-40"
    assert (stats.n, reference_of(extractor, images[:20], "my/own images").statistics.n) == (40, 20)
    broken = dataclasses.replace(extractor, embed=lambda _: pytest.fail("computed again"))
    np.testing.assert_array_equal(reference_of(broken, images, "my/own images").statistics.cov, stats.cov)


@pytest.mark.usefixtures("untrained")
def test_what_a_fid_still_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    images, labels = few_images((4, 4, 1))
    np.savez(tmp_path / "few.npz", images=images, labels=labels)
    cfg, dataset = tiny("~/cache"), DatasetConfig("few", path=str(tmp_path / "few.npz"))
    assert missing_features(cfg, dataset) == "no classifier was trained on few yet"
    extractor = load_extractor(cfg, dataset)
    assert missing_features(cfg, dataset) == "the features of few were not taken yet"
    load_reference(extractor, dataset)
    assert missing_features(cfg, dataset) is None
    assert missing_features(dataclasses.replace(cfg, steps=4), dataset) == "no classifier was trained on few yet"
    (tmp_path / "few.npz").unlink()
    assert "few.npz does not exist" in str(missing_features(cfg, dataset))


@pytest.mark.usefixtures("untrained")
def test_a_shipped_classifier_is_taken_for_its_own_images_and_settings_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    dataset = DatasetConfig("fashion_mnist", "fashion_mnist", image_size=28, data_dir=str(tmp_path), flip=True)
    assert str(shipped_for(dataset)).endswith("checkpoints/fashion_mnist")
    assert missing_features(ExtractorConfig(), dataset) is None
    extractor = load_extractor(ExtractorConfig(cache_dir="~"), dataset)
    assert (extractor.name, extractor.cache_dir) == ("fashion_mnist-classifier3@7d7032726573", tmp_path)
    assert shipped_for(dataclasses.replace(dataset, train_split="train[:90%]")) is None
    with pytest.raises(ConfigError):  # of other settings, which asks for the images
        load_extractor(ExtractorConfig(steps=3), dataclasses.replace(dataset, download=False))


@pytest.mark.usefixtures("untrained")
def test_damaged_cache_is_named_not_ignored(tmp_path):
    images, labels = few_images()
    make(tiny(tmp_path), images, labels)
    (path,) = tmp_path.glob("few-classifier*.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"few-classifier\d+@.*delete it"):
        make(tiny(tmp_path), images, labels)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", ["few@48fd5e1f5595", "few-classifier2@48fd5e1f5595"])
def test_a_file_of_an_earlier_form_is_refused_by_its_name(tmp_path, name):
    images, labels = few_images()
    make(tiny(tmp_path), images, labels)
    (path,) = tmp_path.glob("*.npz")
    write_npz(path, read_npz(path) | {"name": np.array(name)})
    with pytest.raises(ValueError, match=f"{name}.*delete it, or leave extractor.weights out"):
        read_classifier(path)


@pytest.mark.parametrize(("count", "steps"), [(1618, 600), (60_000, 5625), (1_281_167, 6000)])
def test_the_number_of_steps_follows_the_number_of_images(tmp_path, monkeypatch, count, steps):
    asked = []

    def train(network, images, labels, steps, cfg):
        asked.append(steps)
        return network

    monkeypatch.setattr(classifier, "_train", train)
    images, labels = few_images((1, 1, 1), count)
    make(ExtractorConfig(cache_dir=str(tmp_path)), images, labels)
    assert asked == [steps]


def test_images_are_shifted_by_a_pixel_in_28_and_small_ones_stay():
    image = np.arange(28 * 28, dtype=np.uint8).reshape(1, 28, 28, 1)
    shifted = classifier._shifted(image.repeat(200, axis=0), np.random.default_rng(0))
    padded = np.pad(image[0, ..., 0], 1, mode="edge")
    moves = {padded[i : i + 28, j : j + 28].tobytes() for i in range(3) for j in range(3)}
    assert {one.tobytes() for one in shifted} == moves
    digits, _ = few_images()
    np.testing.assert_array_equal(classifier._shifted(digits, np.random.default_rng(0)), digits)


def test_unlabelled_data_is_refused(tmp_path):
    images, labels = few_images()
    with pytest.raises(ValueError, match=r"few has no labels.*extractor=efficientnet_lite0"):
        classifier_extractor(Split(images, None, 0), Split(images, labels, 3), tiny(tmp_path), "few")
    with pytest.raises(ValueError, match="1 class"):
        make(tiny(tmp_path), images, np.zeros(40, int))


def test_diverging_training_is_refused_and_leaves_no_cache(tmp_path):
    images, labels = few_images()
    with pytest.raises(ValueError, match=r"lower extractor\.learning_rate"):
        make(tiny(tmp_path, learning_rate=1e30), images, labels)
    assert not list(tmp_path.glob("*.npz"))


def test_wrong_images_are_refused(trained):
    _, extractor = trained
    with pytest.raises(ValueError, match=r"\(8, 8, 1\).*\(28, 28, 1\)"):
        extractor.features(np.zeros((2, 28, 28, 1), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        extractor.features(np.zeros((2, 8, 8, 1), np.float32))


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 0), ("batch_size", -1), ("learning_rate", float("nan")), ("features", 0), ("seed", -1), ("name", "vgg")],
)
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"extractor.{field}={value}"):
        validate_extractor(dataclasses.replace(ExtractorConfig(), **{field: value}))


def test_options_and_tables_import_neither_jax_nor_matplotlib():
    code = "import sys, eval.features.config, eval.table; print({'jax', 'flax', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
