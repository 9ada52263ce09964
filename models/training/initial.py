"""Parameters to start a training from: those of a converted network, or the EMA parameters of a run."""

import json
from dataclasses import asdict
from typing import Any

from deis import SDE
from models.config import UNetConfig, model_of
from models.published.network import read_checkpoint, read_published
from models.sampling.build import build_sde, same_diffusion
from models.sampling.source import Source, find

FREE = ("dropout", "dtype", "remat")  # options of the network that its parameters do not depend on


def find_initial(folder: str, sde: SDE) -> Source:
    """The network in a folder, a published one or the newest checkpoint of a run, trained under this diffusion.

    t_0 and T may be others, unless the network is told t/T. Raises FileNotFoundError if there is none, ValueError for
    another diffusion.
    """
    source = find(folder, None, "")
    theirs = build_sde(source.config["sde"])
    same_times = theirs.T == sde.T or source.config["model"].get("time", UNetConfig.time) != "t_999"
    if not (same_times and same_diffusion(theirs, sde)):
        options = source.config["sde"].items()
        typed = " ".join("sde=" + value if key == "name" else _override(f"sde.{key}", value) for key, value in options)
        raise ValueError(f"init={folder} was trained under another diffusion; to start from it give {typed}")
    return source


def initial_params(source: Source, model: UNetConfig) -> dict[str, Any]:
    """The network's parameters, nested dicts of float32 arrays; the EMA parameters if it is a run.

    Raises ValueError if they are not those of `model`, which may differ in `FREE` alone, or if a file is damaged.
    """
    theirs, ours = asdict(model_of(source.config["model"])), asdict(model)
    for key, what in (("image_channels", "channels"), ("image_size", "pixels a side")):
        if theirs[key] != ours[key]:
            raise ValueError(
                f"init={source.path} is a network for images of {theirs[key]} {what}, but those of the data set have "
                f"{ours[key]}"
            )
    differ = [key for key in theirs if key not in FREE and theirs[key] != ours[key]]
    if differ:
        typed = " ".join(_override(f"model.{key}", theirs[key]) for key in differ)
        raise ValueError(f"init={source.path} is another network; to start from it give {typed}")
    network = read_published(source.path) if source.step is None else read_checkpoint(source.path, source.step)
    return network.params


def _override(key: str, value: Any) -> str:
    """An option as it is typed: key=null, key=[1,2]."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
