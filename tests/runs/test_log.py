"""Loggers beside metrics.jsonl: what wandb and TensorBoard have written, read back."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wandb_files import records

from runs import log
from runs.log import LoggerConfig, open_log


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


def test_tensorboard_has_numbers_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grid.png")
    with open_log(config("tensorboard"), tmp_path, "train", {}) as opened:
        opened.metrics(20, {"loss": 0.5})
        opened.image(20, "samples", tmp_path / "grid.png")
    (path,) = (tmp_path / "tensorboard").iterdir()
    content, at = path.read_bytes(), 0
    found: dict[str, Any] = {}
    while at < len(content):
        (length,) = struct.unpack("<Q", content[at : at + 8])
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found |= {value.tag: (event.step, value) for value in event.summary.value}
        at += length + 16
    assert (found["loss"][0], found["loss"][1].simple_value) == (20, 0.5)
    assert found["samples"][1].image.height == 4


def test_a_logger_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"logger=both needs tensorboardX: pip install -r requirements-cluster\.txt"):
        config("both")
