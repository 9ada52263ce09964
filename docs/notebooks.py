"""Run a notebook and write it with what it shows as one Markdown file: text, code, results, pictures within the text.

    python -m docs.notebooks notebooks/NAME.py build/notebooks/NAME.md

Notebooks are Python files in jupytext's percent format: `# %% [markdown]` begins a cell of text, `# %%` one of code.
"""

import ast
import base64
import contextlib
import io
import re
import sys
import time
from pathlib import Path
from typing import Any


def cells(source: str) -> list[tuple[str, str]]:
    """("text" or "code", what stands in it) of every cell; comment marks before text are taken away."""
    found = []
    for mark, body in re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", source, re.MULTILINE | re.DOTALL):
        text = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if mark else body
        found.append(("text" if mark else "code", text.strip()))
    return found


def markdown(source: str, run: bool) -> str:
    """The notebook as Markdown. run: execute its code, and show what it prints, its last values and its figures."""
    names: dict[str, Any] = {"__name__": "notebook"}
    parts = []
    for kind, text in cells(source):
        parts.append(text if kind == "text" else f"```python\n{text}\n```")
        if kind == "code" and run:
            parts += outputs(text, names)
    return "\n\n".join(parts) + "\n"


def outputs(code: str, names: dict[str, Any]) -> list[str]:
    """Execute a cell as Jupyter would, and return what is shown below it, as Markdown."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = (
            eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if isinstance(last, ast.Expr) else None
        )
    text = printed.getvalue() + ("" if value is None else repr(value))
    parts = [f"```text\n{text.rstrip()}\n```"] if text.strip() else []
    for number in pyplot.get_fignums():
        png = io.BytesIO()
        pyplot.figure(number).savefig(png, dpi=110, bbox_inches="tight")
        parts.append(f"![figure](data:image/png;base64,{base64.b64encode(png.getvalue()).decode()})")
    pyplot.close("all")
    return parts


def main(notebook: Path, page: Path) -> None:
    """Run one notebook and write its page."""
    start = time.perf_counter()
    text = markdown(notebook.read_text(), run=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text)
    print(f"{page}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
