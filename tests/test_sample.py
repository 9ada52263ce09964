"""Sampling as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, run

FEW = ["logger=none", "extractor=none", "sampler.nfe=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny network was trained."""
    cwd = tmp_path_factory.mktemp("trained")
    result = run("train.py", *TINY, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd


def images(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["images"]


def test_an_image_depends_on_its_own_seed_only(trained: Path) -> None:
    for name, seeds, batch_size in (("whole", "0-9", 10), ("parts", "0-9", 3), ("picked", "7+2", 4)):
        result = run("sample.py", *FEW, f"seeds={seeds}", f"batch_size={batch_size}", f"run_dir={name}", cwd=trained)
        assert result.returncode == 0, result.stderr
    whole = images(trained / "whole").astype(int)
    assert np.ptp(whole) > 0
    assert np.abs(images(trained / "parts") - whole).max() <= 1, "one grey level of rounding at most"
    assert np.abs(images(trained / "picked") - whole[[7, 2]]).max() <= 1


def test_multirun_with_fid_and_its_table(trained: Path) -> None:
    arguments = ["logger=none", "sampler=ddim,t_ab,rho_rk", "sampler.nfe=4,6", "num_samples=70", "extractor.steps=20"]
    result = run("sample.py", "-m", *arguments, "hydra.sweep.dir=sweep", cwd=trained)
    assert result.returncode == 2, "rho_rk with 3 stages refuses nfe=4, and the other jobs go on"
    assert "use sampler.nfe=3 or 6" in result.stderr
    results = {path.parent.name: json.loads(path.read_text()) for path in (trained / "sweep").glob("*/result.json")}
    assert len(results) == 5
    assert {r["sampler"] for r in results.values()} == {"DDIM", "tAB3", "rho3Kutta"}
    assert all(r["fid"] > 0 and r["fid_name"] == "FID-digits-70" for r in results.values())
    table = run("eval.table", str(trained / "sweep"), cwd=trained)
    assert table.returncode == 0, table.stderr
    assert "| DDIM" in table.stdout
    assert (trained / "sweep" / "fid_vs_nfe.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seeds=5-3"], "seeds must look like"),
        (["num_samples=0"], "num_samples must be at least 1"),
        (["rounding=up"], "rounding must be floor or round"),
        (["step=77"], "no checkpoint of step 77"),
        (["sampler.ts_phase=sigma"], "ts_phase must be one of"),
    ],
)
def test_refusals(arguments: list[str], said: str, trained: Path) -> None:
    result = run("sample.py", *FEW, *arguments, cwd=trained)
    assert result.returncode == 2
    assert said in result.stderr


def test_a_damaged_checkpoint_is_not_used(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    files = [p for p in (tmp_path / "outputs").rglob("ocdbt.process_0/d/*") if p.is_file()]
    newest = max(files, key=lambda path: path.stat().st_size)
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    result = run("sample.py", *FEW, cwd=tmp_path)
    assert result.returncode == 2
    assert "does not match its checksum" in result.stderr
