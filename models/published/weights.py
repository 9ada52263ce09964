"""Networks as published: a folder with config.json and model.safetensors; and what every import ends in.

config.json    {"family", "source", "model": options of UNetConfig, "sde" and "dataset": theirs, "sha256"}
model.safetensors    one float32 tensor per parameter, named by its path: stages.down_32_0.conv_1.kernel
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.files import read_json, read_safetensors, sha256
from models.config import UNetConfig, validate

Tensors = dict[str, np.ndarray]


class Weights(NamedTuple):
    """A network with its weights. family: whose form they came in. source: the file they came from.

    sde: the diffusion it was trained under, as `name` and options; params: nested dicts of float32 arrays.
    dataset: options of the images it was trained on, where they are known.
    """

    family: str
    source: str
    model: UNetConfig
    sde: dict[str, Any]
    params: dict[str, Any]
    dataset: dict[str, Any] | None = None


class Rule(NamedTuple):
    """One parameter of ours, `ours`, is convert(*tensors) of the published ones named `theirs`."""

    ours: str
    theirs: tuple[str, ...]
    convert: Callable[..., np.ndarray] = lambda tensor: tensor


def translate(rules: list[Rule], tensors: Tensors, model: UNetConfig, unused: Collection[str] = ()) -> dict[str, Any]:
    """The parameters of `model` from published tensors.

    unused: tensors that are known to have no part in sampling.
    Raises ValueError, naming the tensor, for one that is missing, has another shape than `model` needs, holds NaN, or
    is left over.
    """
    named = {name for rule in rules for name in rule.theirs}
    if missing := sorted(named - tensors.keys()):
        raise ValueError(f"tensor {_few(missing)} is missing")
    if extra := sorted(tensors.keys() - named - set(unused)):
        raise ValueError(f"tensor {_few(extra)} has no place in this network")
    expected = _expected(model)
    if undescribed := expected.keys() ^ {rule.ours for rule in rules}:
        raise AssertionError(f"rules and network disagree about {_few(sorted(undescribed))}")
    found = {}
    for rule in rules:
        there = [tensors[name] for name in rule.theirs]
        said = " and ".join(f"{name} {list(t.shape)}" for name, t in zip(rule.theirs, there, strict=True))
        try:
            ours = np.ascontiguousarray(rule.convert(*there), np.float32)
        except (ValueError, IndexError):
            raise ValueError(f"tensor {said} cannot make {rule.ours} {list(expected[rule.ours])}") from None
        if ours.shape != expected[rule.ours]:
            raise ValueError(
                f"tensor {said} makes {rule.ours} {list(ours.shape)}, but the configuration needs "
                f"{list(expected[rule.ours])}"
            )
        if not np.all(np.isfinite(ours)):
            raise ValueError(f"tensor {said} holds NaN or infinite values")
        found[rule.ours] = ours
    return nested(found)


def save(folder: Path, weights: Weights) -> None:
    """Write the two files into `folder`, which must not hold them yet: whole or not at all."""
    from safetensors import numpy as safetensors

    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose another folder")
    partial = folder.with_name(f".partial-{folder.name}")
    partial.mkdir(parents=True, exist_ok=True)
    try:
        # of an array that is not in C order, safetensors writes the elements in the wrong order
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat(weights.params).items()}
        (partial / "model.safetensors").write_bytes(safetensors.save(tensors))
        config = {name: getattr(weights, name) for name in ("family", "source", "sde", "dataset")}
        config |= {"model": dataclasses.asdict(weights.model), "sha256": sha256(partial / "model.safetensors")}
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if folder.exists():
            folder.rmdir()
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path) -> Weights:
    """Read what `save` wrote, bit for bit.

    Raises FileNotFoundError if a file is not there, ValueError if one is damaged or they do not fit each other.
    """
    config = read_config(folder)
    model, path = UNetConfig(**config["model"]), folder / "model.safetensors"
    tensors = read_safetensors(path)
    if sha256(path) != config["sha256"]:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in config.json; fetch or convert it again")
    try:
        params = translate([Rule(name, (name,)) for name in _expected(model)], tensors, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Weights(config["family"], config["source"], model, config["sde"], params, config["dataset"])


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a published network. Raises FileNotFoundError, or ValueError if it is not such a file."""
    path = folder / "config.json"
    config = read_json(path)
    try:
        validate(UNetConfig(**config["model"]))
        is_whole = {"family", "source", "sde", "dataset", "sha256"} <= config.keys()
    except (KeyError, TypeError):  # for an option that is absent, unknown or of another type
        is_whole = False
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if not is_whole:
        raise ValueError(f"{path} does not describe a network of this project; convert it: python -m models.convert")
    return config


def flat(params: dict[str, Any], prefix: str = "") -> Tensors:
    """{"a": {"b": x}} as {"a.b": x}."""
    found: Tensors = {}
    for name, value in params.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: np.asarray(value)}
    return found


def nested(tensors: Tensors) -> dict[str, Any]:
    """{"a.b": x} as {"a": {"b": x}}."""
    params: dict[str, Any] = {}
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        inside = params
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[leaf] = value
    return params


def _expected(model: UNetConfig) -> dict[str, tuple[int, ...]]:
    import jax

    from models.unet import shapes

    leaves = jax.tree.leaves_with_path(shapes(model))
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
