"""Sampling, FID and a table over two processes, over eight devices and in shards equal those of one process."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import published_network
import pytest
from commands import ROOT, environment, free_port, run, run_here

pytestmark = pytest.mark.slow

SAMPLING = ["logger=none", "checkpoint=net", "extractor=pixels", "sampler.nfe=2", "num_samples=90", "batch_size=16"]
IN_FILES = [*SAMPLING, "save=png", "run_dir=png"]
TABLE = ["logger=none", "checkpoint=net", "extractor=pixels", "paper=last_step", "paper.nfe=[2]", "num_samples=16"]
MEASURING = ["calc", "one", "dataset=digits", "extractor=pixels", "metrics=[fid,kid]", "kid_subset_size=40"]

# one process of several that gives several commands in turn, all over the connection of the first
PROCESS = """
import os, runpy, sys
import jax
from models.sampling import single_files
from models.training import devices

connect, leave, write = devices.connect, devices.leave, single_files.write_images
initialize = jax.distributed.initialize
index, dies, commands = int(sys.argv[1]), sys.argv[2] == "dies", eval(sys.argv[3])
devices.connect = lambda **options: jax.distributed.is_initialized() or connect(**options)
devices.leave = lambda: None
jax.distributed.initialize = lambda *given, **options: initialize(*given, **options | {"heartbeat_timeout_seconds": 10})
if dies:
    single_files.write_images = lambda *given: (write(*given), os._exit(9))
for script, *arguments in commands:
    sys.argv = [script, *arguments, f"distributed.process_id={index}"]
    try:
        if script.endswith(".py"):
            runpy.run_path(script, run_name="__main__")
        else:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code:
            raise
leave()
"""


def pair(cwd: Path, *commands: list[str], dies: int | None = None) -> list[subprocess.CompletedProcess[str]]:
    """Two processes that give the commands together, of which one may die when it has written its first images."""
    options = [
        "distributed=explicit",
        f"distributed.coordinator=localhost:{free_port()}",
        "distributed.num_processes=2",
    ]
    typed = str([[*command, *options] for command in commands])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(index), "dies" if dies == index else "lives", typed],
            cwd=cwd,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny network, and with what one process finds."""
    cwd = tmp_path_factory.mktemp("alone")
    published_network.write(cwd / "net")
    for script, *options in (
        ["sample.py", *SAMPLING, "run_dir=one"],
        ["eval.fid", *MEASURING, "dest=one.json"],
        ["eval.table", *TABLE, "run_dir=one_table"],
    ):
        assert (done := run_here(script, *options, cwd=cwd)).returncode == 0, done.stderr
    return cwd


def images(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["images"]


def result(path: Path) -> dict:
    return json.loads(path.read_text())


def cells(folder: Path) -> dict[tuple[str, str], str]:
    with (folder / "results.csv").open() as file:
        return {(line["row"], line["nfe_asked"]): line["fid"] for line in csv.DictReader(file)}


@pytest.fixture(scope="module")
def lost(alone: Path) -> tuple[list[subprocess.CompletedProcess[str]], dict[Path, int]]:
    """Two processes of which one died, and the images that they left, with their times."""
    ended = pair(alone, [str(ROOT / "sample.py"), *IN_FILES], dies=1)
    return ended, {path: path.stat().st_mtime_ns for path in alone.glob("png/images/*/*.png")}


@pytest.fixture(scope="module")
def parts(alone: Path) -> list[str]:
    """The samples in three shards, in the same folder."""
    names = [f"part{shard}" for shard in range(3)]
    for shard, name in enumerate(names):
        drawn = run_here("sample.py", *SAMPLING, f"shard={shard}/3", f"run_dir={name}", cwd=alone)
        assert drawn.returncode == 0, drawn.stderr
    return names


@pytest.fixture(scope="module")
def two(alone: Path, lost: Any, parts: list[str]) -> Path:
    """The same folder, with what two processes find; one command is that of the process that was lost."""
    sample = str(ROOT / "sample.py")
    commands = [[sample, *IN_FILES], [sample, *SAMPLING, "run_dir=two"], ["eval.fid", *MEASURING, "dest=two.json"]]
    merging = ["eval.fid", "merge", *parts, "dataset=digits", "extractor=pixels", "dest=two_merged.json"]
    for process in pair(alone, *commands, merging, ["eval.table", *TABLE, "run_dir=two_table"]):
        assert process.returncode == 0, process.stderr
    return alone


def test_two_processes_find_what_one_does(two: Path) -> None:
    np.testing.assert_array_equal(images(two / "two"), images(two / "one"))
    one, other = (result(two / name / "result.json") for name in ("one", "two"))
    assert other["fid"] == pytest.approx(one["fid"], rel=1e-9)
    assert other["fid_standard_error"] == pytest.approx(one["fid_standard_error"], rel=0.5)  # of other blocks
    for key in ("seeds", "num_samples", "fid_name"):
        assert other[key] == one[key]
    measured = [result(two / f"{name}.json") for name in ("one", "two")]
    for key in ("fid", "kid"):
        assert measured[1][key] == pytest.approx(measured[0][key], rel=1e-9)
    merged = result(two / "two_merged.json")
    assert (merged["fid"], merged["fid_name"]) == (pytest.approx(one["fid"], rel=1e-9), one["fid_name"])
    assert cells(two / "two_table") == cells(two / "one_table")
    assert len(cells(two / "one_table")) >= 6


def test_a_lost_process_ends_the_other_and_the_same_command_goes_on(
    lost: tuple[list[subprocess.CompletedProcess[str]], dict[Path, int]], two: Path
) -> None:
    """The other has drawn its share by then; in the end every image was written once."""
    (survivor, dead), before = lost
    assert (survivor.returncode, dead.returncode) == (1, 9)
    assert "error: process 1 of 2 was lost; the same command goes on" in survivor.stderr
    assert len(before) == 48 + 16, "three batches of 16 of the other's share, one of the lost one's"
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(two.glob("png/images/*/*.png"))) == 90
    one, png = (result(two / name / "result.json") for name in ("one", "png"))
    assert png["fid"] == pytest.approx(one["fid"], rel=1e-9)


def test_eight_devices_draw_the_same_images(alone: Path) -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = run("sample.py", *SAMPLING, "run_dir=eight", cwd=alone, env={"XLA_FLAGS": flags})
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(images(alone / "eight"), images(alone / "one"))
    one, eight = (result(alone / name / "result.json") for name in ("one", "eight"))
    assert eight["fid"] == pytest.approx(one["fid"], rel=1e-9)


def test_shards_are_merged_to_the_whole(alone: Path, parts: list[str]) -> None:
    np.testing.assert_array_equal(np.concatenate([images(alone / part) for part in parts]), images(alone / "one"))
    measuring = ["dataset=digits", "extractor=pixels"]
    merged = run_here("eval.fid", "merge", *parts, *measuring, "dest=merged.json", cwd=alone)
    assert merged.returncode == 0, merged.stderr
    one = result(alone / "one" / "result.json")
    assert result(alone / "merged.json")["fid"] == pytest.approx(one["fid"], rel=1e-9)
    assert result(alone / "merged.json")["fid_name"] == one["fid_name"]
    twice = run_here("eval.fid", "merge", "part0", "part0", *measuring, cwd=alone)
    assert "the parts have seeds in common" in twice.stderr
    other = run_here("sample.py", *SAMPLING, "shard=0/3", "sampler=ddim", "run_dir=other", cwd=alone)
    assert other.returncode == 0, other.stderr
    mixed = run_here("eval.fid", "merge", "other", "part1", *measuring, cwd=alone)
    assert "the parts differ in sampler.method (ddim, t_ab)" in mixed.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["shard=3/3"], "shard must be INDEX/COUNT with INDEX from 0 to COUNT - 1, as 3/16, got '3/3'"),
        (["shard=0/9"], "shard=0/9 gets none of the batches of batch_size=16; lower it"),
        (["shard=0/2", "metrics=[kid]", "kid_subset_size=2"], "mean and covariance for metrics=[fid] alone"),
        (["distributed=auto"], "several processes need one folder that all can reach"),
    ],
)
def test_what_cannot_be_shared_out(options: list[str], said: str, alone: Path) -> None:
    tried = run_here("sample.py", *SAMPLING, *options, cwd=alone)
    assert tried.returncode == 2
    assert said in tried.stderr
