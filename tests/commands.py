"""Running train.py and sample.py as a user does."""

import contextlib
import io
import logging
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parent.parent

# a network that trains in seconds, on the embedded data set
TINY = [
    "logger=none",
    "model.channels=8",
    "model.multipliers=[1]",
    "model.num_blocks=1",
    "model.attention_resolutions=[]",
    "train.steps=4",
    "train.batch_size=16",
    "train.num_samples=4",
    "train.eval_batches=1",
    "optimizer.warmup_steps=2",
]


# for processes of which it matters that they run what users run: see conftest.py
AS_USERS_DO = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""}


def run(
    script: str, *arguments: str, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`python <script> <arguments>`, or `python -m <module> <arguments>`, in the folder `cwd`."""
    program = [str(ROOT / script)] if script.endswith(".py") else ["-m", script]
    command = [sys.executable, *program, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment() | (env or {}), capture_output=True, text=True, timeout=timeout, check=False
    )


def run_here(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """As `run`, but within this process, where all is imported and much is compiled already; on one device."""
    from models.sampling.draw import load_trained

    load_trained.cache_clear()  # its keys may be relative paths
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(logging.getLogger(), "handlers", []),  # a command closes the handlers that it finds,
        patch.object(logging, "_handlerList", []),  # and with absl's the standard error of the tests
        contextlib.chdir(cwd),
        patch.dict(os.environ, environment(), clear=True),
        patch.object(sys, "argv", [script, *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            if script.endswith(".py"):
                runpy.run_path(str(ROOT / script), run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    """The environment of a user without a wandb account."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "HYDRA"))}
    return kept | {"PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
