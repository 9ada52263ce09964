"""CIFAR-10 in the forms other than the binary archive, which is the one that tensorflow-datasets asks for."""

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

OTHER_FORMS = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar-10-batches-bin")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
IMAGES = 10_000  # in every batch
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ROW = 1 + 3 * 32 * 32  # bytes of an image in a binary batch: its label, then the planes of red, green and blue


def other_form(folder: Path) -> Path | None:
    """The first of `OTHER_FORMS` in a folder; None if there is none, or the binary archive itself."""
    if (folder / "cifar-10-binary.tar.gz").exists():
        return None
    return next((folder / name for name in OTHER_FORMS if (folder / name).exists()), None)


def write_batches(source: Path, folder: Path) -> None:
    """Write what the binary archive holds into `folder`, from one of its other forms.

    Raises ValueError if `source` does not hold all the images.
    """
    out = folder / "cifar-10-batches-bin"
    out.mkdir()
    (out / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n")
    try:
        if source.is_dir():
            _write_all(out, lambda name: (source / name).open("rb"), source.name.endswith("-bin"))
        else:
            with tarfile.open(source) as archive:
                _write_all(out, lambda name: _member(archive, f"cifar-10-batches-py/{name}"), binary=False)
    except Exception as error:  # damaged pickles and archives fail in many ways
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{source} is not CIFAR-10 as published ({said}); replace or delete it, and run again"
        ) from None


def _write_all(out: Path, opener: Callable[[str], IO[bytes]], binary: bool) -> None:
    for name in BATCHES:
        with opener(f"{name}.bin" if binary else name) as file:
            rows = _binary_rows(file) if binary else _python_rows(file)
        if rows.shape != (IMAGES, _ROW) or rows[:, 0].max() >= len(CLASSES):
            raise ValueError(f"{name} does not hold {IMAGES} images of {len(CLASSES)} classes")
        (out / f"{name}.bin").write_bytes(rows.tobytes())


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file


def _binary_rows(file: IO[bytes]) -> np.ndarray:
    content = np.frombuffer(file.read(IMAGES * _ROW + 1), np.uint8)
    return content.reshape(-1, _ROW) if len(content) % _ROW == 0 else content


def _python_rows(file: IO[bytes]) -> np.ndarray:
    batch = _ArraysOnly(file, encoding="bytes").load()
    labels, pixels = np.asarray(batch[b"labels"]), np.asarray(batch[b"data"])
    if pixels.dtype != np.uint8 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"its data are {pixels.dtype}, its labels from {labels.min()} to {labels.max()}")
    return np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays, and runs nothing that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise ValueError(f"it names {module}.{name}, which is not read")
