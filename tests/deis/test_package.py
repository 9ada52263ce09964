"""What `import deis` shows."""

import re
import tomllib
from pathlib import Path

import yaml

import deis

ROOT = Path(__file__).parents[2]


def test_completion_lists_what_there_is_and_no_leftovers() -> None:
    shown = dir(deis)
    assert {"get_sampler", "sample", "trajectory", "tables", "timesteps", "wrappers", "__version__"} <= set(shown)
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(shown)
    for name in set(shown) - {"torch", "adaptive"}:  # these two need what is not installed with the library
        assert getattr(deis, name) is not None


def test_the_version_is_written_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", deis.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "deis.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == deis.__version__
    assert f"## {deis.__version__}" in (ROOT / "CHANGELOG.md").read_text()
