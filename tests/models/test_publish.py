"""Publishing into a folder; tests/peers/hub publishes to a hub."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import published_network
import pytest

import deis
from models.checkpoints.saver import Saver
from models.publish import main as publish
from models.published.network import read_published


@pytest.fixture
def table(tmp_path: Path) -> str:
    deis.tables.build(deis.vp_linear(), num_step=5).save(tmp_path / "learned.safetensors")
    return str(tmp_path / "learned.safetensors")


def test_the_numbers_of_every_command_that_measures(table: str, tmp_path: Path) -> None:
    drawn = {"sampler": "tAB3", "nfe": 5, "fid": 4.8123, "fid_name": "FID-a-1k", "kid": 0.0123, "kid_name": "KID-a-1k"}
    learned = {"solvers": [{"solver": "base", "table": "iPNDM4", "nfe": 5, "fid": 31.0, "fid_name": "FID-a-1k"}]}
    for name, content in (
        ("drawn", drawn),
        ("learned", learned),
        ("calc", {"is": 9.87, "is_name": "IS-inception-50k"}),
    ):
        (tmp_path / name).write_text(json.dumps(content))
    results = ["--results", *(str(tmp_path / name) for name in ("drawn", "learned", "calc"))]
    assert publish([table, str(tmp_path / "folder"), *results]) == 0
    card = (tmp_path / "folder" / "README.md").read_text().splitlines()
    assert [line for line in card if line.startswith("|")] == [
        "| sampler | network calls | metric | value |",
        "|---|---:|---|---:|",
        "| tAB3 | 5 | FID-a-1k | 4.812 |",
        "| tAB3 | 5 | KID-a-1k | 0.0123 |",
        "| iPNDM4 | 5 | FID-a-1k | 31 |",
        "| - | - | IS-inception-50k | 9.87 |",
    ]


def test_one_of_a_run_s_checkpoints_with_the_run_s_pictures(tmp_path: Path) -> None:
    """The newest is another; EMA parameters are published."""
    job = published_network.options("model.image_size=8", "model.image_channels=1", "model.multipliers=[1]")
    params = published_network.random_weights(job.model)
    config = {"model": dataclasses.asdict(job.model), "sde": dict(job.sde), "dataset": vars(job.dataset)}
    with Saver(tmp_path / "run" / "checkpoints", keep=None) as saver:
        saver.save(3, {"ema": params}, config)
        saver.save(4, {"ema": jax.tree.map(np.zeros_like, params)}, config)
    (tmp_path / "run" / "samples_0000003.png").write_bytes(b"a picture")
    assert publish([str(tmp_path / "run" / "checkpoints" / "00000003"), str(tmp_path / "net")]) == 0
    found = read_published(tmp_path / "net")
    assert found.source == "run, step 3"
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    assert (tmp_path / "net" / "grid.png").read_bytes() == b"a picture"
    assert publish([str(tmp_path / "net"), str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "recipe.json").read_text()) == config
    assert "(recipe.json)" in (tmp_path / "again" / "README.md").read_text()


@pytest.mark.parametrize("content", [{"fid": None, "fid_name": "FID"}, {"fid": 3.0}, {"solvers": 3}])
def test_other_json_is_no_result(content: dict, table: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert publish([table, str(tmp_path / "folder"), "--results", str(tmp_path / "other.json")]) == 2
    assert capsys.readouterr().err.startswith("error: --results must be what sample.py")


def test_a_file_or_a_bucket_is_no_folder_to_publish_into(table: str, capsys: Any) -> None:
    assert publish([table, "gs://bucket/net"]) == 2
    assert capsys.readouterr().err == "error: publish to hf://owner/name or to a folder, got gs://bucket/net\n"
    assert publish([table, table]) == 2
    assert capsys.readouterr().err == f"error: {table} is not empty; choose another folder\n"
