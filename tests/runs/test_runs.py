"""What holds a run together: seeds, folders, locks, metrics, signals."""

import contextlib
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from models.sampling.build import parse_seeds
from runs import folder
from runs.errors import ConfigError, NonFiniteError, Stopped, stop_requests
from runs.jax_setup import configure_jax
from runs.log import WANDB_ID, LoggerConfig, open_log, read_metrics, truncate_metrics

CONFIG = {"name": "a", "seed": 0, "sde": {"beta_1": 20.0}, "resume": True}


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-3", [0, 1, 2, 3]), ("5", [5]), ("7+2", [7, 2]), ("3,8-9", [3, 8, 9]), ("4294967295", [2**32 - 1])],
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "1+1", "0-4+4", "4294967296", "0-99999999999", "1.5"])
def test_seeds_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seeds must"):
        parse_seeds(text)


def status(path: Path) -> dict:
    return json.loads((path / "status.json").read_text())


def test_status_tells_how_a_run_ended(tmp_path: Path) -> None:
    with folder.occupy(tmp_path / "done", CONFIG, sampler="tAB3"):
        assert status(tmp_path / "done")["status"] == "running"
    assert status(tmp_path / "done") | {"status": "done", "exit_code": 0, "sampler": "tAB3"} == status(
        tmp_path / "done"
    )
    for error, word, code in (
        (NonFiniteError("step 3: loss nan"), "failed", 3),
        (Stopped(signal.SIGTERM, "stopped"), "stopped", 143),
        (ZeroDivisionError("by zero"), "failed", 1),
    ):
        with pytest.raises(type(error)), folder.occupy(tmp_path / word, CONFIG):
            raise error
        ended = status(tmp_path / word)
        assert (ended["status"], ended["exit_code"], ended["error"]) == (word, code, str(error))


def test_one_process_a_folder(tmp_path: Path) -> None:
    with folder.occupy(tmp_path, CONFIG):
        with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"), folder.occupy(tmp_path, CONFIG):
            pass
        assert status(tmp_path)["status"] == "running", "the refused one leaves the owner's status alone"


def test_the_newest_unfinished_run_of_the_same_configuration(tmp_path: Path) -> None:
    def make(name: str, config: dict, ended: str) -> Path:
        path = tmp_path / "a" / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(json.dumps(config))
        (path / "status.json").write_text(json.dumps({"status": ended}))
        return path

    assert folder.unfinished(str(tmp_path), "a", CONFIG) is None
    make("2026-01-01", CONFIG, "stopped")
    newest = make("2026-01-02", CONFIG | {"resume": False}, "running")
    make("2026-01-03", CONFIG | {"seed": 1}, "running")
    make("2026-01-04", CONFIG, "done")
    assert folder.unfinished(str(tmp_path), "a", CONFIG) == newest


@pytest.mark.parametrize("held", ["model.safetensors", "config.yaml", "metrics.jsonl", "photos/a.png"])
def test_a_folder_that_holds_no_run_is_left_alone(held: str, tmp_path: Path) -> None:
    file = tmp_path / "run" / held
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    with pytest.raises(ConfigError, match="holds files and no run"), folder.occupy(tmp_path / "run", CONFIG):
        pass
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_text() == "somebody's"


def test_a_run_of_another_command_is_left_alone(tmp_path: Path) -> None:
    with folder.occupy(tmp_path, CONFIG, command="train"):
        pass
    with pytest.raises(ConfigError, match="holds a run of the command train"):
        folder.refuse_foreign(tmp_path, "sample")
    folder.refuse_foreign(tmp_path, "train")


def test_a_damaged_status_is_named(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"status": "do')
    said = r"status.json is not JSON; delete it, and the run counts as one that is not"
    with pytest.raises(ConfigError, match=said), folder.occupy(tmp_path, {}):
        pass
    with pytest.raises(ConfigError, match=said):
        folder.finished(tmp_path, {})
    (tmp_path / "config.yaml").write_text("name: {")
    with pytest.raises(ValueError, match=r"config.yaml is not YAML; choose another run_dir"):
        folder.read_config(tmp_path)


def test_what_is_hidden_and_a_folder_that_a_kill_left_empty_are_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".DS_Store").write_text("")
    with folder.occupy(tmp_path, CONFIG):
        assert status(tmp_path)["status"] == "running"


@pytest.mark.parametrize(
    ("keys", "changed"),
    [
        (["sde", "name"], "sde.beta_1: 20.0 -> 10.0"),
        (["seed", "sde.beta_1"], "sde.beta_1: 20.0 -> 10.0; seed: 0 -> 1"),
        (["sde.beta_0", "name"], None),
    ],
)
def test_changes_name_the_options(keys: list[str], changed: str | None, tmp_path: Path) -> None:
    now = {"name": "a", "sde": {"beta_1": 10.0}, "seed": 1}
    folder.refuse_changes(tmp_path, now, keys)  # which holds no run yet
    (tmp_path / "config.yaml").write_text(json.dumps(now | {"sde": {"beta_1": 20.0}, "seed": 0}))
    expected = pytest.raises(ConfigError, match=f"another configuration: {changed}; choose another run_dir, or not$")
    with expected if changed else contextlib.nullcontext():
        folder.refuse_changes(tmp_path, now, keys, ", or not")


def test_metrics_after_a_kill(tmp_path: Path) -> None:
    """Lines after the restored step go, and so does one that was cut off in writing."""
    with open_log(_no_logger(), tmp_path, "train", {}) as log:
        for step in (1, 2, 3):
            log.metrics(step, {"loss": 1.0 / step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    truncate_metrics(tmp_path, 2)
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_first_signal_is_noted_and_a_second_acts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stop_requests() as stop_signal:
        assert stop_signal() == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_signal() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="not on this system")
def test_cpu_devices_are_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm gives a job some of a machine's; six images can be shared out over three of these four."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7, 9})
    monkeypatch.setattr(os, "environ", {"HOME": "/"})
    configure_jax(batch_size=6)
    assert os.environ["JAX_NUM_CPU_DEVICES"] == "3"


def _no_logger():
    return LoggerConfig(name="none")


def wandb_folders(path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What wandb leaves of a run that was started twice in the same folder."""
    monkeypatch.setenv("WANDB_MODE", mode)
    config = LoggerConfig("wandb", "deis", entity=None, group=None, mode="auto", init_timeout=1)
    for step in (1, 2):
        with open_log(config, path, "train", {}) as log:
            log.metrics(step, {"loss": 1.0})
        time.sleep(1.1)  # wandb names its folders by the second
    return sorted(folder.name for folder in path.glob("wandb/*run-*"))


@pytest.mark.slow
def test_a_resumed_run_keeps_its_id_in_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = wandb_folders(tmp_path, "offline", monkeypatch)
    ids = [name.rpartition("-")[2] for name in (first, second)]
    assert ids == [(tmp_path / WANDB_ID).read_text()] * 2, "a folder made anew has another"
    assert first != second


@pytest.mark.slow
def test_wandb_that_is_disabled_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wandb_folders(tmp_path, "disabled", monkeypatch) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(("key", "value"), [("mode", "sometimes"), ("name", "mlflow")])
def test_a_logger_that_is_not_there_is_refused(key: str, value: str) -> None:
    config = LoggerConfig("wandb", "deis", entity=None, group=None, mode="auto", init_timeout=1)
    with pytest.raises(ValueError, match=f"logger.{key} must be .*, got '{value}'"):
        replace(config, **{key: value})  # type: ignore[arg-type]
