"""Translation of published tensors into the parameters of this project's network, by one rule per parameter.

Dense kernels are [in, out] here and convolutions [h, w, in, out]; the shortcut of a residual block, a 1x1 convolution
elsewhere, is a dense layer.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from models.config import UNetConfig
from models.layout import Stage

Tensors = dict[str, np.ndarray]


class Rule(NamedTuple):
    """The parameter `ours` of this project is convert(*tensors) of the published tensors named `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    convert: Callable[..., np.ndarray] = lambda tensor: tensor


def translate(rules: list[Rule], tensors: Tensors, model: UNetConfig, unused: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of `model`, nested dicts of float32 arrays, made from published tensors.

    unused: tensors that are known to have no part in sampling.
    Raises ValueError, naming the tensor, for one that is missing, has another shape than `model` needs, holds NaN, or
    is left over.
    """
    named = {name for rule in rules for name in rule.theirs}
    if missing := sorted(named - tensors.keys()):
        raise ValueError(f"tensor {_few(missing)} is missing")
    if extra := sorted(tensors.keys() - named - set(unused)):
        raise ValueError(f"tensor {_few(extra)} has no place in this network")
    expected = expected_shapes(model)
    if undescribed := expected.keys() ^ {rule.ours for rule in rules}:
        raise AssertionError(f"rules and network disagree about {_few(sorted(undescribed))}")
    params = {}
    for rule in rules:
        inputs = [tensors[name] for name in rule.theirs]
        said = " and ".join(f"{name} {list(t.shape)}" for name, t in zip(rule.theirs, inputs, strict=True))
        shape = expected[rule.ours]
        try:
            output = np.ascontiguousarray(rule.convert(*inputs), np.float32)
        except (ValueError, IndexError):
            raise ValueError(f"tensor {said} cannot make {rule.ours} {list(shape)}") from None
        if output.shape != shape:
            raise ValueError(
                f"tensor {said} makes {rule.ours} {list(output.shape)}, but the configuration needs {list(shape)}"
            )
        if not np.all(np.isfinite(output)):
            raise ValueError(f"tensor {said} holds NaN or infinite values")
        params[rule.ours] = output
    return nested(params)


def expected_shapes(model: UNetConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of a network, by its path."""
    import jax

    from models.unet import shapes

    leaves = jax.tree.leaves_with_path(shapes(model))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def flat(params: dict[str, Any], prefix: str = "") -> Tensors:
    """Return {"a": {"b": x}} as {"a.b": x}."""
    tensors: Tensors = {}
    for name, value in params.items():
        tensors |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: np.asarray(value)}
    return tensors


def nested(tensors: Tensors) -> dict[str, Any]:
    """Return {"a.b": x} as {"a": {"b": x}}."""
    params: dict[str, Any] = {}
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        inside = params
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[leaf] = value
    return params


Layer = Callable[[str, str], list[Rule]]  # rules for the layer (ours, theirs)


def block(stage: Stage, theirs: str, names: list[str], layer: Layer, norm: Layer) -> list[Rule]:
    """Rules for a residual block without its attention.

    names: of norm 1, convolution 1, the embedding's layer, norm 2, convolution 2 and the shortcut, within `theirs`.
    """
    kinds = {"norm_1": norm, "conv_1": layer, "embed": layer, "norm_2": norm, "conv_2": layer}
    if stage.n_in != stage.n_out or stage.resample:
        kinds["shortcut"] = layer
    pairs = zip(kinds.items(), names, strict=False)
    return [rule for (our, kind), their in pairs for rule in kind(f"stages.{stage.name}.{our}", f"{theirs}.{their}")]


def torch_layer(ours: str, *theirs: str) -> list[Rule]:
    """Rules for a layer of PyTorch with bias, or for several with the same inputs, whose outputs are concatenated."""
    kernels, biases = (tuple(f"{name}.{leaf}" for name in theirs) for leaf in ("weight", "bias"))
    return [
        Rule(f"{ours}.kernel", kernels, lambda *weights: concatenated(*map(torch_kernel, weights))),
        Rule(f"{ours}.bias", biases, concatenated),
    ]


def torch_norm(ours: str, theirs: str) -> list[Rule]:
    """Rules for a normalisation layer of PyTorch."""
    return [Rule(f"{ours}.scale", (f"{theirs}.weight",)), Rule(f"{ours}.bias", (f"{theirs}.bias",))]


def torch_kernel(weight: np.ndarray) -> np.ndarray:
    """Return a weight of PyTorch in our layout: [out, in] and [out, in, 1, 1] as [in, out], else [h, w, in, out]."""
    return weight.transpose(2, 3, 1, 0) if weight.shape[2:] not in ((), (1, 1)) else weight.reshape(weight.shape[:2]).T


def concatenated(*tensors: np.ndarray) -> np.ndarray:
    """Return tensors [..., n] as one [..., number * n]. Raises ValueError if their shapes differ."""
    return np.concatenate(np.stack(tensors), axis=-1)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
