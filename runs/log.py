"""The log of a run: metrics.jsonl always, and wandb and TensorBoard if they are asked for."""

import json
import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING
from PIL import Image

from formats.files import write_atomically
from runs.folder import of_sweep, overrides

NAMES = ("none", "wandb", "tensorboard", "both")
LOWER_IS_BETTER = dict.fromkeys(("eval_loss", "FID-*", "sFID-*", "FD-*")) | {"fid": "nfe", "fid/*": "nfe"}  # by x axis
MODES = ("auto", "online", "offline")
WANDB_ID = ".wandb_id"  # in the folder of a run


@dataclass
class LoggerConfig:
    """The `logger` config group; conf/logger/wandb.yaml explains the options."""

    name: str = MISSING
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    mode: str = MISSING
    init_timeout: int = MISSING
    artifacts: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a name or a mode that is not allowed, or a logger that is not installed."""
        for key, allowed in (("name", NAMES), ("mode", MODES)):
            if getattr(self, key) not in (*allowed, MISSING):
                raise ValueError(f"logger.{key} must be {' or '.join(allowed)}, got {getattr(self, key)!r}")
        if self.name in ("tensorboard", "both") and find_spec("tensorboardX") is None:
            raise ValueError(f"logger={self.name} needs tensorboardX: pip install -r requirements-cluster.txt")


class Log:
    """A run's numbers and pictures, written within a `with`; without a folder they go to wandb's run alone.

    run: of wandb. board: a writer of TensorBoard. artifacts: whether wandb keeps files.
    """

    def __init__(self, folder: Path | None, run: Any = None, board: Any = None, artifacts: bool = False):
        self._file = (Path(os.devnull) if folder is None else folder / "metrics.jsonl").open("a")
        self._run, self._board, self._artifacts = run, board, artifacts

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Write one line of metrics.jsonl, flushed at once, and log its numbers."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(values, step=step)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Log a picture of the run's folder, if it was drawn."""
        if not path.is_file():
            return
        if self._run is not None:
            self._run.log({name: _wandb_image(path)}, step=step)
        if self._board is not None:
            self._board.add_image(name, np.atleast_3d(np.asarray(Image.open(path))), step, dataformats="HWC")

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table in wandb with the columns of the first row; a Path or a uint8 [h, w, c] array is a picture."""
        if self._run is None or not rows:
            return
        import wandb

        def cell(value: Any) -> Any:
            return _wandb_image(value) if isinstance(value, Path | np.ndarray) else value

        columns = list(rows[0])
        self._run.log(
            {name: wandb.Table([*columns], [[cell(row.get(column)) for column in columns] for row in rows])}, step=step
        )

    def config(self, values: Mapping[str, Any]) -> None:
        """Add to the options of wandb's run what is known later, as the checkpoint that was found."""
        if self._run is not None:
            self._run.config.update(dict(values), allow_val_change=True)

    def artifact(self, name: str, kind: str, path: Path) -> None:
        """Have wandb keep a file or folder as a version of `name`, if logger.artifacts asks for it."""
        if self._run is not None and self._artifacts:
            self._run.log_artifact(str(path), name=name, type=kind)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)


def refuse_tensorboard(cfg: LoggerConfig) -> None:
    """Raise ValueError for TensorBoard in a command that writes no folder, where its files would be."""
    if cfg.name in ("tensorboard", "both"):
        raise ValueError(f"logger={cfg.name} writes into the folder of a run, and this command has none; choose wandb")


def open_log(
    cfg: LoggerConfig,
    folder: Path | None,
    job_type: str,
    config: dict[str, Any],
    name: str | None = None,
    step: int = 0,
) -> Log:
    """The log of the run in `folder`; without a folder, of a command that only prints, there is wandb's alone.

    name: of the run, for people; by default its options in a sweep, else wandb chooses. With wandb, the same folder
    continues the same wandb run. step: the one that a run goes on from; TensorBoard hides what it had of later ones.
    """
    board = None
    if cfg.name in ("tensorboard", "both") and folder is not None:
        from tensorboardX import SummaryWriter

        board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
    run = _wandb_run(cfg, folder, job_type, config, name) if cfg.name in ("wandb", "both") else None
    return Log(folder, run, board, cfg.artifacts)


def truncate_metrics(folder: Path, step: int) -> None:
    """Forget the lines of metrics.jsonl after `step`: a resumed run writes them again."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
        write_atomically(path, "".join(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut off by a kill is left out."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def last_values(path: Path) -> dict[str, Any]:
    """The last value of everything in a metrics.jsonl, that of the FID, which is logged by its name, also as "fid"."""
    found: dict[str, Any] = {}
    for record in read_metrics(path):
        name = next((key for key in record if key.startswith(("FID-", "sFID-", "FD-"))), None)
        found |= record if name is None else record | {"fid": record[name], "fid_name": name}
    return found


def _wandb_image(picture: Any) -> Any:
    import wandb

    return wandb.Image(str(picture) if isinstance(picture, Path) else picture)


def _wandb_run(cfg: LoggerConfig, folder: Path | None, job_type: str, config: dict[str, Any], name: str | None) -> Any:
    """The run of wandb, whose id the folder keeps, so that one made anew is another; None if wandb is switched off."""
    if os.environ.get("WANDB_MODE") == "disabled":  # not even imported, which takes seconds
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    # by the environment, or by the command `wandb disabled` or `wandb offline`
    configured = wandb.setup().settings.mode
    if configured == "disabled":
        return None
    settings = {"init_timeout": cfg.init_timeout, "silent": True, "save_code": False, "console": "off"}
    sweep = of_sweep() if HydraConfig.initialized() else None
    if sweep is not None:
        typed = [text.rpartition(".")[2] for text in overrides() if not text.startswith("logger")]
        name = name or " ".join(typed)[:120]
    about = {"project": cfg.project, "entity": cfg.entity, "job_type": job_type, "config": config, "name": name}
    about["group"] = cfg.group or (sweep.parent.name if sweep else None)
    if folder is not None:
        if not (kept := folder / WANDB_ID).is_file():
            write_atomically(kept, secrets.token_hex(6))
        about |= {"dir": str(folder.resolve()), "id": kept.read_text(), "resume": "allow"}
    start: Any = partial(wandb.init, settings=settings, **about)  # type: ignore[arg-type]
    automatic = cfg.mode == "auto" and configured == "online" and wandb.login(prompt=False, verify=False)
    if cfg.mode == "online" or automatic:
        try:
            return _with_axes(start(mode="online"))
        except Exception as error:
            reason = str(error).splitlines()[0]
            print(f"warning: wandb cannot be reached ({reason}); this run is logged offline", file=sys.stderr)
            wandb.teardown()  # it holds on to the run's id
    run = start(mode="offline")
    files = f"{shlex.quote(str(Path(run.dir).parents[1]))}/offline-run-*-{run.id}"
    print(f"wandb: offline (logger=none leaves it out); upload later with: wandb sync {files}", file=sys.stderr)
    return _with_axes(run)


def _with_axes(run: Any) -> Any:
    """Tell wandb what to plot FIDs against, and that the smallest value counts in the summary."""
    for name, against in LOWER_IS_BETTER.items():
        run.define_metric(name, step_metric=against, summary="min")
    return run
