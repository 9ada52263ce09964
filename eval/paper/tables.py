"""A paper's table as Markdown, LaTeX and CSV."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eval.paper.spec import Entry, Grid, Paper, Record, Verdict, as_printed, by_nfe, by_tolerance, verdicts
from formats.tables import latex_escaped, latex_table, markdown_table, write_csv

CSV_COLUMNS = (
    "row", "sampler", "method", "nfe_asked", "tolerance", "nfe", "repeat", "seeds", "num_samples", "fid_name", "fid",
    "images_per_s", "network_s", "features_s", "dataset", "extractor", "checkpoint", "step", "options", "error",
    "published", "published_of", "published_source",
)  # fmt: skip


def paper_page(paper: Paper, records: Sequence[Record]) -> str:
    """The whole page: what was measured, whether the paper's orderings hold, and what was published."""
    fixed, adaptive = by_nfe(records), by_tolerance(records)
    parts = [f"# {paper.title}", about(paper, records)]
    if fixed:
        parts.append(markdown_grid(fixed))
    if adaptive:
        parts += ["DOPRI5 by tolerance:", markdown_grid(adaptive, "tolerance")]
    failed = {f"ERR: {record['row']}: {record['error']}": None for record in records if "error" in record}
    parts += list(failed)
    if found := verdicts(paper, fixed):
        parts += ["## Does the paper's order hold here?", markdown_verdicts(found)]
    for block in paper.published:
        parts += [f"## Published, for {block.of}", f"Source: {block.source}.", markdown_grid(as_printed(block))]
    return "\n\n".join(parts) + "\n"


def about(paper: Paper, records: Sequence[Record]) -> str:
    """A few sentences on the measured numbers: metric, images, network, seeds and grid."""
    one = next((record for record in records if "fid_name" in record), records[0])
    first, last = paper.first_seed, paper.first_seed + paper.repeats * one["num_samples"] - 1
    spread = f", mean and standard deviation of {paper.repeats} sets of seeds" if paper.repeats > 1 else ""
    grid = f" Options of all rows, unless a row says otherwise: `{' '.join(paper.grid)}`." if paper.grid else ""
    network = f"{one['checkpoint']}" + ("" if one["step"] is None else f" at step {one['step']}")
    return (
        f"Meant for {paper.checkpoint}. {one.get('fid_name', 'No FID')} against the training images of "
        f"{one['dataset']}, network {network}, {one['num_samples']:,} images a cell from seeds {first} to "
        f"{last}{spread}; lower is better. Bold: best of those within the NFE. +k: k more network calls were made."
        f"{grid}" + (f" Warning: {one['warning']}." if one.get("warning") else "")
    )


def markdown_grid(grid: Grid, what: str = "NFE") -> str:
    """Rows are samplers, columns the NFE (or the tolerance)."""
    columns = columns_of(grid)
    header = [f"sampler \\ {what}", *(f"{column:g}" for column in columns)]
    return markdown_table(header, grid_rows(grid, columns, in_markdown))


def markdown_verdicts(found: Sequence[Verdict]) -> str:
    """One line for each ordering and NFE, with the measured figures."""
    words = {True: "yes", False: "**no**", None: "-"}
    rows = [[str(v.nfe), v.expected, words[v.holds], v.measured] for v in found]
    return markdown_table(["NFE", "the paper's order", "holds", "measured"], rows, align="rlll")


def latex(paper: Paper, records: Sequence[Record]) -> str:
    """The measured table for a LaTeX document that loads booktabs; the published ones follow as tables of their own."""
    grids: list[tuple[str, Grid]] = [
        (about(paper, records), by_nfe(records)),
        ("DOPRI5 by tolerance.", by_tolerance(records)),
        *((f"Published, for {block.of}. Source: {block.source}.", as_printed(block)) for block in paper.published),
    ]
    tables = []
    for caption, grid in grids:
        if columns := columns_of(grid):
            rows = [[latex_escaped(row), *cells] for row, *cells in grid_rows(grid, columns, _in_latex)]
            tables.append(latex_table(latex_escaped(caption), ["", *(f"{column:g}" for column in columns)], rows))
    return "\n".join(tables)


def write_records(path: Path, paper: Paper, records: Sequence[Record]) -> None:
    """Write one CSV line per cell and set of seeds; what was published for the row and NFE has columns of its own."""
    printed = {
        (row, nfe): {"published": str(value), "published_of": block.of, "published_source": block.source}
        for block in paper.published
        for row, cells in block.fid.items()
        for nfe, value in cells.items()
    }
    rows = [
        record | {"options": json.dumps(record["options"])} | printed.get((record["row"], record["nfe_asked"]), {})
        for record in records
    ]
    write_csv(path, rows, CSV_COLUMNS)


def columns_of(grid: Grid) -> list[Any]:
    """The columns that any row of the grid has, in increasing order."""
    return sorted({column for cells in grid.values() for column in cells})


def grid_rows(
    grid: Grid, columns: Sequence[Any], shown: Callable[[Entry | None, float | None], str]
) -> list[list[str]]:
    """The rows of a table: a row's name, then for each column `shown(entry or None, best value of the column)`."""
    best = {column: _best(grid, column) for column in columns}
    return [[row, *(shown(cells.get(column), best[column]) for column in columns)] for row, cells in grid.items()]


def in_markdown(entry: Entry | None, best: float | None) -> str:
    """An entry in the paper's manner: best in bold, +k where k more network calls were made, - for None."""
    if entry is None:
        return "-"
    text = f"**{_text(entry)}**" if entry.value == best and entry.extra <= 0 else _text(entry)
    return f"{text} <sup>{entry.extra:+d}</sup>" if entry.extra else text


def _in_latex(entry: Entry | None, best: float | None) -> str:
    if entry is None:
        return "--"
    text = latex_escaped(_text(entry))
    if entry.value == best and entry.extra <= 0:
        text = rf"\textbf{{{text}}}"
    return rf"{text}\textsuperscript{{{entry.extra:+d}}}" if entry.extra else text


def _best(grid: Grid, column: Any) -> float | None:
    entries = [cells[column] for cells in grid.values() if column in cells]
    values = [entry.value for entry in entries if not isinstance(entry.value, str) and entry.extra <= 0]
    return min(values, default=None)


def _text(entry: Entry) -> str:
    if isinstance(entry.value, str):
        return entry.value
    number = f"{entry.value:.{entry.decimals}f}"
    return number if entry.std is None else f"{number} ± {entry.std:.{entry.decimals}f}"
