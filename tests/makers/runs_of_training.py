"""Trainings as real processes, and what they leave behind."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from commands import AS_USERS_DO, ROOT, TINY, environment, run

# checkpoints so often that a run is nearly always saving
OFTEN = [*TINY, "train.steps=100", "train.checkpoint_every=5", "train.eval_every=50", "train.log_every=5"]


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


def arrays(run_dir: Path) -> dict[str, str]:
    """Checksum of every stored array of the newest checkpoint, by name."""
    import jax

    from models.checkpoints import checkpoint
    from models.config import UNetConfig
    from models.training.config import OptimizerConfig
    from models.training.step import init_state, make_optimizer
    from models.unet import init

    folder = run_dir / "checkpoints"
    step = checkpoint.latest_step(folder)
    assert step is not None
    config = checkpoint.read_config(folder, step)
    optimizer = make_optimizer(OptimizerConfig(**config["optimizer"]), config["train"]["steps"])
    key = jax.random.key(0)
    like = jax.eval_shape(lambda: init_state(init(UNetConfig(**config["model"]), key), optimizer, key))
    state = checkpoint.restore(folder, step, like)
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): hashlib.sha256(leaf.tobytes()).hexdigest() for path, leaf in leaves}
