"""What all commands have in common."""

import runpy
from pathlib import Path

import pytest
import yaml
from commands import ROOT, run_here

CONFIGS = sorted(path.stem for path in (ROOT / "conf").glob("*.yaml") if path.stem not in ("common", "eps"))
MODULES = [path for room in ("eval", "models") for path in (ROOT / room).glob("*.py") if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_command_takes_a_logger_and_sweeps(name: str) -> None:
    defaults = yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())["defaults"]
    named = {group: choice for entry in defaults if isinstance(entry, dict) for group, choice in entry.items()}
    assert named["logger"] in ("none", "wandb")
    sweeper = "${if_chosen:${hparams_search},optuna,combinations}" if "hparams_search" in named else "combinations"
    assert named["override hydra/sweeper"] == sweeper


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_that_is_run_as_a_file_says_how_it_is_typed(path: Path) -> None:
    typed = f"python -m {path.parent.name}.{path.stem}"
    with pytest.raises(SystemExit, match=f"error: this command is typed as {typed}$"):
        runpy.run_path(str(path), run_name="__main__")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("eval.analysis nfe=[0]", "nfe must be a list"),
        ("eval.likelihood trace=none", "trace must be exact"),
        ("eval.fid ref", "give dataset=NAME"),
        ("eval.model_summary dataset=images", "dataset=images has no fixed size"),
    ],
)
@pytest.mark.parametrize("logger", ["none", "wandb"])
def test_the_logger_is_not_what_is_refused(command: str, said: str, logger: str, tmp_path: Path) -> None:
    tried = run_here(*command.split(), f"logger={logger}", cwd=tmp_path)
    assert tried.returncode == 2
    assert tried.stderr.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_name_looks_like_an_option_is_gathered(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    tried = run_here("eval.table", "a=b", cwd=tmp_path)
    assert (tried.returncode, tried.stderr) == (2, "error: a=b holds no results; run sample.py or train.py first\n")
