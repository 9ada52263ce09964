"""Trainings as real processes, and what they leave behind."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from commands import AS_USERS_DO, ROOT, TINY, environment, run

from runs.log import read_metrics

# checkpoints so often that a run is nearly always saving, most of them between two lines of the log
OFTEN = [*TINY, "train.steps=100", "train.checkpoint_every=5", "train.eval_every=50", "train.log_every=7"]
OFTEN += ["train.sample_every=0"]  # what grids show is in test_sample.py


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Train, saving often, in a process that goes on."""
    command = [sys.executable, str(ROOT / "train.py"), *OFTEN, *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment() | AS_USERS_DO, stderr=subprocess.PIPE, text=True)


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Train, saving often, until the process ends."""
    return run("train.py", *OFTEN, *arguments, cwd=cwd, env=AS_USERS_DO)


def wait_until_step(folder: Path, step: int, process: subprocess.Popen[str], timeout: float = 240) -> None:
    """Until a checkpoint of `step` or later is there."""
    from models.checkpoints import checkpoint

    deadline = time.monotonic() + timeout
    while (checkpoint.latest_step(folder / "checkpoints") or 0) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no checkpoint of step {step} in {folder}"
        time.sleep(0.01)


def logged(run_dir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what depends on the machine's speed."""
    return [
        {name: value for name, value in record.items() if name != "images_per_s"}
        for record in read_metrics(run_dir / "metrics.jsonl")
    ]


def arrays(run_dir: Path) -> dict[str, str]:
    """Checksum of every stored array of the newest checkpoint, by name."""
    import jax

    from models.checkpoints import checkpoint
    from models.config import UNetConfig
    from models.training.config import OptimizerConfig
    from models.training.step import init_state, make_optimizer
    from models.unet import shapes

    folder = run_dir / "checkpoints"
    step = checkpoint.latest_step(folder)
    assert step is not None
    config = checkpoint.read_config(folder, step)
    optimizer = make_optimizer(OptimizerConfig(**config["optimizer"]), config["train"]["steps"])
    key = jax.random.key(0)
    like = jax.eval_shape(lambda params: init_state(params, optimizer, key), shapes(UNetConfig(**config["model"])))
    state = checkpoint.restore(folder, step, like)
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in leaves}
