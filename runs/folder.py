"""The folder of a run: where it is, whose it is, how it stands."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from formats.files import write_atomically
from runs.errors import ConfigError, RunError

# keys that say where and how to continue a run, not what it computes
_NOT_IDENTITY = ("run_dir", "resume", "output_root", "logger")


def of_job(run_dir: str | None, output_root: str, name: str) -> Path:
    """run_dir if it is given, the job's own folder within a sweep, else a fresh one."""
    if run_dir is not None:
        return Path(run_dir).expanduser()
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().runtime.output_dir)
    return fresh(output_root, name)


def fresh(output_root: str, name: str) -> Path:
    """A folder <output_root>/<name>/<time> that no run has used; not made yet."""
    parent = Path(output_root).expanduser() / name
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = parent / stamp, 1
    while folder.exists():
        folder, number = parent / f"{stamp}_{number}", number + 1
    return folder


def unfinished(output_root: str, name: str, config: dict[str, Any]) -> Path | None:
    """The newest folder below <output_root>/<name> of the same configuration that is not done."""

    def identity(config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in _NOT_IDENTITY}

    for folder in sorted((Path(output_root).expanduser() / name).glob("*/"), reverse=True):
        saved = read_config(folder)
        if saved and identity(saved) == identity(config) and read_status(folder).get("status") != "done":
            return folder
    return None


def read_config(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run in `folder` was started with; None if there is none."""
    path = folder / "config.yaml"
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def read_status(folder: Path) -> dict[str, Any]:
    """status.json of a run; empty if there is none."""
    path = folder / "status.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def differences(saved: dict[str, Any], config: dict[str, Any], groups: tuple[str, ...]) -> list[str]:
    """The keys within `groups` whose values differ, as "key: saved -> now"."""
    pairs = [(group, saved.get(group, {}), config[group]) for group in groups]
    return [
        f"{group}.{key}: {before.get(key)} -> {now.get(key)}"
        for group, before, now in pairs
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


@contextmanager
def occupy(folder: Path, config: dict[str, Any], **facts: Any) -> Iterator[None]:
    """Own `folder` for the block: lock it, write config.yaml, and keep status.json true whatever happens.

    facts: more fields of status.json. Raises ConfigError if the folder cannot be written or another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout:
        owner = read_status(folder)
        raise ConfigError(
            f"{folder} is in use by process {owner.get('pid')} on {owner.get('host')} since {owner.get('started')}; "
            "wait for it, or start another run with run_dir=..."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot write to {folder} ({error.strerror}); choose another run_dir=... or output_root=..."
        ) from None
    about = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}

    def write_status(**status: Any) -> None:
        write_atomically(folder / "status.json", json.dumps(status | about, indent=2) + "\n")

    with lock:
        write_atomically(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        write_status(status="running")
        try:
            yield
        except BaseException as error:
            code = error.exit_code if isinstance(error, RunError) else 1
            message = str(error) or type(error).__name__
            write_status(status="stopped" if code > 128 else "failed", error=message, exit_code=code)
            raise
        write_status(status="done", exit_code=0)
