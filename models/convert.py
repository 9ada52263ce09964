"""Convert a network into this project's published form, config.json and model.safetensors.

    python -m models.convert SOURCE DEST

SOURCE is one of
  - a folder of diffusers: config.json of a UNet2DModel with diffusion_pytorch_model.safetensors, or a pipeline's
  - a checkpoint file of score_sde's JAX code; its configuration is a JSON file beside it, or --config
  - a pickle of EDM; no code in it is run
  - the folder of a training run; its newest checkpoint's EMA parameters
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.checkpoints import checkpoint
from models.config import UNetConfig
from models.published import weights
from models.published.diffusers import read_diffusers
from models.published.edm import read_edm
from models.published.score_sde import PUBLISHED, read_score_sde
from models.published.weights import Weights


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where something is refused, in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m models.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder to make")
    parser.add_argument(
        "--config", help=f"of a score_sde checkpoint: a JSON file, or one of the published {', '.join(PUBLISHED)}"
    )
    parser.add_argument("--time", choices=("t", "t_plus_1"), default="t", help="diffusers: t_plus_1 for DDIM's CelebA")
    args = parser.parse_args(argv)
    try:
        found = read(args.source.expanduser(), args.config, args.time)
        weights.save(args.dest.expanduser(), found)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(describe(found))
    print(f"written to {args.dest}; draw from it: python sample.py checkpoint={args.dest} extractor=none")
    return 0


def read(source: Path, config: str | None = None, time: str = "t") -> Weights:
    """The network at `source`, whatever form it has. Raises ValueError or FileNotFoundError with one sentence."""
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir():
        if checkpoint.latest_step(_checkpoints(source)) is not None:
            return read_run(source)
        if (source / "model.safetensors").is_file():
            raise ValueError(f"{source} is in the published form already")
        return read_diffusers(source, time=time)
    with source.open("rb") as file:
        start = file.read(2)
    if start == b"PK":
        raise ValueError(f"{source} is a file of torch.save, and none of the forms that can be converted is")
    if start[:1] == b"\x80":  # a pickle
        return read_edm(source)
    return read_score_sde(source, _score_sde_config(source, config))


def read_run(folder: Path) -> Weights:
    """The EMA parameters of the newest checkpoint of a training run."""
    import jax

    from models.unet import shapes

    checkpoints = _checkpoints(folder)
    step = checkpoint.latest_step(checkpoints)
    assert step is not None
    config = checkpoint.read_config(checkpoints, step)
    model = UNetConfig(**config["model"])
    params = jax.device_get(checkpoint.restore(checkpoints, step, {"ema": shapes(model)})["ema"])
    return Weights("deis", f"{folder.name}, step {step}", model, config["sde"], params, config["dataset"])


def describe(found: Weights) -> str:
    """What was read, for people."""
    model = found.model
    count = sum(math.prod(leaf.shape) for leaf in weights.flat(found.params).values())
    sde = ", ".join(f"{key} {value}" for key, value in found.sde.items() if key != "name")
    shape = f"{model.image_size}x{model.image_size}x{model.image_channels}"
    classes = f"{model.num_classes} classes" if model.num_classes else "no classes"
    return "\n".join(
        [
            f"family      {found.family}, from {found.source}",
            f"parameters  {count:,}, {shape} images, {classes}",
            f"SDE         {found.sde['name']}: {sde}",
            f"time        {model.time}, {model.embedding} embedding",
            f"input       {model.input}",
            f"output      {model.output}",
        ]
    )


def _checkpoints(folder: Path) -> Path:
    return folder if folder.name == "checkpoints" else folder / "checkpoints"


def _score_sde_config(source: Path, config: str | None) -> dict[str, Any] | str:
    beside = source.with_suffix(".json")
    if config in PUBLISHED:
        return str(config)
    if config is not None:
        return weights.read_json(Path(config).expanduser())
    if beside.is_file():
        return weights.read_json(beside)
    raise FileNotFoundError(
        f"{source} does not hold its configuration, and there is no {beside.name} beside it; give --config with a "
        f"JSON file or one of {', '.join(PUBLISHED)}"
    )


if __name__ == "__main__":
    sys.exit(main())
