"""Patches of private names of tensorflow-datasets (TFDS), for the time in which it prepares a data set.

TFDS reads array_record files without TensorFlow but cannot write them without it: its extractor and some builders open
files by `tf.io.gfile`, and an image given as an array is compressed by a TensorFlow op. It also waits for a dead
network without end. TFDS has no public option for either, hence the patches.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

import numpy as np
from PIL import Image

_TIMEOUT = (5, 60)  # seconds to connect and to read; TFDS sets none
_RETRIES = 2  # TFDS tries ten times, which takes minutes on a dead network


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep messages to programmers off the console: TFDS prints, and absl and urllib3 log warnings."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # for good: its threads may outlive a failed download
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.setLevel(level)


@contextlib.contextmanager
def without_tensorflow(builder: Any) -> Iterator[None]:
    """Replace what TFDS and this builder use of TensorFlow, unless that is installed, and limit waiting and retries."""
    from tensorflow_datasets.core.download import downloader, extractor
    from tensorflow_datasets.core.features import image_feature

    patches = [
        (downloader, "_open_url", partial(downloader._open_url, timeout=_TIMEOUT)),
        (downloader, "MAX_RETRIES", _RETRIES),
    ]
    if importlib.util.find_spec("tensorflow") is None:
        tf = _Absent(io=_Absent(gfile=_Absent(GFile=_open)), compat=_Absent(as_text=str))
        modules = [extractor, sys.modules[type(builder).__module__]]
        patches += [(module, "tf", tf) for module in modules if hasattr(module, "tf")]
        patches += [(image_feature._ImageEncoder, "_encode_image", encode_png)]
    with contextlib.ExitStack() as stack:
        for owner, name, value in patches:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


class _Absent(SimpleNamespace):
    """A part of TensorFlow that has the attributes given, and reports TensorFlow as missing for any other."""

    def __getattr__(self, name: str) -> Any:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")


def _open(path: os.PathLike[str], mode: str = "r") -> contextlib.AbstractContextManager[IO[Any]]:
    """Stand in for `tf.io.gfile.GFile`, which can still be read after its `with` block: CelebA's builder needs that."""
    file = open(path, mode)  # noqa: SIM115
    return contextlib.nullcontext(file) if mode.startswith("r") else file


def encode_png(encoder: Any, image: np.ndarray) -> bytes:
    """Stand in for `_ImageEncoder._encode_image`: uint8 [h, w, c] to the bytes of a PNG file."""
    png = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
    return png.getvalue()
