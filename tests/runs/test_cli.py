"""Commands that cannot work: one or two clear lines, the right exit code, and nothing left behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, TINY, run
from PIL import Image

NO_KEY = "0" * 40


def refused(*arguments: str, script: str = "train.py", cwd: Path, code: int = 2) -> str:
    """What the command prints, having checked that it is short, not a traceback, and ends with the exit code."""
    result = run(script, *arguments, cwd=cwd)
    assert result.returncode == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert 1 <= len(lines) <= 2, result.stderr
    assert lines[-1].startswith("error: ")
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train.batchsize=8"], "did you mean train.batch_size?"),
        (["sampler.order=three"], "sampler.order=three"),
        (["sampler=dpm9"], "unknown sampler 'dpm9'"),
        (["sampler.order=9"], "order must be 0 (DDIM) to 6, got 9"),
        (["sampler.nfe=0"], "sampler.nfe must be at least 1, got 0"),
        (["sampler=rho_rk", "sampler.nfe=10"], "use sampler.nfe=9 or 12"),
        (["sampler=ddim", "sampler.order=3"], "unknown option 'sampler.order'"),
        (["sde.t_0=2"], "t_0 must lie below T"),
        (["train.steps=0"], "train.steps must be at least 1"),
        (["dataset=images", "dataset.path=nowhere"], "nowhere"),
        (["dataset=mnist", "dataset.download=false", "dataset.data_dir=empty"], "empty"),
    ],
)
def test_train_refuses(arguments: list[str], said: str, tmp_path: Path) -> None:
    message = refused("logger=none", *arguments, cwd=tmp_path)
    assert said in message


def test_an_unknown_choice_is_answered_with_the_choices_alone(tmp_path: Path) -> None:
    there = sorted(file.stem for file in (ROOT / "conf" / "dataset").glob("*.yaml"))
    message = refused("logger=none", "dataset=nosuch", cwd=tmp_path)
    assert message == f"error: unknown dataset 'nosuch'; allowed: {', '.join(there)}"


def test_sample_refuses_a_missing_checkpoint(tmp_path: Path) -> None:
    assert "gone" in refused("logger=none", "checkpoint=gone", script="sample.py", cwd=tmp_path)
    assert not list(tmp_path.iterdir()), "a refused command leaves nothing behind"


def test_sample_names_the_nearest_option(tmp_path: Path) -> None:
    assert "did you mean sampler.nfe?" in refused("sampler.nef=5", script="sample.py", cwd=tmp_path)


def test_empty_image_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert "photos" in refused("logger=none", "dataset=images", "dataset.path=photos", cwd=tmp_path)


def test_mixed_image_sizes(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for size in (8, 16):
        Image.fromarray(np.zeros((size, size), np.uint8)).save(tmp_path / "photos" / f"{size}.png")
    message = refused("logger=none", "dataset=images", "dataset.path=photos", cwd=tmp_path)
    assert "dataset.image_size=" in message


def test_classes_that_the_data_does_not_have(tmp_path: Path) -> None:
    assert "0 or 10" in refused("logger=none", "model.num_classes=7", cwd=tmp_path)


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    assert "cannot write to" in refused("logger=none", "run_dir=file/run", cwd=tmp_path)


def test_wandb_key_without_network(tmp_path: Path) -> None:
    env = {"WANDB_API_KEY": NO_KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    arguments = [*TINY, "logger=wandb", "logger.init_timeout=2", "run_dir=run"]
    result = run("train.py", *arguments, cwd=tmp_path, env=env)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if "warning: wandb cannot be reached" in line]
    assert len(warnings) == 1, result.stderr
    assert NO_KEY not in result.stderr
    assert NO_KEY not in (tmp_path / "run" / "config.yaml").read_text()
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "done"


def test_help_is_quick_and_says_what_there_is(tmp_path: Path) -> None:
    for script in ("train.py", "sample.py"):
        result = run(script, "--help", cwd=tmp_path, timeout=30)
        assert result.returncode == 0
        for word in ("Examples", "dataset" if script == "train.py" else "extractor", "t_ab", "Exit codes"):
            assert word in result.stdout
