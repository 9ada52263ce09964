"""Training as a user runs it: nothing is lost, and the same command always gives the same network."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, run, run_here
from jobs import job
from PIL import Image
from runs_of_training import OFTEN, arrays, logged, start, train, wait_until_step
from wandb_files import records

from eval import figures
from models.checkpoints import checkpoint
from runs.errors import ConfigError
from runs.folder import occupy
from train import choose_folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("uninterrupted")
    result = train("run_dir=run", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd / "run"


def test_killed_stopped_and_damaged_a_run_ends_bit_for_bit_the_same(uninterrupted: Path, tmp_path: Path) -> None:
    """At random moments, many of them within a save; the same command goes on in the same folder.

    A stop by SIGTERM saves the step that it stops at. After the last kill one bit of the newest checkpoint is flipped;
    tests/models/checkpoints has the other kinds of damage.
    """
    rng, folders, stops = random.Random(0), tmp_path / "outputs" / "digits", []
    for least, sent in ((5, signal.SIGKILL), (25, signal.SIGTERM), (45, signal.SIGKILL)):
        process = start(cwd=tmp_path)
        while not list(folders.glob("*")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        (run_dir,) = folders.iterdir()
        wait_until_step(run_dir, least, process)
        time.sleep(0.3 * rng.random())
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=120)
        status = json.loads((run_dir / "status.json").read_text())["status"]
        stops.append((process.returncode, status))
        if sent == signal.SIGTERM:
            assert f"stopped at step {checkpoint.latest_step(run_dir / 'checkpoints')} and saved" in stderr
    assert stops == [(-signal.SIGKILL, "running"), (143, "stopped"), (-signal.SIGKILL, "running")]

    *_, older, newest = checkpoint.steps(run_dir / "checkpoints")
    files = [path for path in (run_dir / "checkpoints" / f"{newest:08}").rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    resumed = train(cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"checkpoint {newest} is damaged" in resumed.stderr
    assert f"resumed at step {older}" in resumed.stderr
    assert list(folders.iterdir()) == [run_dir]
    assert arrays(run_dir) == arrays(uninterrupted)
    assert logged(run_dir) == logged(uninterrupted)


def test_a_run_sharded_over_four_devices_goes_on_on_one(tmp_path: Path) -> None:
    """As if it had been on one from the start, up to rounding."""
    options = [*TINY, "optimizer.cosine_decay=false", "train.sample_every=0"]
    sharded = [*options, "train.fsdp=true", "run_dir=moved"]
    on_four = run("train.py", *sharded, cwd=tmp_path, env={"JAX_NUM_CPU_DEVICES": "4"})
    assert on_four.returncode == 0, on_four.stderr
    assert "4 x cpu" in on_four.stderr
    for run_dir in ("moved", "stayed"):
        on_one = run_here("train.py", *options, "train.steps=6", f"run_dir={run_dir}", cwd=tmp_path)
        assert on_one.returncode == 0, on_one.stderr
        assert "1 x cpu" in on_one.stderr
        assert ("resumed at step 4" in on_one.stderr) == (run_dir == "moved")

    def at_the_end(run_dir: str) -> dict[str, float]:
        records = map(json.loads, (tmp_path / run_dir / "metrics.jsonl").read_text().splitlines())
        found = {name: value for record in records if record["step"] == 6 for name, value in record.items()}
        return {name: found[name] for name in ("grad_norm", "param_norm", "eval_loss")}

    assert at_the_end("moved") == pytest.approx(at_the_end("stayed"), rel=1e-5)


def test_a_full_disk_is_one_sentence_and_loses_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    """On a file system of 1 MB, which the second checkpoint fills; given room, the same command goes on."""
    folder = tmp_path / "run"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=False).returncode
    ):
        pytest.skip("mounting a small file system is not allowed here")
    try:
        (folder / ".ballast").write_bytes(bytes(300_000))
        failed = train("train.keep_checkpoints=9", f"run_dir={folder}", cwd=tmp_path)
        assert failed.returncode == 1
        assert "No space left on device" in failed.stderr
        assert "Traceback" not in failed.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", folder], check=True)
        resumed = train("train.keep_checkpoints=9", f"run_dir={folder}", cwd=tmp_path)
        assert resumed.returncode == 0, resumed.stderr
        assert "resumed at step" in resumed.stderr
        assert arrays(folder) == arrays(uninterrupted)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    from filelock import FileLock

    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"):
        result = run_here("train.py", *TINY, "run_dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert "is in use by process" in result.stderr


def test_another_configuration_is_refused_in_a_used_folder(uninterrupted: Path) -> None:
    result = run_here("train.py", *OFTEN, "sde.beta_1=10", f"run_dir={uninterrupted}", cwd=uninterrupted.parent)
    assert result.returncode == 2
    assert "sde.beta_1: 20.0 -> 10" in result.stderr
    assert "allow_changes=true" in result.stderr


def test_what_a_run_learns_by_stays_as_it_was(tmp_path: Path) -> None:
    """All else may change, and the number of steps if the learning rate does not follow from it."""
    begun = job("train", "name=a", "optimizer.cosine_decay=false", f"run_dir={tmp_path}")
    with occupy(tmp_path, asdict(begun), command="train"):
        pass
    for free in ({"log_every": 7}, {"steps": 2000}, {"fid_samples": 7}):
        goes_on = replace(begun, train=replace(begun.train, **free))
        assert choose_folder(goes_on, asdict(goes_on)) == tmp_path
    for changes, said in (
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"init": "net"}, "init: None -> net"),
        ({"train": replace(begun.train, batch_size=64)}, "train.batch_size: 128 -> 64"),
        ({"train": replace(begun.train, ema_decay=0.9)}, "train.ema_decay: 0.995 -> 0.9"),
        ({"train": replace(begun.train, fid_every=9), "clip": True}, "clip: False -> True"),
    ):
        changed = replace(begun, **changes)
        with pytest.raises(ConfigError, match=f"of another configuration: {said}; choose another run_dir, or go on"):
            choose_folder(changed, asdict(changed))
        assert choose_folder(replace(changed, allow_changes=True), asdict(changed)) == tmp_path
    falling = replace(begun, optimizer=replace(begun.optimizer, cosine_decay=True))
    longer = replace(falling, train=replace(begun.train, steps=2000))
    (tmp_path / "config.yaml").write_text(json.dumps(asdict(falling)))
    with pytest.raises(ConfigError, match=r"train\.steps: 1000 -> 2000"):
        choose_folder(longer, asdict(longer))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_with_3(tmp_path: Path) -> None:
    """Its updates are skipped, so that what is saved is good; enough of them in a row end the run."""
    options = ["optimizer.learning_rate=1e30", "train.log_every=1", "train.steps=40", "train.checkpoint_every=4"]
    result = run_here("train.py", *TINY, *options, "run_dir=run", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "not finite 10 times in a row" in result.stderr
    assert "optimizer.learning_rate" in result.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["status"], status["exit_code"]) == ("failed", 3)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["skipped"] == 1


def test_a_held_out_loss_that_is_not_finite_fails_the_run_and_its_log(uninterrupted: Path, tmp_path: Path) -> None:
    """A run whose steps are all done, and whose last loss is said to be infinite."""
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "eval_loss": Infinity}\n')
    options = [*OFTEN, "logger=wandb", "logger.mode=offline", "optimized_metric=eval_loss", "run_dir=run"]
    result = run_here("train.py", *options, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "error: trained 100 steps, but the held-out loss is inf, so that" in result.stderr
    status = json.loads((folder / "status.json").read_text())
    assert (status["status"], status["exit_code"], status.get("metric")) == ("failed", 3, None)
    assert [record.exit_code for kind, record in records(folder) if kind == "exit"] == [1]


@pytest.mark.slow
def test_own_jpegs_with_ve_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder of JPEGs in class folders -> train a conditional network, with guided grids -> sample one class with
    autoguidance by a checkpoint of its own, and a sheet of both classes, by name."""
    cells, picture = dict[tuple[str, str], np.ndarray](), figures.samples_picture
    monkeypatch.setattr(figures, "samples_picture", lambda path, new: picture(path, cells.update(new) or new))
    rng = np.random.default_rng(0)
    for label in ("cats", "dogs"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.jpg")
    conditional = ["model.num_classes=2", "model.null_class=true", "objective.label_dropout=0.2", "train.accumulate=2"]
    trained = run_here(
        "train.py", *TINY, "dataset=images", "dataset.path=photos", *conditional, "sde=ve", "train.placement=stream",
        "guidance=1.5", "guidance_rescale=0.5", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert re.search(r"the first step compiles .*\n[\s\S]*compiled in \d+\.\d s\n", trained.stderr)
    (early,) = (tmp_path / "outputs").glob("*/*/checkpoints/00000004")
    arguments = [
        "logger=none",
        f"guidance_network={early}",
        "guidance_sheet=[1]",
        "sampler=rho2heun",
        "sampler.nfe=3",
        "num_samples=5",
        "batch_size=4",
        "label=1",
        "guidance=2",
    ]
    drawn = run_here("sample.py", *arguments, "extractor=none", "gif=true", "run_dir=drawn", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert "; pictures in drawn: grid.png (5 of 5 images), guidance.png, denoising.gif\n" in drawn.stdout
    samples = np.load(tmp_path / "drawn" / "samples.npz")
    assert samples["images"].shape == (5, 12, 12, 3)
    assert samples["images"].dtype == np.uint8
    result = json.loads((tmp_path / "drawn" / "result.json").read_text())
    assert (result["nfe"], result["nfe_asked"]) == (4, 3)
    assert {"grid.png", "guidance.png", "denoising.gif"} <= set(os.listdir(tmp_path / "drawn"))
    assert [*cells] == [("guidance 1", "cats"), ("guidance 1", "dogs")]
    width, height = Image.open(tmp_path / "drawn" / "guidance.png").size
    assert width > height  # one weight, two classes side by side
