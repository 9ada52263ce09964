"""FIDs in rows and columns, as Markdown and LaTeX, and whether their order is the paper's.

What was measured and what was published stand in grids of their own, as networks, images and features differ.
"""

from collections.abc import Iterable
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

from eval.paper.spec import Paper, Published
from formats.tables import latex_escaped, markdown_table

Record = dict[str, Any]  # what is known of one measured cell: the fields of its file in the run's folder


class Entry(NamedTuple):
    """One cell as it is printed, with so many decimals if it is a float.

    extra: network calls beyond the column's NFE. std: of several sets of seeds.
    """

    value: float | str
    extra: int = 0
    std: float | None = None
    decimals: int = 2

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
    return Entry(fmean(fids), one["nfe"] - one["nfe_asked"], stdev(fids) if len(fids) > 1 else None)


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


def markdown_orders(paper: Paper, grid: Grid) -> str:
    """One line for each of the paper's orderings and each of its NFE that is a column, in Markdown; "" if none.

    An order holds if every row is strictly better than the next; a line says "-" if a cell was not measured.
    """
    lines = []
    for ordering in paper.orderings:
        for nfe in (nfe for nfe in ordering.nfe if nfe in paper.nfe):
            entries = [grid.get(row, {}).get(nfe, Entry("-")) for row in ordering.best_first]
            values = [entry.value for entry in entries if not isinstance(entry.value, str)]
            holds, measured = "-", "not measured"
            if len(values) == len(entries):
                signs = ["<" if a < b else ">=" for a, b in pairwise(values)]
                holds = "**no**" if ">=" in signs else "yes"
                further = [f" {sign} {value:.2f}" for sign, value in zip(signs, values[1:], strict=True)]
                measured = "".join([f"{values[0]:.2f}", *further])
            lines.append([str(nfe), " < ".join(ordering.best_first), holds, measured])
    return markdown_table(["NFE", "the paper's order", "holds", "measured"], lines, align="rlll") if lines else ""
