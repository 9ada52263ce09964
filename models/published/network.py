"""Networks in this project's published form: a folder with the network's configuration and its parameters.

config.json    {"family", "source", "model": options of UNetConfig, "sde" and "dataset": theirs, "sha256"}
model.safetensors    one float32 tensor per parameter, named by its path: stages.down_32_0.conv_1.kernel
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.files import atomic_path, read_json, read_safetensors, read_safetensors_header, require_empty, sha256
from formats.short import short, shown
from models.checkpoints import checkpoint
from models.config import UNetConfig, model_of
from models.published.allowed import errors_naming
from models.published.translate import Rule, expected_shapes, flat, refuse_larger, translate


class PublishedNetwork(NamedTuple):
    """A network with its parameters, and what is known about its training.

    family: the project whose format it came in; source: the file it came from.
    sde: the `name` and the options of the SDE it was trained under.
    params: nested dicts of float32 arrays.
    dataset: options of the images it was trained on, or None if they are not known.
    """

    family: str
    source: str
    model: UNetConfig
    sde: dict[str, Any]
    params: dict[str, Any]
    dataset: dict[str, Any] | None = None


def write_published(folder: Path, network: PublishedNetwork) -> None:
    """Write a network into a new or empty folder; nothing is left if that is interrupted.

    Raises FileExistsError as `require_empty`, ValueError for ".".
    """
    from safetensors import numpy as safetensors

    require_empty(folder)
    if not folder.name:
        raise ValueError(f"{folder} has no name that a finished folder could take; give that of a new folder")
    with atomic_path(folder, folder.with_name(f".partial-{folder.name}")) as partial:
        partial.mkdir(parents=True, exist_ok=True)
        # safetensors writes the elements of an array that is not in C order in the wrong order
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in flat(network.params).items()}
        (partial / "model.safetensors").write_bytes(safetensors.save(tensors))
        config = {name: getattr(network, name) for name in ("family", "source", "sde", "dataset")}
        config |= {"model": dataclasses.asdict(network.model), "sha256": sha256(partial / "model.safetensors")}
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_published(folder: Path) -> PublishedNetwork:
    """Read what `write_published` wrote, bit for bit.

    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or they do not fit each other.
    """
    config = read_published_config(folder)
    model, path = model_of(config["model"]), folder / "model.safetensors"
    tensors = read_safetensors(path)
    if sha256(path) != config["sha256"]:
        raise ValueError(f"{path} is damaged: its SHA-256 is not the one in config.json; fetch or convert it again")
    with errors_naming(path):
        params = translate({name: Rule((name,)) for name in expected_shapes(model)}, tensors, model)
    return PublishedNetwork(config["family"], config["source"], model, config["sde"], params, config["dataset"])


def read_checkpoint(folder: Path, step: int) -> PublishedNetwork:
    """Read the network of a run, with its EMA parameters. Raises FileNotFoundError, or ValueError if it is damaged."""
    from models.unet import shapes

    config = checkpoint.read_config(folder, step)
    with errors_naming(f"config.json of step {step} in {folder}"):
        model = model_of(config.get("model"))
    params = checkpoint.restore(folder, step, {"ema": shapes(model)})["ema"]
    source = f"{folder.absolute().parent.name}, step {step}"
    return PublishedNetwork("deis", source, model, config["sde"], params, config["dataset"])


def read_published_config(folder: Path) -> dict[str, Any]:
    """Read config.json of a published network, and see in the head of model.safetensors that it may hold its weights.

    Raises FileNotFoundError, or ValueError if a file is damaged, is none of such a network, or cannot fit the other.
    """
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_json(path)
    found: dict[str, Any] = {
        name: config.get(name) for name in ("family", "source", "model", "sde", "dataset", "sha256")
    }
    texts = (found["family"], found["source"], found["sha256"])
    if not (all(isinstance(text, str) for text in texts) and isinstance(found["model"], dict)):
        raise ValueError(f"{path} does not describe a network of this project; convert it: python -m models.convert")
    with errors_naming(path):
        model = model_of(found["model"])
        if not (_are_plain(found["sde"]) and isinstance(found["sde"].get("name"), str)):
            raise ValueError("sde must be the name and the options of the SDE that the network was trained under")
        if not (found["dataset"] is None or _are_plain(found["dataset"])):
            raise ValueError("dataset must be the options of a data set, or null")
    types = read_safetensors_header(weights)
    with errors_naming(weights):
        refuse_larger(model, len(types))
        for name, kind in types.items():
            if kind not in ("F16", "BF16", "F32", "F64"):
                raise ValueError(
                    f"tensor {short(name)} is of type {short(kind)}, and must be of floating-point numbers"
                )
    return found


def described(network: PublishedNetwork) -> str:
    """Return a description of a network in six lines."""
    model = network.model
    count = sum(leaf.size for leaf in flat(network.params).values())
    plain = {key: shown(value) if isinstance(value, list) else value for key, value in network.sde.items()}
    sde = ", ".join(f"{key} {value}" for key, value in plain.items() if key != "name")
    classes = f"{model.num_classes} classes" if model.num_classes else "no classes"
    return f"""\
family      {network.family}, from {network.source}
parameters  {count:,}, {model.image_size}x{model.image_size}x{model.image_channels} images, {classes}
SDE         {network.sde["name"]}: {sde}
time        {model.time}, {model.embedding} embedding
input       {model.input}
output      {model.output}"""


def _are_numbers(value: Any) -> bool:
    return type(value) is list and all(isinstance(one, int | float) for one in value)


def _are_plain(options: Any) -> bool:
    """Whether they are named as Python's are, and each is a text, a number, true, false, null or a list of numbers."""
    return isinstance(options, dict) and all(
        name.isidentifier()
        and len(name) < 100
        and (value is None or isinstance(value, str | int | float) or _are_numbers(value))
        for name, value in options.items()
    )
