"""The site: every page is reached and built without a warning, and every command on it has options that exist."""

import dataclasses
import re
import shlex
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from jobs import composed

import deis
from deis import learn, tables
from docs import generated_pages
from runs import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WRITTEN = sorted(path for path in DOCS.rglob("*.md") if path.name != "main_10000.md")  # this one is part of another
SITE_PYTHON = ROOT / ".venv-docs" / "bin" / "python"


def leaves(nav: Any) -> list[str]:
    """The pages that a navigation of mkdocs names."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in leaves(part)]


def test_the_navigation_has_every_page() -> None:
    named = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = {str(path.relative_to(DOCS)) for path in WRITTEN} | generated_pages.pages().keys()
    assert sorted(named) == sorted(pages)


def test_the_library_is_documented() -> None:
    """The modules that the public names are from."""
    text = (DOCS / "reference" / "deis.md").read_text()
    for room in (deis, tables, learn):
        for name in room.__all__:
            module = getattr(getattr(room, name), "__module__", "deis.tables")
            assert re.search(f"^::: {module}$", text, re.MULTILINE), f"{name} is of {module}, which the page lacks"


def test_the_configuration_is_that_of_the_files() -> None:
    page = generated_pages.configuration()
    for path in (ROOT / "conf").rglob("*.yaml"):
        if "hydra" not in path.parts and path.name != "common.yaml":
            name = path.relative_to(ROOT / "conf").with_suffix("")
            section = page.split(f"\n### {name}\n")[1].split("\n##")[0]
            shown = yaml.safe_load(section.partition("```yaml\n")[2].partition("```")[0])
            assert shown == {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "hydra"}
    assert "[n, h, w, c]" in page


def test_the_help_of_every_command_is_there() -> None:
    headings = re.findall("^## python (.*)$", generated_pages.commands(), re.MULTILINE)
    files = [
        *ROOT.glob("*.py"),
        *(ROOT / "eval").glob("*.py"),
        *(ROOT / "eval").glob("*/__main__.py"),
        *(ROOT / "models").glob("*.py"),
    ]
    commands = [path for path in files if 'if __name__ == "__main__":' in path.read_text()]
    assert len(headings) == len(commands)


@pytest.mark.slow
def test_commands_on_the_pages_have_options_that_exist() -> None:
    count = 0
    for path in (*WRITTEN, ROOT / "README.md"):
        for config, words in commands(path.read_text()):
            register(config)
            try:
                composed(config, *words)
            except Exception as error:
                raise AssertionError(f"{path.name}: {config} {' '.join(words)}: {error}") from error
            count += 1
    assert count > 40


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(configuration, overrides) of every command in a page's blocks; of a sweep the first choices, and no plugins."""
    found = {}
    for block in re.findall(r"^```(?:bash)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if match := re.match(r"python (?:-m eval\.|)(\w+)(?:\.py)?(?= |$)(.*)", line):
                words = [
                    word
                    for word in shlex.split(match[2], comments=True)
                    if re.match(r"(?!hydra|hparams_search)[\w.+]+=", word)
                ]
                if (ROOT / "conf" / f"{match[1]}.yaml").is_file():
                    found[line] = match[1], [first_choice(word) for word in words]
    return list(found.values())


def first_choice(word: str) -> str:
    override = OverridesParser.create().parse_override(word)
    return (
        f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"
        if override.is_sweep_override()
        else word
    )


def register(config: str) -> None:
    module = import_module(config if (ROOT / f"{config}.py").is_file() else f"eval.{config}")
    jobs = [job for job in vars(module).values() if dataclasses.is_dataclass(job) and job.__module__ == module.__name__]
    cli.register(config, next(job for job in jobs if isinstance(job, type) and job.__name__.endswith("Job")))


@pytest.mark.slow
@pytest.mark.skipif(not SITE_PYTHON.is_file(), reason="make docs sets up what builds the site")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [str(SITE_PYTHON), "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "deis" / "index.html").read_text()
    assert "Raises ValueError" in page
    for asset in re.findall(r'(?:src|rel="stylesheet" href)="([^"]+)"', page):
        assert not asset.startswith(("http:", "https:", "//")), f"the page asks {asset} for something"
