"""Sweeps with -m: folders that no other run has, combinations that cannot be, jobs in processes of their own."""

import importlib.util
import json
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, run, run_here
from filelock import FileLock

import data
import sample
import train
from models.sampling.source import SHIPPED
from runs import cli, folder
from runs.errors import ConfigError, NonFiniteError, RunError, Stopped

SWEEP = ["-m", *TINY, "optimizer.learning_rate=1e-3,2e-3"]


def test_folders_that_are_made_at_once_are_all_different(tmp_path: Path) -> None:
    """Eight ask at the same time, all for the same name; to make a folder is one step for the system."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: folder.fresh(str(tmp_path), "a"), range(80)))
    assert len(set(made)) == 80
    assert all(path.is_dir() for path in made)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for root, name in ((tmp_path / "file", "a"), (tmp_path, "file")):
        with pytest.raises(ConfigError, match=r"cannot write to .*; choose another"):
            folder.fresh(str(root), name)


@pytest.mark.parametrize("error", [Stopped(signal.SIGTERM, "stopped"), NonFiniteError("nan"), ConfigError("no")])
def test_errors_reach_another_process(error: RunError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)


def fit(job: Any, config: Any, run_dir: Path, *_: Any) -> None:
    """Stands for a training: it leaves the files that the sweep looks at."""
    (run_dir / "checkpoints").mkdir()
    (run_dir / "metrics.jsonl").write_text('{"step": 2, "eval_loss": 3.0}\n{"step": 4, "eval_loss": 0.25}\n')


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands may run in this process, in `tmp_path`."""
    monkeypatch.setattr(logging, "shutdown", lambda _: None)  # by which Hydra closes pytest's handlers
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def train_with(in_tmp_path: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python train.py` with a sweep's options and another `fit`, in `tmp_path`; returns the exit code."""

    def command(fit: Callable[..., None], *options: str, sweep: list[str] = SWEEP[1:]) -> int:
        monkeypatch.setattr(train, "fit", fit)
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", *sweep, *options])
        with pytest.raises(SystemExit) as ended:
            cli.run(train.main, "train", train.TrainJob)
        return int(str(ended.value.code))

    images = np.zeros((16, 8, 8, 1), np.uint8)
    monkeypatch.setattr(data, "load", lambda *_: data.Split(images, np.zeros(16, np.int32), 10))
    return command


@pytest.mark.slow
def test_the_runs_of_a_training_sweep_lie_below_its_folder(
    tmp_path: Path, train_with: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same command finds them where they are not done."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train_with(fit, 'output_root="~/outputs"') == 0
    (sweep,) = (tmp_path / "outputs" / "sweeps").glob("*/")
    for job, rate in enumerate(("0.001", "0.002")):
        status = folder.read_status(sweep / str(job))
        assert (status["status"], status["metric"]) == ("done", 0.25)
        assert (sweep / str(job) / "checkpoints").is_dir()
        assert [text for text in status["overrides"] if "rate" in text] == [f"optimizer.learning_rate={rate}"]
    config = folder.read_config(sweep / "0")
    assert config is not None
    assert folder.unfinished(str(tmp_path / "outputs"), "digits", config) is None
    (sweep / "0" / "status.json").write_text(json.dumps({"status": "stopped"}))
    assert folder.unfinished(str(tmp_path / "outputs"), "digits", config) == sweep / "0"


@pytest.mark.slow
def test_the_same_command_repeats_only_what_failed(tmp_path: Path, train_with: Callable[..., int]) -> None:
    """In the same folder; when all is done, or a new start is asked for, in another."""
    trained: list[str] = []

    def fit_or_fail(job: Any, config: Any, run_dir: Path, *rest: Any) -> None:
        trained.append(f"{run_dir.parent.name}/{run_dir.name}")
        if job.optimizer.learning_rate == 2e-3 and len(trained) == 2:
            raise NonFiniteError("the loss is NaN")
        fit(job, config, run_dir, *rest)

    assert [train_with(fit_or_fail), train_with(fit_or_fail)] == [3, 0]
    (sweep,) = (tmp_path / "outputs" / "sweeps").glob("*/")
    assert trained == [f"{sweep.name}/{job}" for job in (0, 1, 1)]
    for options in ([], ["resume=false"]):
        assert train_with(fit_or_fail, *options) == 0
    assert len(set(trained)) == len(trained) - 1 == 6


@pytest.mark.parametrize("command", ["analysis", "choose", "learn", "likelihood"])
def test_no_command_repeats_a_job_that_is_done(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "finished", lambda folder, config, source: {"status": "done", "from": source})
    split = data.Split(np.zeros((128, 28, 28, 1), np.uint8), np.zeros(128, np.int32), 10)
    monkeypatch.setattr(data, "load", lambda *_: split)
    done = run_here(f"eval.{command}", f"checkpoint={SHIPPED}", "run_dir=done", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "jobs", "next_one"),
    [
        (["checkpoint=relative"], 1, ["Next,", "with", "checkpoint=checkpoints/fashion_mnist"]),
        (["-m", "sampler.nfe=5,6"], 2, ["Next:", "python", "-m", "eval.table"]),
    ],
)
def test_what_is_next_is_said_once(
    options: list[str],
    jobs: int,
    next_one: list[str],
    in_tmp_path: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After a sweep its table, and after a single run with the network that comes along other runs."""
    Path("relative").symlink_to(SHIPPED)
    result = {"sampler": "tAB3", "nfe": 5, "nfe_asked": 5, "images_per_s": 9.5, "grid_samples": 60}
    monkeypatch.setattr(sample, "draw_images", lambda *_: {})
    monkeypatch.setattr(sample, "write_images", lambda *_: dict(result))
    monkeypatch.setattr(sys, "argv", ["sample.py", "extractor=none", "logger=none", "gif=true", *options])
    with pytest.raises(SystemExit, match="0"):
        cli.run(sample.main, "sample", sample.SampleJob)
    said = capsys.readouterr()
    assert said.out.count("tAB3, 5 NFE: 9.5 images/s; pictures in ") == jobs
    assert said.out.count(": grid.png (60 of 256 images), denoising.gif\n") == jobs
    assert [line.split()[: len(next_one)] for line in said.err.splitlines() if "Next" in line] == [next_one]


@pytest.mark.slow
def test_a_signal_stops_the_whole_sweep(tmp_path: Path, train_with: Callable[..., int]) -> None:
    """And the same command begins with the job that was stopped."""
    started: list[str] = []

    def stop_first(job: Any, config: Any, run_dir: Path, *rest: Any) -> None:
        started.append(run_dir.name)
        if len(started) == 1:
            raise Stopped(signal.SIGTERM, "stopped at step 2 and saved")
        fit(job, config, run_dir, *rest)

    assert train_with(stop_first) == 143
    assert started == ["0"]
    assert train_with(stop_first) == 0
    assert started == ["0", "0", "1"]
    assert len(list((tmp_path / "outputs" / "sweeps").glob("*/"))) == 1


@pytest.mark.slow
def test_a_damaged_file_of_a_sweep_is_named_and_hinders_no_other(
    tmp_path: Path, train_with: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outputs" / "sweeps" / "damaged").mkdir(parents=True)
    (tmp_path / "outputs" / "sweeps" / "damaged" / "sweep.json").write_text('{"command": "tr')
    assert train_with(fit) == 0
    said = "warning: outputs/sweeps/damaged/sweep.json is not JSON; no sweep goes on in its folder\n"
    assert capsys.readouterr().err.count(said) == 1
    (first,) = (tmp_path / "outputs" / "sweeps").glob("*/0/checkpoints")
    first.with_name("status.json").write_text('{"status": "do')
    assert train_with(fit) == 0
    assert "0/status.json is not JSON; delete it, and the run counts as one that is not done" in capsys.readouterr().err
    assert len(list((tmp_path / "outputs" / "sweeps").glob("*/0/checkpoints"))) == 2


@pytest.mark.slow
def test_a_sweep_that_another_process_is_at_is_left_alone(tmp_path: Path, train_with: Callable[..., int]) -> None:
    assert train_with(fit) == 0
    (sweep,) = (tmp_path / "outputs" / "sweeps").glob("*/")
    (sweep / "1" / "status.json").write_text(json.dumps({"status": "running"}))
    with FileLock(sweep / ".lock"):
        assert train_with(fit) == 0
    assert len(list(sweep.parent.glob("*/"))) == 2


def needs(plugin: str) -> Any:
    """Skip where an optional plugin of Hydra is not installed."""
    return pytest.mark.skipif(importlib.util.find_spec(f"hydra_plugins.{plugin}") is None, reason="an optional plugin")


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(["joblib", "hydra.launcher.n_jobs=2"], marks=needs("hydra_joblib_launcher")),
        pytest.param(["submitit_local", "hydra.launcher.timeout_min=10"], marks=needs("hydra_submitit_launcher")),
    ],
)
def test_jobs_of_a_sweep_at_the_same_time(launcher: list[str], tmp_path: Path) -> None:
    done = run("train.py", f"hydra/launcher={launcher[0]}", launcher[1], *SWEEP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [folder.read_status(path.parent) for path in tmp_path.glob("outputs/sweeps/*/*/status.json")]
    assert [status["status"] for status in found] == ["done", "done"]
    assert len({status["pid"] for status in found}) == 2
    assert all(status["metric"] > 0 for status in found)


@needs("hydra_submitit_launcher")
def test_slurm_is_given_what_was_asked_for(tmp_path: Path) -> None:
    """In the text of the script; no Slurm is here, and what stands for it keeps the script and fails."""
    for name, lines in (("srun", ""), ("sbatch", 'cp "$1" script.sh; exit 1')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    launcher = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=30"]
    launcher += ["hydra.launcher.array_parallelism=2", "hydra.launcher.setup=[module load cuda]"]
    jobs = ["sampler.nfe=2,3,4", "checkpoint=gone", "logger=none"]
    run("sample.py", "-m", *launcher, *jobs, cwd=tmp_path, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    script = (tmp_path / "script.sh").read_text().splitlines()
    for option in ("partition=gpu", "time=30", "gpus-per-node=1", "cpus-per-task=8", "array=0-2%2", "job-name=sample"):
        assert f"#SBATCH --{option}" in script
    assert "module load cuda" in script
    assert script[-1].startswith("srun ")


@needs("hydra_optuna_sweeper")
def test_a_search_goes_on_where_it_was(tmp_path: Path, train_with: Callable[..., int]) -> None:
    """Equal results lead to equal proposals; trials that are done are not repeated."""
    rates: list[float] = []

    def fit_until(job: Any, config: Any, run_dir: Path, *_: Any) -> None:
        if len(rates) == 8:
            rates.append(0.0)
            raise KeyboardInterrupt
        rates.append(job.optimizer.learning_rate)
        (run_dir / "metrics.jsonl").write_text(json.dumps({"step": 4, "eval_loss": abs(rates[-1] - 2e-3)}) + "\n")

    search = ["hparams_search=optuna", "hydra.sweeper.n_trials=10"]
    assert [train_with(fit_until, *search, sweep=TINY), train_with(fit_until, *search, sweep=TINY)] == [130, 0]
    assert len(rates) == 11
    assert len(set(rates)) == 11, "no trial was repeated"
    (search_folder,) = (tmp_path / "outputs" / "sweeps").glob("optuna_digits")
    best = (search_folder / "optimization_results.yaml").read_text()
    closest = min(rates[:8] + rates[9:], key=lambda rate: abs(rate - 2e-3))
    assert f"optimizer.learning_rate: {closest}" in best


def test_valid_combinations_run_and_the_others_are_listed(tmp_path: Path) -> None:
    """Those that run end at once, as there is no such checkpoint."""
    options = ["sampler=ddim,t_ab", "sampler.order=2,3", "checkpoint=gone", "logger=none"]
    tried = run_here("sample.py", "-m", *options, cwd=tmp_path)
    left_out = [line for line in tried.stderr.splitlines() if line.startswith("left out: ")]
    rest = "checkpoint=gone logger=none, as ddim has no order"
    assert left_out == [f"left out: sampler=ddim sampler.order={order} {rest}" for order in (2, 3)]
    assert tried.stderr.count("error: no checkpoint in gone") == 2
    (sweep,) = (tmp_path / "outputs" / "samples").glob("*/")
    assert {path.name for path in sweep.glob("*/")} == {"0", "1"}


def test_an_option_of_one_choice_needs_not_be_the_default_s(tmp_path: Path) -> None:
    """lam is t_ab_sde's alone; the default, t_ab, is not in the sweep."""
    tried = run_here("sample.py", "-m", "sampler=t_ab_sde,ddim", "sampler.lam=1", "checkpoint=gone", cwd=tmp_path)
    assert "left out: sampler=ddim sampler.lam=1 checkpoint=gone, as ddim has no lam" in tried.stderr
    assert tried.stderr.count("error: no checkpoint in gone") == 1


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        ("sampler=ddim,t_ba sampler.order=2,3", "unknown sampler 't_ba'; did you mean t_ab?"),
        ("sampler=ddim,t_ab sampler.ordr=2,3", "unknown option 'sampler.ordr'; did you mean sampler.order?"),
        ("sampler=ddim,t_ab num_samples=2,two", "num_samples=two is refused"),
        ("sampler=ddim,t_ab run_dir=out", "run_dir=out would be the folder of every job; a sweep's is hydra."),
    ],
)
def test_other_mistakes_end_a_sweep_before_it_starts(swept: str, said: str, tmp_path: Path) -> None:
    tried = run_here("sample.py", "-m", *swept.split(), "logger=none", cwd=tmp_path)
    assert tried.returncode == 2
    assert said in tried.stderr
    assert not list(tmp_path.iterdir())
