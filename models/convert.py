"""Convert a network into this project's published form, config.json and model.safetensors.

    python -m models.convert SOURCE DEST

SOURCE is one of
  - a folder of diffusers: config.json of a UNet2DModel with diffusion_pytorch_model.safetensors, a pipeline's, or one
    of its training script, with unet_ema/
  - a checkpoint file of score_sde's JAX or PyTorch code; its configuration is a JSON file beside it, or --config
  - a pickle of EDM; no code in it is run
  - the folder of a training run; its newest checkpoint's EMA parameters
or the address of such a folder or file on the Hugging Face Hub, hf://owner/name[@revision][/file].
"""

if not __package__:  # python models/convert.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m models.convert")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from formats.files import read_json
from formats.torch_pickle import is_saved_by_torch
from models.checkpoints import checkpoint, hub
from models.published.diffusers import read_diffusers
from models.published.edm import read_edm
from models.published.network import PublishedNetwork, described, read_checkpoint, write_published
from models.published.score_sde import PUBLISHED, read_score_sde


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments and return its exit code, 2 for an error, which is said in one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m models.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("dest", metavar="DEST", help="folder to make")
    parser.add_argument(
        "--config", help=f"of a score_sde checkpoint: a JSON file, or one of the published {', '.join(PUBLISHED)}"
    )
    parser.add_argument("--time", choices=("t", "t_plus_1"), help="diffusers: t, or t_plus_1 for DDIM's CelebA")
    args = parser.parse_args(argv)
    try:
        if "://" in args.dest:
            raise ValueError(f"DEST must be a folder, got {args.dest}; python -m models.publish brings it to the Hub")
        network = read_network(hub.local(args.source), args.config, args.time)
        write_published(Path(args.dest).expanduser(), network)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(described(network))
    print(f"written to {args.dest}; draw from it: python sample.py checkpoint={args.dest} extractor=none")
    return 0


def read_network(source: Path, config: str | None, time: str | None) -> PublishedNetwork:
    """Read the network at `source`, in whichever format. Raises ValueError or FileNotFoundError with one sentence."""
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    if source.is_dir():
        checkpoints, step = checkpoint.locate(source)
        if step is not None:
            _refuse("the run of a training", config=config, time=time)
            return read_checkpoint(checkpoints, step)
        if (source / "model.safetensors").is_file():
            raise ValueError(f"{source} is in the published form already")
        _refuse("a folder of diffusers", config=config)
        return read_diffusers(source, time or "t")
    if source.suffix == ".safetensors":
        raise ValueError(f"{source} has weights alone; give the folder that it lies in with its config.json")
    with source.open("rb") as file:
        start = file.read(1)
    if start == b"\x80" and not is_saved_by_torch(source):  # a pickle
        _refuse("a pickle of EDM", config=config, time=time)
        return read_edm(source)
    _refuse("a checkpoint of score_sde", time=time)
    if config in PUBLISHED:
        return read_score_sde(source, str(config))
    path = source.with_suffix(".json") if config is None else Path(config).expanduser()
    if config is None and not path.is_file():
        raise FileNotFoundError(
            f"{source} is taken for a checkpoint of score_sde, which does not hold its configuration, and there is no "
            f"{path.name} beside it; give --config with a JSON file or one of {', '.join(PUBLISHED)}"
        )
    return read_score_sde(source, read_json(path))


def _refuse(source: str, **options: str | None) -> None:
    """Raise ValueError for an option that is given, and that the source has no use for."""
    if given := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"--{given[0]} is not for {source}; leave it out")


if __name__ == "__main__":
    sys.exit(main())
