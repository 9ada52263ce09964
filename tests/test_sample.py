"""Sampling as a user runs it."""

import json
import os
import re
from pathlib import Path

import numpy as np
import published_network
import pytest
from commands import AS_USERS_DO, TINY, run, run_here

from eval.features.classifier import RECIPE
from models.checkpoints.checkpoint import scores
from models.sampling import single_files
from runs.log import last_values

pytestmark = pytest.mark.slow

FEW = ["logger=none", "extractor=none", "sampler.nfe=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny network was trained, with a FID at its second checkpoint."""
    cwd = tmp_path_factory.mktemp("trained")
    scored = ["extractor=pixels", "train.fid_every=4", "train.fid_samples=20", "train.keep_best=true"]
    result = run("train.py", *TINY, *scored, "train.eval_every=2", "train.checkpoint_every=2", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd


def images(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["images"]


def test_an_image_depends_on_its_own_seed_only(trained: Path) -> None:
    sweep = ["seeds=0-9,7+2", "batch_size=10,3", "hydra.sweep.dir=seeds", "hydra.sweep.subdir=${seeds}x${batch_size}"]
    result = run("sample.py", "-m", *FEW, *sweep, cwd=trained, env=AS_USERS_DO)
    assert result.returncode == 0, result.stderr
    whole, *others = (images(trained / "seeds" / name).astype(int) for name in ("0-9x10", "0-9x3", "7+2x10", "7+2x3"))
    assert np.ptp(whole) > 0
    for other, seeds in zip(others, (list(range(10)), [7, 2], [7, 2]), strict=True):
        assert np.abs(other - whole[seeds]).max() <= 1, "one grey level of rounding at most"


def test_the_fid_in_training_is_that_of_the_saved_network(trained: Path) -> None:
    options = ["extractor=pixels", "num_samples=20", "batch_size=16", "run_dir=again"]
    result = run_here("sample.py", "logger=none", *options, cwd=trained)
    assert result.returncode == 0, result.stderr
    (log,) = (trained / "outputs" / "digits").glob("*/metrics.jsonl")
    logged = last_values(log)
    again = json.loads((trained / "again" / "result.json").read_text())
    assert logged["fid_name"] == again["fid_name"] == "FD-pixels-20"
    assert logged["fid"] == pytest.approx(again["fid"], rel=1e-5)
    assert scores(log.with_name("checkpoints")) == {2: None, 4: logged["fid"]}, "a loss is not a FID"


def test_multirun_with_fid_and_its_table(trained: Path) -> None:
    arguments = ["logger=none", "sampler=ddim,t_ab,rho_rk", "sampler.nfe=4,6", "num_samples=70", "extractor=classifier"]
    arguments += ["extractor.steps=20"]
    result = run_here("sample.py", "-m", *arguments, "hydra.sweep.dir=sweep", cwd=trained)
    assert result.returncode == 2, "rho_rk with 3 stages refuses nfe=4, and the other jobs go on"
    assert "use sampler.nfe=3 or 6" in result.stderr
    results = {path.parent.name: json.loads(path.read_text()) for path in (trained / "sweep").glob("*/result.json")}
    assert len(results) == 5
    assert {r["sampler"] for r in results.values()} == {"DDIM", "tAB3", "rho3Kutta"}
    assert all(r["fid"] > 0 and r["fid_name"] == f"FID-digits-classifier{RECIPE}-70" for r in results.values())
    table = run_here("eval.table", str(trained / "sweep"), cwd=trained)
    assert table.returncode == 0, table.stderr
    assert "| DDIM" in table.stdout
    assert (trained / "sweep" / "fid_vs_nfe.png").stat().st_size > 10_000


def test_images_need_not_be_kept_to_be_measured(trained: Path) -> None:
    arguments = ["logger=none", "extractor=pixels", "sampler.nfe=3", "num_samples=70", "metrics=[fid,kid,pr]"]
    found = []
    for kept, batch_size in (("true", 70), ("false", 16)):
        options = [f"keep_samples={kept}", f"batch_size={batch_size}", "kid_subset_size=50", "grid_samples=20"]
        result = run_here("sample.py", *arguments, *options, f"run_dir=kept_{kept}", cwd=trained)
        assert result.returncode == 0, result.stderr
        found.append(json.loads((trained / f"kept_{kept}" / "result.json").read_text()))
    assert not (trained / "kept_false" / "samples.npz").exists()
    grids = [(trained / f"kept_{kept}" / "grid.png").stat().st_size for kept in ("true", "false")]
    assert grids[0] == pytest.approx(grids[1], rel=0.05)
    for name in ("fid", "kid", "precision", "recall", "density", "coverage"):
        assert found[0][name] == pytest.approx(found[1][name], rel=0.02, abs=0.03), name
    assert (found[0]["fid_name"], found[0]["rounding"]) == ("FD-pixels-70", "floor")
    again = run_here("eval.fid", "calc", "kept_true", "extractor=pixels", "dest=again.json", cwd=trained)
    assert again.returncode == 0, again.stderr
    assert "Measuring against digits, as sample.py does" in again.stderr
    record = json.loads((trained / "again.json").read_text())
    assert record["fid"] == pytest.approx(found[0]["fid"], rel=1e-9)
    assert record["rounding"] == "floor"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seeds=5-3"], "seeds must look like"),
        (["num_samples=0"], "num_samples must be at least 1"),
        (["extractor=pixels", "metrics=[fid,kid]"], "metrics=kid needs at least 1000 samples, got 256"),
        (["metrics=[fid,kid]"], "metrics=fid,kid needs features: choose another extractor than none"),
        (["rounding=up"], "rounding must be floor or round"),
        (["step=77"], "no checkpoint of step 77"),
        (["guidance_sheet=[1,2]"], "guidance_sheet has a column for each class, and this network was trained without"),
        (["label=3"], "label must be null: this network was trained without classes (model.num_classes=0), got 3"),
        (["sampler.ts_phase=sigma"], "ts_phase must be one of"),
        (["sampler.ts=[1,0.5]", "sampler.t_0=0.6"], "sampler.ts must lie between the diffusion's t_0=0.6 and T=1"),
        (["save=jpg"], "save must be npz, png or both, got 'jpg'"),
        (["threshold=0"], "threshold must be a percentile in (1, 100]"),
        (["threshold=99", "clip=true"], "without clip=true"),
        (["distance_to_nfe=3"], "for solvers of the ODE with fewer calls, and tAB3 makes 3 network calls"),
        (["distance_to_nfe=9", "sampler=ddim_eta"], "DDIM(eta=1) adds noise"),
    ],
)
def test_refusals(arguments: list[str], said: str, trained: Path) -> None:
    result = run_here("sample.py", *FEW, *arguments, cwd=trained)
    assert result.returncode == 2
    assert said in result.stderr


def test_no_more_is_computed_than_what_is_asked_for(trained: Path) -> None:
    """The batch is as large as the samples: its speed is that of the images that were drawn."""
    few = ["num_samples=3", "batch_size=4096", "run_dir=three", "distance_to_nfe=6"]
    result = run_here("sample.py", *FEW, *few, cwd=trained)
    assert result.returncode == 0, result.stderr
    assert re.search(r"RMSE [\d.]+ and PSNR [\d.]+ dB to 6 calls", result.stdout)
    found = json.loads((trained / "three" / "result.json").read_text())
    assert (found["num_samples"], found["label"], found["distance_to_nfe"]) == (3, None, 6)
    assert 0 < found["rmse"] < 1
    assert found["seconds"] < 30
    newest = max((trained / "outputs" / "digits").iterdir(), key=lambda run: run.stat().st_mtime)
    first = result.stderr.splitlines()[0]
    assert first == f"Taking the newest run, {newest.relative_to(trained)}; another is checkpoint=FOLDER"


def test_a_killed_run_goes_on_with_the_missing_images(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written as they are drawn; those that are there are read, and the numbers are those of one go."""
    arguments = ["logger=none", "extractor=pixels", "sampler.ts=[1,0.5,0.1,0.001]", "seeds=990-1009+3", "batch_size=5"]
    whole = run_here("sample.py", *arguments, "save=both", "clip=true", "run_dir=whole", cwd=trained)
    assert whole.returncode == 0, whole.stderr
    arguments += ["save=png", "clip=true", "run_dir=killed"]
    written: list[int] = []
    write, folder = single_files.write_images, trained / "killed"

    def die_after_two_batches(folder: Path, seeds: list[int], drawn: np.ndarray) -> None:
        if len(written) == 10:
            raise KeyboardInterrupt
        write(folder, seeds, drawn)
        written.extend(seeds)

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (folder / "images").rglob("*.png")}

    with monkeypatch.context() as patch:
        patch.setattr(single_files, "write_images", die_after_two_batches)
        run_here("sample.py", *arguments, cwd=trained)
    before = files()
    assert sorted(int(path.stem) for path in before) == [*range(990, 1000)]
    for earlier in ("samples.npz", "guidance.png"):
        (folder / earlier).write_bytes(b"of another run into this folder")
    again = run_here("sample.py", *arguments, cwd=trained)
    assert again.returncode == 0, again.stderr
    assert before.items() <= files().items(), "no image is drawn twice"
    seeds = [*range(990, 1010), 3]
    for each in (folder, trained / "whole"):
        np.testing.assert_array_equal(single_files.read_images(each, seeds), images(trained / "whole"))
    first, second = (json.loads((trained / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert second["fid"] == pytest.approx(first["fid"], rel=1e-9)
    assert (second["num_samples"], second["nfe"], second["nfe_asked"], second["clip"]) == (21, 3, 3, True)
    assert not {"samples.npz", "guidance.png"} & set(os.listdir(folder)), "what it did not write is gone"

    assert "all drawn before" in run_here("sample.py", *arguments, cwd=trained).stdout
    for save in ("png", "npz"):
        changed = run_here("sample.py", *arguments, "clip=false", f"save={save}", cwd=trained)
        assert changed.returncode == 2
        assert "drawn otherwise (clip: True -> False); choose another run_dir" in changed.stderr
    assert json.loads((folder / "status.json").read_text())["status"] == "done", "it is left as it was"
    measured = run_here("eval.fid", "calc", "killed", "dataset=digits", "extractor=pixels", "dest=f.json", cwd=trained)
    assert measured.returncode == 0, measured.stderr
    assert json.loads((trained / "f.json").read_text())["fid"] == pytest.approx(first["fid"], rel=1e-9)


@pytest.mark.parametrize("label", [-1, 10, 99])
def test_labels_that_the_network_does_not_have_are_refused(label: int, tmp_path: Path) -> None:
    published_network.write(tmp_path / "net", "model.num_classes=10")
    arguments = ["checkpoint=net", f"label={label}", "extractor=none", "run_dir=out"]
    result = run_here("sample.py", *FEW, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert f"label must be 0 to 9 (model.num_classes=10), got {label}" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_class_stands_in_the_result_and_no_classifier_is_trained_unasked(tmp_path: Path) -> None:
    published_network.write(tmp_path / "net", "model.num_classes=10")
    arguments = ["logger=none", "checkpoint=net", "label=9", "num_samples=2", "sampler.nfe=1", "run_dir=out"]
    result = run_here("sample.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["label"] == 9
    assert "fid" not in found
    said = [line for line in result.stderr.splitlines() if line.startswith("no FID")]
    assert said == [
        "no FID: no classifier was trained on digits yet; extractor=classifier makes what it needs and measures it"
    ]
    assert not (tmp_path / "outputs").exists()


def test_a_damaged_checkpoint_is_not_used(trained: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(trained / "outputs", tmp_path / "outputs")
    files = [p for p in (tmp_path / "outputs").rglob("00000004/state/ocdbt.process_0/d/*") if p.is_file()]
    newest = max(files, key=lambda path: path.stat().st_size)
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    result = run_here("sample.py", *FEW, cwd=tmp_path)
    assert result.returncode == 2
    assert "does not match its checksum" in result.stderr
