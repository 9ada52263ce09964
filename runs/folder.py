"""The folder of a run: where it is, whose it is, how it stands."""

import contextlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from formats.files import read_json, write_atomically
from runs.errors import ConfigError, RunError, checking

SWEEPS = "sweeps"  # below output_root: the sweeps of train.py, each with a folder for every job

# keys that say where and how to continue a run, not what it computes
_NOT_IDENTITY = ("run_dir", "resume", "output_root", "logger", "optimized_metric")


def of_job(run_dir: str | None, output_root: str, name: str, config: dict[str, Any] | None = None) -> Path:
    """run_dir if it is given, the job's own folder within a sweep, else a new one. Raises ConfigError as `fresh`.

    config: of a command that can go on, which takes its newest unfinished run of this configuration before a new one.
    """
    if run_dir is not None:
        return Path(run_dir).expanduser()
    return of_sweep() or (config and unfinished(output_root, name, config)) or fresh(output_root, name)


def of_sweep() -> Path | None:
    """The folder of this job within its sweep; None if there is no sweep."""
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    return Path(HydraConfig.get().runtime.output_dir) if sweep else None


def overrides() -> list[str]:
    """The options on the command line, as they were typed."""
    typed = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(typed, list)
    return typed


def fresh(output_root: str, name: str) -> Path:
    """Make a folder <output_root>/<name>/<time> that is the caller's alone. Raises ConfigError as `make_new`."""
    return make_new(Path(output_root).expanduser() / name / time.strftime("%Y-%m-%d_%H-%M-%S"))


def make_new(wanted: Path) -> Path:
    """Make a folder of this name or, if it is there, of this name and a number, and return it.

    However many processes ask at once, each has its own. Raises ConfigError if none can be made.
    """
    with _writing_to(wanted.parent):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count():
            folder = wanted.with_name(f"{wanted.name}_{number}") if number else wanted
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
    return folder


def unfinished(output_root: str, name: str, config: dict[str, Any]) -> Path | None:
    """The newest run of the same configuration that is not done: of <output_root>/<name>, or a job of a sweep."""
    root = Path(output_root).expanduser()

    def identity(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in _NOT_IDENTITY}

    folders = [*(root / name).glob("*/"), *(root / SWEEPS).glob("*/*/")]
    for folder in sorted(folders, key=lambda folder: folder.relative_to(root).parts[1:], reverse=True):
        saved = read_config(folder)
        if saved and identity(saved) == identity(config) and read_status(folder).get("status") != "done":
            return folder
    return None


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run in `folder` was started with; None without. Raises ValueError for a damaged one."""
    path = folder / "config.yaml"
    try:
        return yaml.safe_load(path.read_text()) if path.is_file() else None
    except yaml.YAMLError:
        raise ValueError(f"{path} is not YAML; choose another run_dir, or delete the run") from None


def read_status(folder: Path) -> dict[str, Any]:
    """status.json of a run; empty if there is none. Raises ValueError for a damaged one."""
    path = folder / "status.json"
    try:
        return read_json(path) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{error}; delete it, and the run counts as one that is not done") from None


def refuse_changes(folder: Path, config: dict[str, Any], keys: Collection[str], otherwise: str = "") -> None:
    """Raise ConfigError if the run in `folder` was started with another value of one of `keys`, which it goes on from.

    keys: options as KEY or GROUP.KEY, or all of a GROUP. otherwise: what else to do, as the end of the sentence.
    """

    def flat(config: dict[str, Any]) -> dict[str, Any]:
        groups = [(key, value if isinstance(value, dict) else {"": value}) for key, value in config.items()]
        return {f"{group}.{key}".strip("."): value for group, options in groups for key, value in options.items()}

    before, now = flat(read_config(folder) or config), flat(config)
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in dict.fromkeys([*before, *now])
        if (key in keys or key.partition(".")[0] in keys) and before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(
            f"{folder} holds a run of another configuration: {'; '.join(changed)}; choose another run_dir{otherwise}"
        )


def finished(folder: Path, config: dict[str, Any], source: Path | None = None) -> dict[str, Any] | None:
    """The status of a sweep's job that an earlier start of the sweep has done, which is said; None if it is to be done.

    source: a folder that it was computed from; if that has changed since, the job is to be done again.
    Raises ConfigError for a damaged file.
    """
    with checking():
        status, file = read_status(folder), folder / "status.json"
        if of_sweep() is None or status.get("status") != "done" or read_config(folder) != config:
            return None
        if source is not None and source.stat().st_mtime > file.stat().st_mtime:
            return None
    print(f"done before: {folder}", file=sys.stderr)
    return status


@contextmanager
def occupy(folder: Path, config: dict[str, Any], **facts: Any) -> Iterator[dict[str, Any]]:
    """Own `folder` for the block: lock it, write config.yaml, and keep status.json true whatever happens.

    facts: more fields of status.json, beside the command and its overrides; a job that is done adds its results to the
    dictionary that is yielded. "seconds" are those of all starts that ended by themselves since one was done. Raises
    ConfigError if the folder cannot be written, if another process has it, or if it holds anything but a run of this
    command.
    """
    if HydraConfig.initialized():
        facts = {"command": HydraConfig.get().job.config_name, "overrides": overrides(), **facts}
    with checking():
        refuse_foreign(folder, facts.get("command"))
    try:
        with _writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        owner = read_status(folder)
        raise ConfigError(
            f"{folder} is in use by process {owner.get('pid')} on {owner.get('host')} since {owner.get('started')}; "
            "wait for it, or start another run with run_dir=..."
        ) from None
    clock, before, results = time.monotonic(), read_status(folder), dict[str, Any]()
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}

    # a run that goes on adds to its time
    earlier = before.get("seconds", 0.0) if before.get("status") != "done" else 0.0

    def write_status(**status: Any) -> None:
        status |= {"seconds": round(earlier + time.monotonic() - clock, 3)}
        write_atomically(folder / "status.json", json.dumps(status | about, indent=2) + "\n")

    with lock:
        write_status(status="running")
        write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        try:
            yield results
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            code = error.exit_code if isinstance(error, RunError) else 130 if interrupted else 1
            message = str(error) or type(error).__name__
            write_status(status="stopped" if code > 128 else "failed", error=message, exit_code=code)
            raise
        write_status(status="done", exit_code=0, **results)


def refuse_foreign(folder: Path, command: str | None) -> None:
    """Raise ConfigError if `folder` holds files and no run, as a published network's does, or one of another command.

    command: the name of its configuration, as train.
    """
    if not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir()):
        return
    if not (folder / "status.json").is_file():
        raise ConfigError(f"{folder} holds files and no run, which would be overwritten; choose another run_dir=...")
    owner = read_status(folder).get("command", command)
    if owner != command:
        raise ConfigError(f"{folder} holds a run of the command {owner}; choose another run_dir=...")


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Within this block a folder that cannot be made or written to is the configuration's fault."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another run_dir=... or output_root=..."
        ) from None
