"""The log of a run: metrics.jsonl always, and wandb if it is asked for."""

import hashlib
import json
import os
import shlex
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

NAMES = ("none", "wandb")
MODES = ("auto", "online", "offline")


@dataclass
class LoggerConfig:
    """The `logger` config group; conf/logger/wandb.yaml explains the options."""

    name: str = MISSING
    project: str = MISSING
    entity: str | None = MISSING
    group: str | None = MISSING
    mode: str = MISSING
    init_timeout: int = MISSING

    def __post_init__(self) -> None:
        """Raises ValueError for a name or a mode that is not allowed."""
        for key, allowed in (("name", NAMES), ("mode", MODES)):
            if getattr(self, key) not in (*allowed, MISSING):
                raise ValueError(f"logger.{key} must be {' or '.join(allowed)}, got {getattr(self, key)!r}")


class Log:
    """A run's numbers and pictures, written within a `with`; without a folder they go to wandb's run alone."""

    def __init__(self, folder: Path | None, run: Any = None):
        self._file = (Path(os.devnull) if folder is None else folder / "metrics.jsonl").open("a")
        self._run = run

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, flushed at once."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(values, step=step)

    def image(self, step: int, name: str, path: Path) -> None:
        """A picture that is already in the run's folder."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(str(path))}, step=step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)


def open_log(cfg: LoggerConfig, folder: Path | None, job_type: str, config: dict[str, Any]) -> Log:
    """The log of the run in `folder`; without a folder, of a command that only prints, there is wandb's alone.

    With wandb, the same folder continues the same wandb run.
    """
    return Log(folder, None if cfg.name == "none" else _wandb_run(cfg, folder, job_type, config))


def truncate_metrics(folder: Path, step: int) -> None:
    """Forget the lines of metrics.jsonl after `step`: a resumed run writes them again."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
        path.write_text("".join(kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a last line cut off by a kill is left out."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def last_values(path: Path) -> dict[str, Any]:
    """The last value of everything in a metrics.jsonl, that of the FID, which is logged by its name, also as "fid"."""
    found: dict[str, Any] = {}
    for record in read_metrics(path):
        name = next((key for key in record if key.startswith(("FID-", "FD-"))), None)
        found |= record if name is None else record | {"fid": record[name], "fid_name": name}
    return found


def _wandb_run(cfg: LoggerConfig, folder: Path | None, job_type: str, config: dict[str, Any]) -> Any:
    """The run of wandb, of which the same folder is always the same one; None if wandb is switched off."""
    if os.environ.get("WANDB_MODE") == "disabled":  # not even imported, which takes seconds
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    configured = (
        wandb.setup().settings.mode
    )  # by the environment, or by the command `wandb disabled` or `wandb offline`
    if configured == "disabled":
        return None
    settings = {"init_timeout": cfg.init_timeout, "silent": True, "save_code": False, "console": "off"}
    about = {"project": cfg.project, "entity": cfg.entity, "group": cfg.group, "job_type": job_type, "config": config}
    if folder is not None:
        run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        about |= {"dir": str(folder), "id": run_id, "resume": "allow"}
    start: Any = partial(wandb.init, settings=settings, **about)  # type: ignore[arg-type]
    automatic = cfg.mode == "auto" and configured == "online" and wandb.login(prompt=False, verify=False)
    if cfg.mode == "online" or automatic:
        try:
            return start(mode="online")
        except Exception as error:
            reason = str(error).splitlines()[0]
            print(f"warning: wandb cannot be reached ({reason}); this run is logged offline", file=sys.stderr)
            wandb.teardown()  # it holds on to the run's id
    run = start(mode="offline")
    parts = shlex.quote(str(Path(run.dir).parents[1]))
    print(f"wandb: offline; upload later with: wandb sync {parts}/offline-run-*-{run.id}", file=sys.stderr)
    return run
