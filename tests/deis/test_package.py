"""What `import deis` shows."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

import deis

ROOT = Path(__file__).parents[2]


def test_completion_lists_what_there_is_and_no_leftovers() -> None:
    shown = dir(deis)
    assert {"get_sampler", "sample", "trajectory", "tables", "timesteps", "wrappers", "__version__"} <= set(shown)
    assert not {"Any", "TYPE_CHECKING", "import_module"} & set(shown)
    for name in set(shown) - {"torch", "diffusers", "k_diffusion", "adaptive"}:  # these need further extras
        assert getattr(deis, name) is not None


def test_without_an_extra_the_library_says_which() -> None:
    code = """
import sys
for name in ("jax", "torch", "diffusers"):
    sys.modules[name] = None  # importing it raises ImportError
import deis
for name in ("get_sampler", "likelihood", "adaptive", "learn", "torch", "k_diffusion", "diffusers"):
    try:
        getattr(deis, name)
    except ModuleNotFoundError as error:
        print(name, "|", error)
print(deis.tables.build(deis.vp_linear()).nfe)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    said = dict(line.split(" | ") for line in done.stdout.splitlines()[:-1])
    needed = {"torch": "torch", "k_diffusion": "torch", "diffusers": "diffusers"}
    assert list(said) == ["get_sampler", "likelihood", "adaptive", "learn", "torch", "k_diffusion", "diffusers"]
    for name, sentence in said.items():
        extra = needed.get(name, "jax")
        ending = f"needs {extra}, which is not installed: pip install 'deis-sampler[{extra}]'"
        assert re.fullmatch(rf"deis\.\w+ {re.escape(ending)}", sentence), sentence
    assert done.stdout.splitlines()[-1] == "10"


def test_the_version_is_written_once() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", deis.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "deis.__version__"}
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == deis.__version__
    assert f"## {deis.__version__}" in (ROOT / "CHANGELOG.md").read_text()
