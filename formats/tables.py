"""Tables of text: Markdown for people, LaTeX for papers, CSV for programs."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from formats.files import write_atomically

_RULES = {"l": "---", "r": "---:"}
_LATEX_CHARACTERS = str.maketrans(
    {"±": r"$\pm$", "<": "$<$", ">": "$>$", "^": r"\^{}", "~": r"\~{}", "\\": r"\textbackslash{}", "`": ""}
    | {character: f"\\{character}" for character in "&%$#_{}"}
)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str | None = None) -> str:
    """A table in Markdown, without a newline at the end.

    align: "l" or "r" for each column; by default the first column is aligned left and all others right.
    """
    align = align or "l" + "r" * (len(header) - 1)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(_RULES[side] for side in align)}|", *lines[1:]])


def latex_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A floating table for a LaTeX document that loads booktabs; the cells must be escaped already."""
    lines = [" & ".join(cells) + r" \\" for cells in (header, *rows)]
    return "\n".join(
        [
            *(r"\begin{table}", rf"\caption{{{caption}}}", r"\centering"),
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            *(r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"),
            *(r"\end{tabular}", r"\end{table}", ""),
        ]
    )


def latex_escaped(text: str) -> str:
    """The text with everything that LaTeX would take for a command escaped."""
    return text.translate(_LATEX_CHARACTERS)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write one line for each row, empty where a row lacks a column; keys that are no column are left out.

    columns: by default the keys of the first row. Raises ValueError if there is neither.
    """
    if columns is None and not rows:
        raise ValueError(f"there are no rows to write into {path}")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns or rows[0]), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
