"""Translation of published tensors into the parameters of this project's network, by one rule per parameter.

Dense kernels are [in, out] here and convolutions [h, w, in, out]; the shortcut of a residual block, a 1x1 convolution
elsewhere, is a dense layer.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from formats.short import named, short, shown
from models.config import UNetConfig
from models.layout import stages

Tensors = dict[str, np.ndarray]
FLOATS = {np.dtype(kind).name: np.dtype(kind) for kind in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)}


class Rule(NamedTuple):
    """A parameter of this project is convert(*tensors) of the published tensors named `theirs`."""

    theirs: tuple[str, ...]
    convert: Callable[..., np.ndarray] = lambda tensor: tensor


Rules = dict[str, Rule]  # the rule for each parameter of this project, by its path
Modules = dict[str, str | tuple[str, ...]]  # the published name of each module of this project, or several names


def translate(rules: Rules, tensors: Tensors, model: UNetConfig, unused: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of `model`, nested dicts of float32 arrays, made from published tensors.

    rules: those for parameters that `model` does not have are ignored.
    unused: tensors that are known to have no part in sampling.
    Raises ValueError, naming the tensor, for one that is missing, left over, of another shape, not of floating-point
    numbers, or that holds NaN.
    """
    from flax.traverse_util import unflatten_dict

    refuse_larger(model, len(tensors))
    expected = expected_shapes(model)
    if undescribed := sorted(expected.keys() - rules.keys()):
        raise AssertionError(f"there are no rules for {named(undescribed)}")
    rules = {ours: rule for ours, rule in rules.items() if ours in expected}
    used = {name for rule in rules.values() for name in rule.theirs}
    if missing := sorted(used - tensors.keys()):
        raise ValueError(f"tensor {named(missing)} is missing")
    if extra := sorted(tensors.keys() - used - set(unused)):
        raise ValueError(f"tensor {named(extra)} has no place in this network")
    params = {}
    for ours, rule in rules.items():
        inputs, shape = [tensors[name] for name in rule.theirs], expected[ours]
        said = " and ".join(f"{name} {shown(list(t.shape))}" for name, t in zip(rule.theirs, inputs, strict=True))
        if not all(tensor.dtype in FLOATS.values() for tensor in inputs):
            kinds = ", ".join(short(tensor.dtype) for tensor in inputs)
            raise ValueError(f"tensor {said} holds {kinds}, and must hold one of {', '.join(FLOATS)}")
        try:
            with np.errstate(over="ignore"):  # becomes infinite, and is refused below
                output = np.ascontiguousarray(rule.convert(*inputs), np.float32)
        except (ValueError, IndexError):
            raise ValueError(f"tensor {said} cannot make {ours} {list(shape)}") from None
        if output.shape != shape:
            raise ValueError(
                f"tensor {said} makes {ours} {shown(list(output.shape))}, but the configuration needs {list(shape)}"
            )
        if not np.all(np.isfinite(output)):
            raise ValueError(f"tensor {said} holds NaN or infinite values")
        params[ours] = output
    return unflatten_dict(params, sep=".")


def refuse_larger(model: UNetConfig, count: int) -> None:
    """Raise ValueError for a network of more blocks than `count` tensors can make, before it is built."""
    if (blocks := len(stages(model))) > count:
        raise ValueError(f"the network's options ask for {blocks} blocks, more than its {count} tensors can make")


def expected_shapes(model: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a network, by its path."""
    from models.unet import shapes

    return {path: leaf.shape for path, leaf in flat(shapes(model)).items()}


def flat(params: dict[str, Any]) -> dict[str, Any]:
    """Return {"a": {"b": x}} as {"a.b": x}."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(params, sep=".")


def rules_for(modules: Modules, leaves: dict[str, str], layout: Callable[[np.ndarray], np.ndarray]) -> Rules:
    """Return the rules for every parameter that modules may have.

    modules: several published names are of layers with the same inputs, whose outputs are concatenated here.
    leaves: the published name of each kind of parameter, which is kernel, bias, scale or frequency here.
    layout: brings a tensor of any kind into the order of this project's axes.
    """
    rules = {}
    for ours, theirs in modules.items():
        names = (theirs,) if isinstance(theirs, str) else theirs
        for leaf, their_leaf in leaves.items():
            rules[f"{ours}.{leaf}"] = Rule(tuple(f"{n}.{their_leaf}" for n in names), partial(_concatenated, layout))
    return rules


def _concatenated(layout: Callable[[np.ndarray], np.ndarray], *tensors: np.ndarray) -> np.ndarray:
    """Return tensors as one along the last axis. Raises ValueError if their shapes differ."""
    return np.concatenate(np.stack([layout(tensor) for tensor in tensors]), axis=-1)


TORCH = {"kernel": "weight", "bias": "bias", "scale": "weight", "frequency": "freqs"}


def torch_layout(tensor: np.ndarray) -> np.ndarray:
    """Return a tensor of PyTorch in our layout: [out, in] and [out, in, 1, 1] as [in, out], else [h, w, in, out].

    A tensor with one axis, a bias or a scale, remains as it is.
    """
    return tensor.transpose(2, 3, 1, 0) if tensor.shape[2:] not in ((), (1, 1)) else tensor.reshape(tensor.shape[:2]).T
