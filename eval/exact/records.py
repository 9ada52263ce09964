"""Rows of numbers, dicts from column to value, as files: CSV for programs, Markdown for people."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per row, with the columns of the first. Raises ValueError for no rows or a row of other columns."""
    if not rows:
        raise ValueError(f"there are no rows to write into {path}")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[Row], index: str, columns: str, value: str) -> str:
    """A table with a line for each `index` and a column for each `columns`, in order of appearance.

    A cell is the mean of `value` over the rows it stands for, or "-" where there are none.
    """
    lines, heads = ([*dict.fromkeys(row[key] for row in rows)] for key in (index, columns))
    cells: dict[tuple, list[float]] = {}
    for row in rows:
        cells.setdefault((row[index], row[columns]), []).append(row[value])
    text = [f"| {index} | {' | '.join(f'{columns} {head}' for head in heads)} |", "|---|" + "---:|" * len(heads)]
    for line in lines:
        found = [cells.get((line, head)) for head in heads]
        shown = ["-" if values is None else f"{np.mean(values):.3g}" for values in found]
        text.append(f"| {line:.4g} | " if isinstance(line, float) else f"| {line} | ")
        text[-1] += " | ".join(shown) + " |"
    return "\n".join(text) + "\n"
