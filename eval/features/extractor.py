"""The interface of every feature extractor."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Extractor:
    """A frozen map from images to feature vectors, and to the logits of the classifier behind it if there is one.

    name: identity, NAME@HASH; the hash covers all that the features depend on.
    distance: what a Fréchet distance of these features is called; "FID" or, where that would mislead, "FD".
    dim: number of features d.
    embed: maps exactly `batch_size` images to (features, logits or None), as arrays of any kind.
    image_shape: the only shape (h, w, c) of images it takes; None: any h and w, grey or RGB.
    accuracy: the classifier's on held-out images, in [0, 1], where it was measured.
    """

    name: str
    distance: str
    dim: int
    batch_size: int
    cache_dir: Path
    embed: Callable[[UInt8[np.ndarray, "batch h w c"]], tuple[Any, Any | None]]
    image_shape: tuple[int, ...] | None = None
    accuracy: float | None = None

    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
        """Features of any number of images. Raises ValueError as `outputs` does."""
        return self.outputs(images)[0]

    def outputs(
        self, images: UInt8[np.ndarray, "n h w c"]
    ) -> tuple[Float32[np.ndarray, "n d"], Float32[np.ndarray, "n k"] | None]:
        """(features, logits) of any number of images, in batches padded to one size (one compilation).

        Raises ValueError if the images are not uint8, or of a shape that this extractor does not take.
        """
        if self.image_shape is not None:
            takes, fits = f"of shape {self.image_shape}", images.shape[1:] == self.image_shape
        else:
            takes, fits = "of any shape (h, w, c) with c = 1 or 3", images.ndim == 4 and images.shape[-1] in (1, 3)
        if images.dtype != np.uint8 or not fits:
            given = f"{images.dtype} of shape {images.shape[1:]}"
            raise ValueError(f"extractor {self.name} takes uint8 images {takes}, not {given}")
        parts = []
        for start in range(0, max(len(images), 1), self.batch_size):
            chunk = images[start : start + self.batch_size]
            padding = np.zeros((self.batch_size - len(chunk), *images.shape[1:]), np.uint8)
            found = self.embed(np.concatenate([chunk, padding]))
            parts.append([part if part is None else np.asarray(part)[: len(chunk)] for part in found])
        features, logits = zip(*parts, strict=True)
        return np.concatenate(features), None if logits[0] is None else np.concatenate(logits)


def identity(name: str, *parts: np.ndarray | str) -> str:
    """NAME@HASH, where the hash covers dtype, shape and content of every part."""
    digest = hashlib.sha256()
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.data)
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}@{digest.hexdigest()[:12]}"
