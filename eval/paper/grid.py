"""FIDs in rows and columns, as Markdown and LaTeX, and whether their order is the paper's.

What was measured and what was published stand in grids of their own, as networks, images and features differ.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from eval.metrics.jackknife import BLOCKS, standard_error
from eval.paper.spec import Paper, Published
from formats.tables import latex_escaped, markdown_table

Record = dict[str, Any]  # what is known of one measured cell: the fields of its file in the run's folder


class Entry(NamedTuple):
    """One cell as it is printed, with so many decimals if it is a float.

    extra: network calls beyond the column's NFE. std: of several sets of seeds. without: for each set of seeds its FID
    without each block of them in turn; empty if the number is exact.
    """

    value: float | str
    extra: int = 0
    std: float | None = None
    decimals: int = 2
    without: tuple[Sequence[float], ...] = ()

    def __str__(self) -> str:
        numbers = [number for number in (self.value, self.std) if number is not None]
        return " ± ".join(f"{n:.{self.decimals}f}" if isinstance(n, float) else str(n) for n in numbers)


Grid = dict[str, dict[Any, Entry]]  # row -> column -> entry


def measured_grid(records: Iterable[Record], column: str = "nfe_asked") -> Grid:
    """The records that have this column, "nfe_asked" of fixed-step solvers or "tolerance" of adaptive ones.

    Repeats become their mean and standard deviation; an adaptive solver's FID stands with the network calls it made.
    """
    gathered: dict[str, dict[Any, list[Record]]] = {}
    for record in records:
        if record[column] is not None:
            gathered.setdefault(record["row"], {}).setdefault(record[column], []).append(record)
    return {row: {key: _entry(repeats) for key, repeats in cells.items()} for row, cells in gathered.items()}


def _entry(repeats: list[Record]) -> Entry:
    if any("error" in record for record in repeats):
        return Entry("ERR")
    fids, one = [record["fid"] for record in repeats], repeats[0]
    if one["nfe_asked"] is None:
        return Entry(f"{fmean(fids):.2f} at {fmean(record['nfe'] for record in repeats):g} NFE")
    without = tuple(record["fid_without_block"] for record in repeats if "fid_without_block" in record)
    return Entry(fmean(fids), one["nfe"] - one["nfe_asked"], stdev(fids) if len(fids) > 1 else None, without=without)


def precision_grid(records: Iterable[Record]) -> Grid:
    """Precision and recall of the first set of seeds, as one entry, of the records that have them and an NFE."""
    grid: Grid = {}
    for record in records:
        if record["repeat"] == 0 and record["nfe_asked"] is not None and "precision" in record:
            entry = Entry(f"{record['precision']:.3f}, {record['recall']:.3f}")
            grid.setdefault(record["row"], {})[record["nfe_asked"]] = entry
    return grid


def mean_error(without: Sequence[Sequence[float]]) -> float:
    """The standard error of a mean over sets of seeds, from `Entry.without` or the differences of two; 0 if empty."""
    return math.hypot(*map(standard_error, without)) / max(len(without), 1)


def compared(a: Entry, b: Entry) -> str:
    """ "<", ">=" or "≈": how two rows stand to each other, "≈" within two standard errors of their difference.

    Both are measured on the same seeds, whose blocks are left out of both at a time.
    """
    pairs = zip(a.without, b.without, strict=True) if a.without and b.without else ()
    noise = mean_error([[x - y for x, y in zip(*pair, strict=True)] for pair in pairs])
    difference = float(a.value) - float(b.value)
    return "≈" if abs(difference) < 2 * noise else "<" if difference < 0 else ">="


def as_printed(published: Published) -> Grid:
    """The entries of what somebody published, no more precise than they were printed: whole numbers stay whole."""
    grid = {
        row: {nfe: Entry(*(value if isinstance(value, list) else [value])) for nfe, value in cells.items()}
        for row, cells in published.fid.items()
    }
    numbers = [entry.value for cells in grid.values() for entry in cells.values() if isinstance(entry.value, float)]
    decimals = max((len(str(number).partition(".")[2]) for number in numbers), default=0)
    return {row: {nfe: e._replace(decimals=decimals) for nfe, e in cells.items()} for row, cells in grid.items()}


def columns_of(grid: Grid) -> list[Any]:
    """The columns that any row of the grid has, in increasing order."""
    return sorted({column for cells in grid.values() for column in cells})


def grid_rows(grid: Grid, in_latex: bool = False) -> list[list[str]]:
    """A line for each row: its name, then an entry for each of `columns_of`, in Markdown or in LaTeX.

    The best entry of those within a column's NFE is bold, +k says that k more network calls were made.
    """
    bold, further, missing = ("**{}**", " <sup>{:+d}</sup>", "-")
    if in_latex:
        bold, further, missing = (r"\textbf{{{}}}", r"\textsuperscript{{{:+d}}}", "--")
    lines = [[row] for row in grid]
    for column in columns_of(grid):
        entries = [cells.get(column) for cells in grid.values()]
        within = [e.value for e in entries if e is not None and e.extra <= 0 and not isinstance(e.value, str)]
        for line, entry in zip(lines, entries, strict=True):
            if entry is None:
                line.append(missing)
                continue
            text = latex_escaped(str(entry)) if in_latex else str(entry)
            if entry.extra <= 0 and entry.value == min(within, default=None):
                text = bold.format(text)
            line.append(text + (further.format(entry.extra) if entry.extra else ""))
    return lines


def markdown_grid(grid: Grid, what: str = "NFE") -> str:
    """The grid in Markdown. what: its columns are, NFE or tolerance."""
    return markdown_table([f"sampler \\ {what}", *(f"{column:g}" for column in columns_of(grid))], grid_rows(grid))


VERDICTS = f"""Each FID stands with its standard error, by leaving out each of {BLOCKS} blocks of its seeds in turn.
Rows are compared on the same seeds; ≈ and "within noise": they differ by less than two standard errors of their
difference."""


def markdown_orders(paper: Paper, grid: Grid) -> str:
    """One line for each of the paper's orderings and each of its NFE that is a column, in Markdown; "" if none.

    An order holds (yes) if every row is better than the next, and does not (no) if one is worse, beyond noise; else it
    is within noise. A line says "-" if a cell was not measured.
    """
    lines, noisy = [], False
    for ordering in paper.orderings:
        for nfe in (nfe for nfe in ordering.nfe if nfe in paper.nfe):
            entries = [grid.get(row, {}).get(nfe, Entry("-")) for row in ordering.best_first]
            holds, measured = "-", "not measured"
            if not any(isinstance(entry.value, str) for entry in entries):
                signs = [compared(a, b) for a, b in pairwise(entries)]
                holds = "**no**" if ">=" in signs else "within noise" if "≈" in signs else "yes"
                shown = [str(e._replace(std=mean_error(e.without) if e.without else None)) for e in entries]
                further = [f" {sign} {text}" for sign, text in zip(signs, shown[1:], strict=True)]
                measured = "".join([shown[0], *further])
                noisy |= any(entry.without for entry in entries)
            lines.append([str(nfe), " < ".join(ordering.best_first), holds, measured])
    text = markdown_table(["NFE", "the paper's order", "holds", "measured"], lines, align="rlll") if lines else ""
    return f"{text}\n\n{VERDICTS}" if noisy else text
