"""Archives in the official formats of public data sets, written from given images, and a web server for them."""

import contextlib
import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorflow_datasets.datasets.celeb_a import celeb_a_dataset_builder as celeb_a
from tensorflow_datasets.image_classification import cifar, mnist

from data.config import DatasetConfig

CELEBA_FILES = {  # constant of the builder that holds the address -> name under which the file is served
    "IMG_ALIGNED_DATA": "img_align_celeba.zip",
    "EVAL_LIST": "partition.txt",
    "ATTR_DATA": "attributes.txt",
    "LANDMARKS_DATA": "landmarks.txt",
    "IDENTITY_DATA": "identity.txt",
}

CONF = Path(__file__).parents[2] / "conf" / "dataset"
RNG = np.random.default_rng(0)

Examples = tuple[np.ndarray, np.ndarray]  # uint8 images and integer labels
Site = tuple[Path, str]  # a folder and the address at which it is served


def config(name: str, data_dir: Path, **options: object) -> DatasetConfig:
    """The data set as conf/dataset/NAME.yaml has it, with types checked."""
    recipe = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(recipe, DictConfig)
    recipe.pop("defaults", None)
    options["data_dir"] = str(data_dir)
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), recipe, options))  # type: ignore[return-value]


def examples(count: int, shape: tuple[int, ...]) -> Examples:
    return RNG.integers(0, 256, (count, *shape), np.uint8), RNG.integers(0, 10, count)


def pairs(images: np.ndarray, labels: np.ndarray | None) -> list[tuple[bytes, int]]:
    """Images with their labels, in an order of their own: TFDS shuffles what it writes."""
    assert labels is not None
    return sorted(
        (hashlib.sha1(image.tobytes()).digest(), int(label)) for image, label in zip(images, labels, strict=True)
    )


class _SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the files of `folder` are served on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_SilentHandler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def write_mnist(folder: Path, train: Examples, test: Examples) -> None:
    """Idx files: two zero bytes, 8 for uint8, the rank, the sizes as big-endian int32, the bytes; gzipped."""
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = gzip.compress(header + array.astype(np.uint8).tobytes(), 1)
            (folder / f"{prefix}-{name}-ubyte.gz").write_bytes(content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def write_cifar10(folder: Path, train: Examples, test: Examples) -> None:
    """Binary batches, five and one: per image a label byte, then the red, the green and the blue plane."""
    batches = {f"data_batch_{i + 1}.bin": (train[0][i::5], train[1][i::5]) for i in range(5)} | {"test_batch.bin": test}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        _add(archive, "cifar-10-batches-bin/batches.meta.txt", b"\n".join(b"class%d" % i for i in range(10)))
        for name, (images, labels) in batches.items():
            planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
            content = np.concatenate([labels[:, None].astype(np.uint8), planes], 1).tobytes()
            _add(archive, f"cifar-10-batches-bin/{name}", content)


def write_celeba(folder: Path, face: Image.Image, count: int) -> None:
    """A zip of `count` equal JPEG faces and the four tables; a third each for training, validation and test."""
    names = [f"{i:06d}.jpg" for i in range(count)]
    jpeg = io.BytesIO()
    face.save(jpeg, "JPEG", quality=95, subsampling=0)
    with zipfile.ZipFile(folder / CELEBA_FILES["IMG_ALIGNED_DATA"], "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"img_align_celeba/{name}", jpeg.getvalue())

    def rows(columns: int) -> str:
        return "".join(f"{name} {' '.join(['1'] * columns)}\n" for name in names)

    partition = "".join(f"{name} {i * 3 // count}\n" for i, name in enumerate(names))
    (folder / CELEBA_FILES["EVAL_LIST"]).write_text(partition)
    (folder / CELEBA_FILES["IDENTITY_DATA"]).write_text(rows(1))
    for constant, headings in (("ATTR_DATA", celeb_a.ATTR_HEADINGS), ("LANDMARKS_DATA", celeb_a.LANDMARK_HEADINGS)):
        (folder / CELEBA_FILES[constant]).write_text(f"{count}\n{' '.join(headings)}\n{rows(len(headings))}")


def write_imagenet32(folder: Path, train: np.ndarray, valid: np.ndarray) -> None:
    """Two tar files of PNG images."""
    for name, images in (("train_32x32", train), ("valid_32x32", valid)):
        with tarfile.open(folder / f"{name}.tar", "w") as archive:
            for i, pixels in enumerate(images):
                png = io.BytesIO()
                Image.fromarray(pixels).save(png, "PNG")
                _add(archive, f"{name}/{i:07d}.png", png.getvalue())


def serve_mnist(site: Site, patch: pytest.MonkeyPatch, train: Examples, test: Examples) -> None:
    """Send the stock builder to `site` for as many examples as are there."""
    write_mnist(site[0], train, test)
    patch.setattr(mnist.MNIST, "URL", site[1])
    patch.setattr(mnist, "_TRAIN_EXAMPLES", len(train[0]))
    patch.setattr(mnist, "_TEST_EXAMPLES", len(test[0]))


def serve_cifar10(site: Site, patch: pytest.MonkeyPatch, train: Examples, test: Examples) -> None:
    """Send the stock builder to `site`."""
    write_cifar10(site[0], train, test)
    official = cifar.Cifar10._cifar_info.fget
    moved = property(lambda self: official(self)._replace(url=site[1] + "cifar-10-binary.tar.gz"))
    patch.setattr(cifar.Cifar10, "_cifar_info", moved)
