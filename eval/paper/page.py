"""A paper's table as files: a page in Markdown, tables for LaTeX, records as CSV, and a plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.figures import fid_vs_nfe_plot, image_grid, precision_recall_plot, samples_picture
from eval.paper.grid import (
    Record,
    as_printed,
    columns_of,
    grid_rows,
    markdown_grid,
    markdown_orders,
    measured_grid,
    precision_grid,
)
from eval.paper.plan import Cell
from eval.paper.spec import Paper
from formats.files import read_npz, write_atomically
from formats.tables import latex_escaped, latex_table, write_csv

CSV_COLUMNS = (
    "row", "sampler", "method", "nfe_asked", "tolerance", "nfe", "repeat", "seeds", "num_samples", "fid_name", "fid",
    "fid_standard_error", "precision", "recall", "images_per_s", "network_s", "features_s", "dataset", "extractor",
    "checkpoint", "step", "options", "error", "published", "published_of", "published_source",
)  # fmt: skip


def write_results(paper: Paper, records: Sequence[Record], folder: Path) -> str:
    """Write results.csv, table.md, table.tex and the plots; returns the Markdown."""
    text = paper_page(paper, records)
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.tex", latex(paper, records))
    write_records(folder / "results.csv", paper, records)
    points = [
        record | {"sampler": record["row"], "nfe_asked": record["nfe_asked"] or record["nfe"]}
        for record in records
        if "fid" in record and record["repeat"] == 0
    ]
    for kind in ("png", "svg"):
        fid_vs_nfe_plot(folder / f"fid_vs_nfe.{kind}", points)
        precision_recall_plot(folder / f"precision_recall.{kind}", points)
    return text


def paper_page(paper: Paper, records: Sequence[Record]) -> str:
    """The whole page: what was measured, whether the paper's orderings hold, and what was published."""
    fixed, adaptive = measured_grid(records), measured_grid(records, "tolerance")
    parts = [f"# {paper.title}", about(paper, records)]
    if fixed:
        parts.append(markdown_grid(fixed))
    if shares := precision_grid(records):
        first = " of the first set of seeds" if paper.repeats > 1 else ""
        parts += [f"Precision, recall{first}:", markdown_grid(shares)]
    if adaptive:
        parts += ["DOPRI5 by tolerance:", markdown_grid(adaptive, "tolerance")]
    parts += dict.fromkeys(f"ERR: {record['row']}: {record['error']}" for record in records if "error" in record)
    if orders := markdown_orders(paper, fixed):
        parts += ["## Does the paper's order hold here?", orders]
    for block in paper.published:
        parts += [f"## Published, for {block.of}", f"Source: {block.source}.", markdown_grid(as_printed(block))]
    return "\n\n".join(parts) + "\n"


def about(paper: Paper, records: Sequence[Record]) -> str:
    """A few sentences on the measured numbers: metric, images, network, seeds and grid."""
    one = next((record for record in records if "fid_name" in record), records[0])
    last = paper.first_seed + paper.repeats * one["num_samples"] - 1
    spread = f", mean and standard deviation of {paper.repeats} sets of seeds" if paper.repeats > 1 else ""
    grid = f" Options of all rows, unless a row says otherwise: `{' '.join(paper.grid)}`." if paper.grid else ""
    network = f"{one['checkpoint']}" + ("" if one["step"] is None else f" at step {one['step']}")
    return (
        f"Meant for {paper.checkpoint}. {one.get('fid_name', 'No FID')} against the training images of "
        f"{one['dataset']}, network {network}, {one['num_samples']:,} images a cell from seeds {paper.first_seed} to "
        f"{last}{spread}; lower is better. Bold: best of those within the NFE. +k: k more network calls were made."
        f"{grid}" + (f" Warning: {one['warning']}." if one.get("warning") else "")
    )


def latex(paper: Paper, records: Sequence[Record]) -> str:
    """The measured table for a LaTeX document that loads booktabs; the published ones follow as tables of their own."""
    grids = [
        (about(paper, records), measured_grid(records)),
        ("DOPRI5 by tolerance.", measured_grid(records, "tolerance")),
        *((f"Published, for {block.of}. Source: {block.source}.", as_printed(block)) for block in paper.published),
    ]
    return "\n".join(
        latex_table(
            latex_escaped(caption),
            ["", *(f"{column:g}" for column in columns_of(grid))],
            [[latex_escaped(row), *cells] for row, *cells in grid_rows(grid, in_latex=True)],
        )
        for caption, grid in grids
        if grid
    )


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


def logged_rows(folder: Path, cells: Mapping[str, Cell], records: Sequence[Record]) -> list[Record]:
    """The cells as rows of a log's table, each with its first images. folder: of the cells."""
    keys = ("row", "nfe_asked", "tolerance", "nfe", "repeat", "seeds", "fid", "fid_standard_error", "images_per_s")
    files = [folder / f"{name}.npz" for name in cells]
    return [
        {key: record.get(key) for key in (*keys, "error")}
        | {"samples": image_grid(read_npz(file)["images"]) if file.is_file() else None}
        for record, file in zip(records, files, strict=True)
    ]


def show_samples(folder: Path, cells: Mapping[str, Cell], path: Path) -> None:
    """Draw the first images of every finished cell into one picture, the same noise in each. folder: of the cells."""
    images = {
        (cell.row, cell.column): read_npz(folder / f"{name}.npz")["images"]
        for name, cell in cells.items()
        if cell.repeat == 0 and (folder / f"{name}.json").is_file()
    }
    if images:
        samples_picture(path, images)
