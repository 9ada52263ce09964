"""Data sets on a machine without network: files put there by hand, in the forms that people have, right and wrong."""

import hashlib
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from data_archives import Examples, config, examples, pairs, write_cifar10
from jobs import job
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.image_classification import cifar, mnist

from data import cifar10, load
from data.config import DatasetConfig, as_trained, data_dir_of
from eval.job import dataset_of
from models.sampling.source import Source

TRAIN, TEST = examples(35, (32, 32, 3)), examples(7, (32, 32, 3))


@pytest.fixture
def manual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for files put there by hand, where no network answers, and batches of seven images."""
    monkeypatch.setattr(cifar10, "IMAGES", 7)
    monkeypatch.setattr(mnist.MNIST, "URL", "http://127.0.0.1:9/")
    official = cifar.Cifar10._cifar_info.fget
    dead = property(lambda self: official(self)._replace(url="http://127.0.0.1:9/cifar-10-binary.tar.gz"))
    monkeypatch.setattr(cifar.Cifar10, "_cifar_info", dead)
    folder = tmp_path / "downloads" / "manual"
    folder.mkdir(parents=True)
    return folder


def write_python(folder: Path, train: Examples = TRAIN, test: Examples = TEST) -> None:
    """Pickled batches as the python archive has them, with keys of bytes."""
    batches = {f"data_batch_{i + 1}": (train[0][i::5], train[1][i::5]) for i in range(5)} | {"test_batch": test}
    folder.mkdir(parents=True)
    for name, (images, labels) in batches.items():
        data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        content = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": data, b"filenames": [b"x.png"]}
        (folder / name).write_bytes(pickle.dumps(content))


def python_archive(manual: Path) -> None:
    write_python(manual.parent / "cifar-10-batches-py")
    with tarfile.open(manual / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(manual.parent / "cifar-10-batches-py", "cifar-10-batches-py")


def python_batches(manual: Path) -> None:
    write_python(manual / "cifar-10-batches-py")


def binary_batches(manual: Path) -> None:
    write_cifar10(manual.parent, TRAIN, TEST)
    with tarfile.open(manual.parent / "cifar-10-binary.tar.gz") as archive:
        archive.extractall(manual, filter="data")


@pytest.mark.parametrize("write", [python_archive, python_batches, binary_batches])
def test_cifar10_in_any_form(write: Callable[[Path], None], manual: Path, tmp_path: Path) -> None:
    write(manual)
    for name, (images, labels) in (("train", TRAIN), ("test", TEST)):
        split = load(config("cifar10", tmp_path), name)
        assert split.num_classes == 10
        assert pairs(split.images, split.labels) == pairs(images, labels)
    assert not list(tmp_path.glob("tmp*")), "the copies are gone"


class Harmful:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("harm", "w")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps({b"labels": [1] * 7}),
        pickle.dumps({b"labels": [1] * 6, b"data": np.zeros((6, 3072), np.uint8)}),
        pickle.dumps({b"labels": [10] * 7, b"data": np.zeros((7, 3072), np.uint8)}),
        pickle.dumps({b"labels": [1] * 7, b"data": np.zeros((7, 3072), np.float32)}),
        pickle.dumps({b"labels": [1] * 7, b"data": Harmful()}),
    ],
)
def test_wrong_batches_are_refused(content: bytes, manual: Path, tmp_path: Path) -> None:
    python_batches(manual)
    (manual / "cifar-10-batches-py" / "data_batch_4").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"cifar-10-batches-py is not CIFAR-10 as published \(.*\); replace or"
    ) as caught:
        load(config("cifar10", tmp_path), "train")
    assert "\n" not in str(caught.value)
    assert not Path("harm").exists()


def test_a_wrong_archive_is_refused(manual: Path, tmp_path: Path) -> None:
    (manual / "cifar-10-python.tar.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is not CIFAR-10 as published"):
        load(config("cifar10", tmp_path), "train")


def test_a_file_of_the_right_name_and_wrong_content_says_so(
    manual: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
    names += [name.replace("train", "t10k") for name in names]
    infos = {f"http://127.0.0.1:9/{name}": UrlInfo(4, hashlib.sha256(b"good").hexdigest(), name) for name in names}
    monkeypatch.setattr(mnist.MNIST, "url_infos", infos)
    for name in names:
        (manual / name).write_bytes(b"good")
    (manual / names[1]).write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ValueError, match=rf"{manual / names[1]} is not the file .* has 22 bytes .* replace or"
    ) as caught:
        load(config("mnist", tmp_path), "train")
    assert "network" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_an_earlier_run_wrote_and_is_damaged_now_says_so(tmp_path: Path) -> None:
    load(config("digits", tmp_path), "test")
    for pattern, what in (("test*.images.npy", "decoded"), ("*test.array_record*", "1.0.0"), ("*_info.json", "digits")):
        [file] = tmp_path.rglob(pattern)
        os.truncate(file, 1000)
        with pytest.raises(ValueError, match=rf"{what} is damaged \(.*\); delete it to have it made anew") as caught:
            load(config("digits", tmp_path), "test")
        assert "\n" not in str(caught.value)
        shutil.rmtree(tmp_path / "digits" / "1.0.0" / "decoded", ignore_errors=True)


def test_no_network_names_every_form(manual: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"put cifar-10-binary.tar.gz or cifar-10-python.tar.gz or .*-bin into"):
        load(config("cifar10", tmp_path), "train")


def test_which_folder_of_prepared_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked for, else TFDS_DATA_DIR, else what a checkpoint remembers if it is there, else TFDS's default."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    saved = {"name": "digits", "tfds_name": "digits", "data_dir": str(tmp_path), "image_size": 8}
    asked = DatasetConfig(data_dir="asked", download=False)
    default = Path("~/tensorflow_datasets").expanduser()
    assert data_dir_of(as_trained(saved)) == tmp_path
    assert data_dir_of(as_trained(saved | {"data_dir": "/scratch/of/another/machine"})) == default
    assert data_dir_of(as_trained(saved, asked)) == Path("asked")
    monkeypatch.setenv("TFDS_DATA_DIR", "from_environment")
    assert data_dir_of(as_trained(saved)) == Path("from_environment")
    assert data_dir_of(as_trained(saved, asked)) == Path("asked")
    assert data_dir_of(DatasetConfig()) == Path("from_environment")
    with pytest.raises(ValueError, match=r"trained with dataset\.rotate, an option that is not known"):
        as_trained(saved | {"rotate": 5})
    found = as_trained(saved, asked)
    assert (found.name, found.tfds_name, found.image_size, found.download) == ("digits", "digits", 8, False)


def test_a_command_takes_options_of_the_data_set_that_its_network_remembers() -> None:
    source = Source(Path("network"), None, {"dataset": {"name": "digits", "tfds_name": "digits", "image_size": 8}})
    asked = job("sample", "dataset.data_dir=/elsewhere", "dataset.download=false").dataset
    assert dataset_of(source, asked) == DatasetConfig("digits", "digits", None, "/elsewhere", False, image_size=8)
    assert dataset_of(source, job("sample", "dataset=mnist").dataset).name == "mnist"
    with pytest.raises(ValueError, match="give dataset=NAME"):
        dataset_of(source._replace(config={"dataset": None}), asked)


@pytest.mark.parametrize("command", ["sample.py", "eval.likelihood", "eval.table", "eval.fid", "eval.model_summary"])
def test_every_command_takes_it(command: str, tmp_path: Path) -> None:
    words = {"eval.table": ["paper=cifar10_vp"], "eval.fid": ["ref", "dataset=digits"]}.get(command, [])
    done = run_here(command, *words, "dataset.data_dir=/elsewhere", "--cfg=job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data_dir: /elsewhere" in done.stdout
