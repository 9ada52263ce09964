"""Loggers beside metrics.jsonl: what wandb and TensorBoard have written, read back."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import environment
from PIL import Image
from wandb_files import records

from runs import log
from runs.log import LoggerConfig, open_log, refuse_tensorboard

NO_KEY = "0" * 40


def config(name: str, **options: object) -> LoggerConfig:
    return LoggerConfig(name, "deis", None, "a table", "offline", 5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", [False, True])
def test_wandb_has_name_axes_best_value_and_the_artifacts_asked_for(tmp_path: Path, asked: bool) -> None:
    (tmp_path / "reference.npz").write_bytes(b"statistics")
    with open_log(config("wandb", artifacts=asked), tmp_path, "sample", {"step": None}, "tAB3 @ 10") as opened:
        opened.config({"step": 1000, "fid_name": "FID-digits-1k"})
        for step, fid in enumerate((3.0, 2.0, 4.0)):
            opened.metrics(step, {"fid": fid, "nfe": 5 * step})
        opened.artifact("digits-statistics", "statistics", tmp_path / "reference.npz")
    found = list(records(tmp_path))
    run = next(record for kind, record in found if kind == "run")
    assert (run.display_name, run.run_group, run.job_type) == ("tAB3 @ 10", "a table", "sample")
    (metric,) = (record for kind, record in found if kind == "metric" and record.name == "fid")
    assert (metric.step_metric, metric.summary.min) == ("nfe", True)
    values = {item.key: item.value_json for kind, record in found if kind == "config" for item in record.update}
    assert values == {"step": "1000", "fid_name": '"FID-digits-1k"'}
    summed = [item for kind, record in found if kind == "summary" for item in record.update]
    assert [item.value_json for item in summed if item.nested_key[:1] == ["fid"]][-1] == '{"min":2}'
    artifacts = [(record.type, record.name) for kind, record in found if kind == "artifact"]
    assert artifacts == ([("statistics", "digits-statistics")] if asked else [])


def test_the_last_fid_is_known_by_its_name(tmp_path: Path) -> None:
    for name in ("FID-inception-tf1-5k", "sFID-inception_spatial-tf1-5k", "FD-dinov2_vitl14-5k"):
        (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, name: 2.0}) + "\n")
        assert log.last_values(tmp_path / "metrics.jsonl")["fid"] == 2.0


def test_tensorboard_has_numbers_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    (tmp_path / "resumed").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grid.png")
    with open_log(config("tensorboard"), tmp_path, "train", {}) as opened:
        opened.metrics(20, {"loss": 0.5})
        opened.image(20, "samples", tmp_path / "grid.png")
    with open_log(config("tensorboard"), tmp_path / "resumed", "train", {}, step=10):
        pass

    def events(folder: Path) -> Iterator[Any]:
        (path,) = (folder / "tensorboard").iterdir()
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack("<Q", content[at : at + 8])
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16

    found = {value.tag: (event.step, value) for event in events(tmp_path) for value in event.summary.value}
    hidden = [event.step for event in events(tmp_path / "resumed") if event.session_log.status == SessionLog.START]
    assert hidden == [11], "what an earlier start logged from this step on"
    assert (found["loss"][0], found["loss"][1].simple_value) == (20, 0.5)
    assert found["samples"][1].image.height == 4


def test_a_logger_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"logger=both needs tensorboardX: pip install -r requirements-cluster\.txt"):
        config("both")


def test_tensorboard_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_spec", lambda _: True)
    with pytest.raises(ValueError, match="logger=both writes into the folder of a run, and this command has none"):
        refuse_tensorboard(config("both"))
    refuse_tensorboard(config("wandb"))


def test_wandb_key_without_network(tmp_path: Path) -> None:
    env = {"WANDB_API_KEY": NO_KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    config = LoggerConfig("wandb", "deis", entity=None, group=None, mode="auto", init_timeout=1)
    program = f"""
from pathlib import Path
from runs.log import LoggerConfig, open_log
with open_log({config!r}, Path("."), "train", {{}}) as log:
    log.metrics(1, {{"loss": 0.5}})
"""
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment() | env, capture_output=True, text=True, check=True)
    warnings = [line for line in result.stderr.splitlines() if "warning: wandb cannot be reached" in line]
    assert len(warnings) == 1, result.stderr
    assert NO_KEY not in result.stderr
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": 0.5}
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert not any(NO_KEY.encode() in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
