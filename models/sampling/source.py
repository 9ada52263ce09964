"""Networks to sample from: those in a run's checkpoints, and published ones (`models.published.network`)."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from formats.files import read_json
from models.checkpoints import checkpoint
from models.checkpoints.hub import local
from models.published.network import read_published_config

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "fashion_mnist"  # comes with the repository


class Source(NamedTuple):
    """Where a network is.

    path: the folder of a run's checkpoints, or of a published network. step: the checkpoint's; None if published.
    config: the options `model`, `sde` and `dataset` (None where nobody knows what it was trained on).
    """

    path: Path
    step: int | None
    config: dict[str, Any]


def find(folder: str | None, step: int | None, output_root: str) -> Source:
    """The network in `folder`; without one that of the newest run below `output_root` that saved any and did not fail,
    else `SHIPPED`.

    folder: of a run, of one of its checkpoints (RUN/checkpoints/00001000), or of a published network; also an address
        of the Hugging Face Hub, hf://owner/name[@revision].
    step: which of a run's checkpoints to take; None for the newest, or the one that `folder` is.
    Raises FileNotFoundError if there is none, ValueError if its configuration cannot be used, OSError of the network.
    """
    root = Path(output_root).expanduser()
    if folder is not None:
        path = local(folder)
    elif runs := [
        run
        for run in (*root.glob("*/*/checkpoints"), *root.glob("sweeps/*/*/checkpoints"))
        if checkpoint.latest_step(run) is not None
        and (not (status := run.with_name("status.json")).is_file() or read_json(status).get("status") != "failed")
    ]:
        path = max(runs, key=lambda run: run.stat().st_mtime)
        log.info("Taking the newest run, %s; another is checkpoint=FOLDER", path.parent)
    else:
        log.info("No usable network below %s/ yet; taking the one in %s", output_root, SHIPPED)
        path = SHIPPED
    if (path / "model.safetensors").is_file():
        if step is not None:
            raise ValueError(f"{path} holds one network, not the steps of a run; leave out step={step}")
        return Source(path, None, read_published_config(path))
    checkpoints, located = checkpoint.locate(path)
    step = step if step is not None else located
    if step is None:
        raise FileNotFoundError(
            f"no checkpoint in {checkpoints}; give the folder of a training run, or of a network that "
            "python -m models.convert wrote"
        )
    return Source(checkpoints, step, checkpoint.read_config(checkpoints, step))


def identity(source: Source, worse: Source | None = None) -> dict[str, Any]:
    """Which parameters a source stands for, and a worse one that guides it: equal plain values are equal networks."""
    path, step, config = source
    digest = config.get("sha256") if step is None else checkpoint.manifest_digest(path, step)
    own = {"checkpoint": str(path.absolute()), "step": step, "sha256": digest}
    return own | {f"guidance_{key}": value for key, value in (identity(worse) if worse else {}).items()}
