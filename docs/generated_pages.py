"""The pages of the site that are made when it is built, from what is written elsewhere already; a hook of mkdocs.

The configuration is shown from conf/, whose comments explain it; the commands by their help; contributing and changes
are the files at the root. A notebook is shown as `docs.notebooks` ran it, or without results where it did not, and is
there as .ipynb too.
"""

import ast
from pathlib import Path
from typing import Any

import yaml

from docs.notebooks import markdown

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
PLAIN = (
    "models/convert.py",
    "models/publish.py",
    "eval/report/__main__.py",
)  # commands without a file in conf/; their docstring is the help


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those of docs/; called by mkdocs."""
    import jupytext
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    for source in NOTEBOOKS:
        book = jupytext.writes(jupytext.read(source, fmt="py:percent"), fmt="ipynb")
        files.append(File.generated(config, f"notebooks/{source.stem}.ipynb", content=book))
    return files


def pages() -> dict[str, str]:
    """The Markdown of every page that is made, by its path on the site."""
    return {
        "reference/commands.md": commands(),
        "reference/configuration.md": configuration(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
        "changes.md": (ROOT / "CHANGELOG.md").read_text(),
        **{f"notebooks/{path.stem}.md": notebook(path) for path in NOTEBOOKS},
    }


def notebook(path: Path) -> str:
    """The page of a notebook, with a link to the file for Jupyter and Colab."""
    ran = ROOT / "build" / "notebooks" / f"{path.stem}.md"
    text = ran.read_text() if ran.is_file() else markdown(path.read_text(), run=False)
    title, _, body = text.partition("\n")
    return f"{title}\n\n[This page as a notebook]({path.stem}.ipynb), for Jupyter or Colab.\n{body}"


def commands() -> str:
    """The help of every command, one section each."""
    text = ["# The commands", "What each prints for `--help`. [Configuration](configuration.md) has every option."]
    for path in sorted(CONF.glob("*.yaml")):
        if help_ := yaml.safe_load(path.read_text()).get("hydra", {}).get("help"):
            script = f"{path.stem}.py" if (ROOT / f"{path.stem}.py").is_file() else f"-m eval.{path.stem}"
            text.append(_help(script, help_["template"].replace("$APP_CONFIG_GROUPS", _groups())))
    for name in PLAIN:
        module = name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")
        text.append(_help(f"-m {module}", ast.get_docstring(ast.parse((ROOT / name).read_text())) or ""))
    return "\n\n".join(text) + "\n"


def _help(script: str, text: str) -> str:
    return f"## python {script}\n\n```text\n{text.strip()}\n```"


def _groups() -> str:
    """The choices of every group, a line each, as Hydra prints them."""
    folders = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    return "\n".join(f"{path.name}: {', '.join(sorted(file.stem for file in path.glob('*.yaml')))}" for path in folders)


def configuration() -> str:
    """Every file of conf/: what its first lines say, then its options as they are written, with their comments."""
    text = [
        "# Configuration",
        "Every option with its value and what it does, from the files in `conf/`. An option of a group is written "
        "`group.option=value`, a choice `group=name`; [the commands](commands.md) shows how.",
        "## Commands",
    ]
    files = sorted(CONF.glob("*.yaml"))
    text += [_file(path) for path in files if path.name != "common.yaml"]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        text += [f"## {folder.name}=", *(_file(path) for path in sorted(folder.glob("*.yaml")))]
    return "\n\n".join(text) + "\n"


def _file(path: Path) -> str:
    lines = path.read_text().partition("\nhydra:\n")[0].splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:count] if "@package" not in line)
    options = "\n".join(lines[count:]).strip()
    heading = f"### {path.relative_to(CONF).with_suffix('')}"
    return "\n\n".join([heading, _prose(header), f"```yaml\n{options}\n```" if options else ""]).strip()


def _prose(text: str) -> str:
    """The comment as Markdown: indented lines, which are commands and lists, stay as they are."""
    parts: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        indented = line.startswith("  ")
        if not parts or parts[-1][0] != indented:
            parts.append((indented, []))
        parts[-1][1].append(line[2:] if indented else line.replace("<", "&lt;"))
    blocks = ("\n".join(lines).strip() for _, lines in parts)
    fenced = (f"```text\n{block}\n```" if part[0] else block for part, block in zip(parts, blocks, strict=True))
    return "\n\n".join(fenced)
