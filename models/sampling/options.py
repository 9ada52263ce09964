"""What may be asked of a network's eps on its way to the solver: class, guidance, clipping."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.sampling.build import build_sde, same_diffusion
from models.sampling.source import Source, find


@dataclass
class EpsOptions:
    """How the network's eps is asked for and changed on its way to the solver; conf/eps.yaml explains the options."""

    label: int | None = None
    guidance: float | None = None
    guidance_network: str | None = None
    guidance_interval: list[float] | None = None
    guidance_rescale: float | None = None
    guidance_parallel: float | None = None
    guidance_norm: float | None = None
    clip: bool = False
    threshold: float | None = None


def given(options: EpsOptions) -> dict[str, Any]:
    """The options by name that change anything."""
    return {name: value for name, value in values_of(options).items() if value is not None and value is not False}


def values_of(options: EpsOptions) -> dict[str, Any]:
    """The options by name, those of an EpsOptions alone, whatever else the object has."""
    return {name: getattr(options, name) for name in EpsOptions.__dataclass_fields__}


def check_eps(options: EpsOptions, network: Mapping[str, Any]) -> Source | None:
    """Refuse with a ValueError what contradicts itself or the network; returns the worse network of autoguidance.

    network: the options `model` and `sde` of the network that is sampled from, as in `Source.config`.
    Raises FileNotFoundError if `guidance_network` is none.
    """
    model, label, weight = network["model"], options.label, options.guidance
    classes = model.get("num_classes", 0)
    if label is not None and not 0 <= label < classes:
        allowed = f"0 to {classes - 1}" if classes else "null: this network was trained without classes"
        raise ValueError(f"label must be {allowed} (model.num_classes={classes}), got {label}")
    if options.threshold is not None and (options.clip or not 1 < options.threshold <= 100):
        raise ValueError(
            f"threshold must be a percentile in (1, 100], without clip=true, as it clips too; got {options.threshold:g}"
        )
    asked = given(options)
    if weight is None:
        if changed := [name for name in asked if name.startswith("guidance_")]:
            raise ValueError(f"{changed[0]}={asked[changed[0]]} needs guidance: give its weight too, as guidance=2")
        return None
    if not math.isfinite(weight):
        raise ValueError(f"guidance must be finite, got {weight:g}")
    if options.guidance_network is None and not model.get("null_class"):
        raise ValueError(
            f"guidance={weight:g} needs a network trained with model.null_class=true, or guidance_network=FOLDER, a "
            "worse network to move away from"
        )
    bounds = options.guidance_interval
    if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] < bounds[1]):
        raise ValueError(f"guidance_interval must be two noise levels, the lower first, as [0.2,2], got {bounds}")
    for name, low, high in (
        ("guidance_rescale", 0.0, 1.0),
        ("guidance_parallel", 0.0, float("inf")),
        ("guidance_norm", 1e-9, float("inf")),
    ):
        if name in asked and not low <= asked[name] <= high:
            allowed = "from 0 to 1" if high == 1 else "above 0" if low else "0 or more"
            raise ValueError(f"{name} must be {allowed}, got {asked[name]:g}")
    return None if options.guidance_network is None else _worse(options.guidance_network, network)


def _worse(folder: str, network: Mapping[str, Any]) -> Source:
    """The network in `folder`. Raises ValueError if it is for other images, classes or another diffusion."""
    source = find(folder, None, "")
    theirs, ours = source.config["model"], network["model"]
    for name in ("image_size", "image_channels", "num_classes"):
        allowed = (ours.get(name), 0) if name == "num_classes" else (ours.get(name),)
        if ours.get(name) is not None and theirs.get(name) not in allowed:
            raise ValueError(
                f"guidance_network={folder} has model.{name}={theirs.get(name)}, and the network it is to guide "
                f"{ours.get(name)}; choose one of the same images and classes"
            )
    if not same_diffusion(build_sde(source.config["sde"]), build_sde(network["sde"])):
        raise ValueError(f"guidance_network={folder} was trained under another diffusion; choose one of the same")
    return source
