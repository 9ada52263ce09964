"""Samples as single PNG files, named by seed in folders of 1,000, and which of them a run still has to draw."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data.pictures import picture_of
from formats.files import read_json, sha256, write_atomically
from models.checkpoints.hub import local_table
from models.sampling.options import EpsOptions, values_of
from models.sampling.source import Source, identity

FOLDER = "images"  # of a run


def file_of(folder: Path, seed: int) -> Path:
    """The file of a seed's image: images/012000/012345.png."""
    return folder / FOLDER / f"{seed // 1000 * 1000:06d}" / f"{seed:06d}.png"


def write_images(folder: Path, seeds: Sequence[int], images: UInt8[np.ndarray, "n h w c"]) -> None:
    """Write each image, grey (c = 1) or RGB (c = 3), so that a file that is there is whole."""
    for seed, image in zip(seeds, images, strict=True):
        path, content = file_of(folder, seed), io.BytesIO()
        path.parent.mkdir(parents=True, exist_ok=True)
        picture_of(image).save(content, "PNG")
        write_atomically(path, content.getvalue())


def read_images(folder: Path, seeds: Sequence[int]) -> UInt8[np.ndarray, "n h w c"]:
    """The images of these seeds, which `write_images` wrote. Raises ValueError for a file that cannot be read."""
    images = []
    for path in (file_of(folder, seed) for seed in seeds):
        try:
            with Image.open(path) as image:
                images.append(np.atleast_3d(np.asarray(image)))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error}); delete it to have it drawn anew") from None
    return np.stack(images)


def origin_of_images(
    source: Source, worse: Source | None, sampler: Mapping[str, Any], options: EpsOptions, rounding: str
) -> dict[str, Any]:
    """All that an image depends on beside its seed, as plain values. worse: the network of autoguidance."""
    solver = {f"sampler.{key}": value for key, value in sampler.items()}
    if sampler.get("table"):
        solver["sampler.table"] = sha256(local_table(sampler["table"]))
    return identity(source, worse) | solver | values_of(options) | {"rounding": rounding}


def write_origin(folder: Path, origin: dict[str, Any]) -> None:
    """Write down all that the images in `folder` depend on beside their seeds, as plain values."""
    write_atomically(folder / "origin.json", json.dumps(origin, indent=2) + "\n")


def drawn_before(folder: Path, seeds: Sequence[int], origin: dict[str, Any]) -> list[int]:
    """Those of the seeds, in their order, whose images an earlier run into `folder` has written.

    Raises ValueError if these are of another origin than this one, naming what differs.
    """
    if not (folder / FOLDER).is_dir():
        return []
    saved, origin = read_json(folder / "origin.json"), json.loads(json.dumps(origin))
    if changed := [f"{key}: {saved.get(key)} -> {value}" for key, value in origin.items() if saved.get(key) != value]:
        raise ValueError(
            f"{folder} holds images that were drawn otherwise ({'; '.join(changed)}); choose another run_dir"
        )
    return [seed for seed in seeds if file_of(folder, seed).is_file()]
