"""The notebooks run, and show what Jupyter would show."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.notebooks import cells, main, markdown, outputs

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))
SOURCE = """# %% [markdown]
# # Title
#
# Text.

# %%
x = 2
print("two")
x + 1

# %%
# a comment
y = x
"""


def test_cells_and_what_they_show() -> None:
    assert cells(SOURCE) == [
        ("text", "# Title\n\nText."),
        ("code", 'x = 2\nprint("two")\nx + 1'),
        ("code", "# a comment\ny = x"),
    ]
    shown = '# Title\n\nText.\n\n```python\nx = 2\nprint("two")\nx + 1\n```\n\n{}```python\n# a comment\ny = x\n```\n'
    assert markdown(SOURCE, run=True) == shown.format("```text\ntwo\n3\n```\n\n")
    assert markdown(SOURCE, run=False) == shown.format("")


def test_a_figure_is_shown_within_the_text() -> None:
    (picture,) = outputs("import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])", {})
    assert picture.startswith("![figure](data:image/png;base64,iVBOR")
    assert outputs("y = 1", {}) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    if "import torch" in path.read_text() and not (find_spec("torch") and find_spec("diffusers")):
        pytest.skip("needs torch and diffusers")
    main(path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# ")
    assert "```text\n" in page  # it printed something
