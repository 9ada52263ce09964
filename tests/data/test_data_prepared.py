"""Data sets of tensorflow-datasets, prepared from archives in their official formats served on loopback."""

import dataclasses
import hashlib
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from data_archives import (
    CELEBA_FILES,
    CONF,
    Site,
    config,
    examples,
    pairs,
    serve_cifar10,
    serve_mnist,
    served,
    write_celeba,
    write_imagenet32,
)
from PIL import Image
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a
from tensorflow_datasets.datasets.downsampled_imagenet import downsampled_imagenet_dataset_builder as imagenet
from tensorflow_datasets.image_classification import mnist

from data import class_names, load, prepared
from data.config import DatasetConfig

RNG = np.random.default_rng(0)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder and the address at which it is served."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "site"
    folder.mkdir()
    with served(folder) as url:
        yield folder, url


@pytest.mark.parametrize(("name", "named"), [("fashion_mnist", ["T-shirt/top", "Trouser"]), ("digits", [])])
def test_classes_have_names_before_anything_is_prepared(name: str, named: list[str], tmp_path: Path) -> None:
    assert class_names(config(name, tmp_path))[:2] == named
    assert not list(tmp_path.iterdir())


def test_digits_are_the_real_ones(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    cfg = config("digits", tmp_path, download=False)
    train, test = load(cfg, "train"), load(cfg, "test")
    assert train.images.shape == (1618, 8, 8, 1)
    assert test.images.shape == (179, 8, 8, 1)
    assert train.labels is not None
    assert test.labels is not None
    assert train.num_classes == 10
    assert set(np.bincount(test.labels)) <= {17, 18}, "the held-out digits are balanced"
    inks, labels = load_digits(return_X_y=True)
    both_images = np.concatenate([train.images, test.images])
    stored_inks = np.rint(both_images * (16 / 255)).reshape(-1, 8, 8, 1)
    assert both_images.max() == 255
    assert pairs(stored_inks, np.concatenate([train.labels, test.labels])) == pairs(inks.reshape(-1, 8, 8, 1), labels)


def test_mnist_from_its_official_format(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = examples(40, (28, 28)), examples(10, (28, 28))
    serve_mnist(site, monkeypatch, train, test)
    cfg = config("mnist", tmp_path / "tfds")
    for name, (images, labels) in (("train", train), ("test", test)):
        split = load(cfg, name)
        assert split.images.dtype == np.uint8
        assert split.num_classes == 10
        assert pairs(split.images, split.labels) == pairs(images[..., None], labels)
    assert "tensorflow" not in sys.modules


def test_cifar10_from_its_official_format(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = examples(35, (32, 32, 3)), examples(9, (32, 32, 3))
    serve_cifar10(site, monkeypatch, train, test)
    cfg = config("cifar10", tmp_path / "tfds")
    for name, (images, labels) in (("train", train), ("test", test)):
        split = load(cfg, name)
        assert pairs(split.images, split.labels) == pairs(images, labels)
    assert load(cfg, "train").images.shape == (35, 32, 32, 3)
    assert load(config("cifar10", tmp_path / "tfds", image_size=16), "test").images.shape == (9, 16, 16, 3)


def test_celeba_is_cut_to_140_and_shrunk_to_64(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    face = Image.new("RGB", (178, 218), (255, 0, 0))
    face.paste((0, 0, 255), (19, 39, 19 + 140, 39 + 140))  # the centre square of 140 is blue, all else red
    write_celeba(site[0], face, count=6)
    for constant, name in CELEBA_FILES.items():
        monkeypatch.setattr(celeb_a, constant, site[1] + name)
    train = load(config("celeba64", tmp_path / "tfds"), "train")
    assert train.images.shape == (2, 64, 64, 3)
    assert train.labels is None
    assert train.images[..., 2].min() > 240, "nothing but the blue square is left"
    assert len(load(config("celeba64", tmp_path / "tfds"), "test").images) == 2


def test_imagenet32_from_its_official_format(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(0, 256, (5, 32, 32, 3), np.uint8)
    write_imagenet32(site[0], images[:3], images[3:])
    monkeypatch.setattr(imagenet, "_DL_URL", site[1])
    cfg = config("imagenet32", tmp_path / "tfds")
    assert {image.tobytes() for image in load(cfg, "train").images} == {image.tobytes() for image in images[:3]}
    assert load(cfg, "test").images.shape == (2, 32, 32, 3)
    assert load(cfg, "test").labels is None


def test_the_second_start_needs_neither_network_nor_decoding(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_mnist(site, monkeypatch, examples(8, (28, 28)), examples(2, (28, 28)))
    first = load(config("mnist", tmp_path / "tfds"), "train")
    for file in site[0].iterdir():
        file.unlink()
    monkeypatch.setattr("data.prepared._decode", lambda *_: pytest.fail("decoded a second time"))
    again = load(config("mnist", tmp_path / "tfds", download=False), "train")
    assert isinstance(again.images, np.memmap)
    assert not again.images.flags.writeable
    np.testing.assert_array_equal(again.images, first.images)


def test_an_interrupted_decoding_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def interrupt(*args: object) -> np.ndarray:
        if next(calls) == 50:
            raise KeyboardInterrupt
        return np.full((8, 8, 1), 77, np.uint8)

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "crop_resize", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(config("digits", tmp_path), "train")
    train = load(config("digits", tmp_path), "train")
    assert len(train.images) == 1618
    assert not (train.images == 77).all(axis=(1, 2, 3)).any()


def test_an_interrupted_preparation_starts_over(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = examples(8, (28, 28)), examples(2, (28, 28))
    serve_mnist(site, monkeypatch, train, test)
    encoded = iter(range(100))

    def interrupt(encoder: object, image: np.ndarray) -> bytes:
        if next(encoded) == 5:
            raise KeyboardInterrupt
        return png(encoder, image)

    png = prepared.encode_png
    cfg = config("mnist", tmp_path / "tfds")
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "encode_png", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(cfg, "train")
    assert pairs(load(cfg, "train").images, load(cfg, "train").labels) == pairs(train[0][..., None], train[1])


def test_a_damaged_archive_is_refused(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_mnist(site, monkeypatch, examples(8, (28, 28)), examples(2, (28, 28)))
    infos = {
        site[1] + file.name: UrlInfo(len(file.read_bytes()), hashlib.sha256(file.read_bytes()).hexdigest(), file.name)
        for file in site[0].iterdir()
    }
    monkeypatch.setattr(mnist.MNIST, "url_infos", infos)
    archive = site[0] / "train-images-idx3-ubyte.gz"
    good = archive.read_bytes()
    archive.write_bytes(good[:-50])
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.gz.* has wrong checksum"):
        load(config("mnist", tmp_path / "tfds"), "train")
    archive.write_bytes(good)
    assert len(load(config("mnist", tmp_path / "tfds"), "train").images) == 8


def test_no_network_fails_in_seconds_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(mnist.MNIST, "URL", f"http://127.0.0.1:{closed.getsockname()[1]}/")
        start = time.monotonic()
        with pytest.raises(FileNotFoundError) as caught:
            load(config("mnist", tmp_path), "train")
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert "\n" not in message
    assert "ConnectionError at http://127.0.0.1" in message
    assert str(tmp_path / "downloads" / "manual") in message
    assert "train-labels-idx1-ubyte.gz" in message
    assert capfd.readouterr() == ("", "")


def test_a_page_not_found_is_named(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "_DL_URL", site[1])
    with pytest.raises(FileNotFoundError, match=r"HTTP code: 404.*put .*train_32x32.tar.* into "):
        load(config("imagenet32", tmp_path / "tfds"), "train")


def test_missing_data_and_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not prepared in .*; run once with dataset.download=true"):
        load(config("cifar10", tmp_path, download=False), "train")
    with pytest.raises(ValueError, match=r"dataset.tfds_name=mnits is unknown"):
        load(config("mnist", tmp_path, tfds_name="mnits"), "train")
    with pytest.raises(ValueError, match=r"dataset.tfds_name=imdb_reviews is not a data set of grey or RGB"):
        load(config("mnist", tmp_path, tfds_name="imdb_reviews"), "train")
    for split in ("dev", "train[5:2]"):
        with pytest.raises(ValueError, match=r"no split '.*', or no image in it; its splits are train, test"):
            load(config("digits", tmp_path, train_split=split), "train")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"dataset.data_dir=.* cannot be written"):
        load(config("digits", tmp_path / "file" / "below"), "train")


def test_a_missing_package_is_named(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a builder wants more of TensorFlow than is replaced, the sentence says what to install."""
    serve_mnist(site, monkeypatch, examples(8, (28, 28)), examples(2, (28, 28)))
    monkeypatch.setattr(mnist, "_extract_mnist_images", lambda path, count: mnist.tf.io.decode_raw(path))
    with pytest.raises(FileNotFoundError, match="No module named 'tensorflow'; install that package"):
        load(config("mnist", tmp_path / "tfds"), "train")


def test_the_shared_recipe_explains_every_option() -> None:
    lines = [line for line in (CONF / "images.yaml").read_text().splitlines() if not line.startswith("#")]
    assert {line.split(":")[0] for line in lines} == {field.name for field in dataclasses.fields(DatasetConfig)}
    assert all(" # " in line for line in lines)


@pytest.mark.parametrize("name", [file.stem for file in CONF.glob("*.yaml")])
def test_recipes_agree_with_the_schema_and_have_a_heading(name: str, tmp_path: Path) -> None:
    assert config(name, tmp_path).name == name
    assert (CONF / f"{name}.yaml").read_text().startswith("# ")


shared = pytest.mark.skipif("DEIS_SHARED" not in os.environ, reason="DEIS_SHARED names no folder of official images")


@shared
def test_fashion_mnist_from_the_official_files_put_there_by_hand(tmp_path: Path) -> None:
    """The way out of every download problem, official checksums included."""
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for file in Path(os.environ["DEIS_SHARED"], "data", "fashion_mnist").glob("*.gz"):
        (manual / file.name).symlink_to(file)
    test = load(config("fashion_mnist", tmp_path), "test")
    assert test.images.shape == (10_000, 28, 28, 1)
    assert test.labels is not None
    np.testing.assert_array_equal(np.bincount(test.labels), 1000)


@shared
def test_real_mnist(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth image; Fashion-MNIST above is prepared in full."""
    sources = [np.load(Path(os.environ["DEIS_SHARED"], "data", f"mnist_{split}.npz")) for split in ("train", "test")]
    train, test = [(source["images"][::10], source["labels"][::10]) for source in sources]
    serve_mnist(site, monkeypatch, train, test)
    split = load(config("mnist", tmp_path / "tfds"), "train")
    assert len(split.images) == 6_000
    assert pairs(split.images, split.labels) == pairs(train[0][..., None], train[1])


@shared
def test_real_cifar10(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand photographs."""
    folder = Path(os.environ["DEIS_SHARED"], "data", "cifar10")
    tiles = np.asarray(Image.open(folder / "data_batch_1.webp").convert("RGB")).reshape(100, 32, 100, 32, 3)
    images = tiles.transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)[:2000]
    labels = np.load(folder / "labels.npz")["train"][:2000]
    serve_cifar10(site, monkeypatch, (images, labels), (images[:100], labels[:100]))
    split = load(config("cifar10", tmp_path / "tfds"), "train")
    assert len(split.images) == 2000
    assert pairs(split.images, split.labels) == pairs(images, labels)
