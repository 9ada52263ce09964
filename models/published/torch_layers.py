"""Layers of PyTorch as ours: [out, in, h, w] and [out, in] there, [h, w, in, out] and [in, out] here."""

from collections.abc import Callable

import numpy as np

from models.published.weights import Rule


def layer(ours: str, theirs: str, kernel: Callable[[np.ndarray], np.ndarray]) -> list[Rule]:
    """A layer with bias; kernel: `conv` or `linear`."""
    return [Rule(f"{ours}.kernel", (f"{theirs}.weight",), kernel), Rule(f"{ours}.bias", (f"{theirs}.bias",))]


def norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.scale", (f"{theirs}.weight",)), Rule(f"{ours}.bias", (f"{theirs}.bias",))]


def conv(weight: np.ndarray) -> np.ndarray:
    return weight.transpose(2, 3, 1, 0)


def linear(weight: np.ndarray) -> np.ndarray:
    """From [out, in] or, of a 1x1 convolution, [out, in, 1, 1]."""
    return weight.reshape(weight.shape[:2]).T
