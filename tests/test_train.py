"""Training as a user runs it: nothing is lost, and the same command always gives the same network."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, TINY, environment, run
from PIL import Image

LONG = [*TINY, "train.steps=60", "train.checkpoint_every=5", "train.eval_every=20", "train.log_every=5"]


def arrays(run_dir: Path) -> dict[str, str]:
    """Checksum of every stored array of the newest checkpoint, by name."""
    import jax

    from models import checkpoint
    from models.config import UNetConfig
    from models.training import init_state, make_optimizer
    from models.unet import init

    folder = run_dir / "checkpoints"
    step = checkpoint.latest_step(folder)
    assert step is not None
    config = checkpoint.read_config(folder, step)
    optimizer = make_optimizer(total_steps=config["train"]["steps"], **config["optimizer"])
    key = jax.random.key(0)
    like = jax.eval_shape(lambda: init_state(init(UNetConfig(**config["model"]), key), optimizer, key))
    state = checkpoint.restore(folder, step, like)
    return {jax.tree_util.keystr(p): np.asarray(leaf).tobytes().hex() for p, leaf in jax.tree.leaves_with_path(state)}


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, cwd=cwd, env=environment(), stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str], timeout: float = 240) -> None:
    deadline = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("uninterrupted")
    result = run("train.py", *LONG, "run_dir=run", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd / "run"


def test_killed_and_resumed_is_bit_for_bit_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    process = start(*LONG, cwd=tmp_path)
    (run_dir,) = wait_for_folder(tmp_path / "outputs" / "digits", process)
    wait_for(run_dir / "checkpoints" / "00000010", process)
    process.kill()
    process.wait()
    assert json.loads((run_dir / "status.json").read_text())["status"] == "running"

    resumed = run("train.py", *LONG, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at step" in resumed.stderr
    assert list((tmp_path / "outputs" / "digits").iterdir()) == [run_dir], "the same command goes on in the same folder"
    assert arrays(run_dir) == arrays(uninterrupted)
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    written = [(record["step"], "eval_loss" in record) for record in records]
    assert len(set(written)) == len(written), "no line is written twice"


def wait_for_folder(parent: Path, process: subprocess.Popen[str]) -> list[Path]:
    wait_for(parent, process)
    return list(parent.iterdir())


def test_sigterm_saves_and_exits_143(tmp_path: Path) -> None:
    process = start(*LONG, "train.checkpoint_every=1000", "train.steps=100000", "run_dir=run", cwd=tmp_path)
    wait_for(tmp_path / "run" / "metrics.jsonl", process)
    while not (tmp_path / "run" / "metrics.jsonl").read_text():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    assert "saved" in stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "stopped"
    assert list((tmp_path / "run" / "checkpoints").glob("0*"))


def test_two_processes_do_not_share_a_folder(uninterrupted: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        result = run("train.py", *TINY, "run_dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert "is in use by process" in result.stderr


def test_another_configuration_is_refused_in_a_used_folder(uninterrupted: Path) -> None:
    result = run("train.py", *LONG, "sde.beta_1=10", f"run_dir={uninterrupted}", cwd=uninterrupted.parent)
    assert result.returncode == 2
    assert "sde.beta_1: 20.0 -> 10.0" in result.stderr


def test_a_loss_that_is_not_finite_ends_with_3(tmp_path: Path) -> None:
    arguments = [*TINY, "optimizer.learning_rate=1e30", "train.log_every=1", "train.steps=20", "run_dir=run"]
    result = run("train.py", *arguments, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "optimizer.learning_rate" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists(), "a broken state is not saved"
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 3)


def test_own_jpegs_with_ve_and_classes(tmp_path: Path) -> None:
    """Folder of JPEGs in class folders -> train a conditional network -> sample one class with a Runge-Kutta method."""
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.jpg")
    trained = run(
        "train.py", *TINY, "dataset=images", "dataset.path=photos", "model.num_classes=2", "sde=ve", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    arguments = ["logger=none", "sampler=rho2heun", "sampler.nfe=3", "num_samples=5", "batch_size=4", "label=1"]
    drawn = run("sample.py", *arguments, "extractor=none", "gif=true", "run_dir=drawn", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    samples = np.load(tmp_path / "drawn" / "samples.npz")
    assert samples["images"].shape == (5, 12, 12, 3)
    assert samples["images"].dtype == np.uint8
    result = json.loads((tmp_path / "drawn" / "result.json").read_text())
    assert (result["nfe"], result["nfe_asked"]) == (4, 3)
    assert {"grid.png", "denoising.gif"} <= set(os.listdir(tmp_path / "drawn"))
