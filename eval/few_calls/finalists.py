"""The finalists of a choice, which are near the fine solution each by its own method and grid, measured by FID."""

import math
from collections.abc import Mapping, Sequence

from deis.learn import Choice
from eval.paper.compute import Setup, measure_cells
from eval.paper.grid import Record, compared, measured_grid
from eval.paper.plan import Cell, digest_of
from models.sampling.options import EpsOptions, given
from runs.errors import NonFiniteError
from runs.log import Log


def grid_of(choice: Choice) -> str:
    """The grid of an untrained table, as "t 2" for the phase t of order 2."""
    phase, order = choice.table.about["ts_phase"], choice.table.about.get("ts_order")
    return phase if order is None else f"{phase} {float(order):g}"


def spread(ranked: Sequence[Choice], count: int) -> list[Choice]:
    """At most `count` of the choices, nearest first: the nearest of each method on each grid."""
    best: dict[tuple[str, str], Choice] = {}
    for choice in ranked:
        best.setdefault((choice.table.about["method"], grid_of(choice)), choice)
    return list(best.values())[:count]


def measure(
    setup: Setup, finalists: Mapping[int, Sequence[Choice]], num_samples: int, eps: EpsOptions
) -> dict[Choice, Record]:
    """What `measure_cells` records of every number of calls' finalists, over the seeds 0, 1, ..., num_samples - 1.

    A record also has its "fid_rank" among those of as many calls, and says whether it is "tied" with the first: not
    worse beyond two standard errors of their difference.
    Raises NonFiniteError if no finalist's samples are finite; Stopped on a signal, and then what is measured stays in
    the setup's folder.
    """
    cells = {choice: _cell(choice, nfe, num_samples, eps) for nfe, choices in finalists.items() for choice in choices}
    files = {cell.file_name(setup.identity_of(cell)): cell for cell in cells.values()}
    records = dict(zip(cells, measure_cells(setup, files, Log(None)), strict=True))
    for nfe, choices in finalists.items():
        ordered = sorted((records[choice] for choice in choices), key=lambda record: record.get("fid", math.inf))
        if "error" in ordered[0]:
            raise NonFiniteError(f"{ordered[0]['error']}, of all {len(choices)} finalists")
        entries = [measured_grid([record])[record["row"]][nfe] for record in ordered]
        for rank, (record, entry) in enumerate(zip(ordered, entries, strict=True), 1):
            record.update(fid_rank=rank, tied="fid" in record and compared(entries[0], entry) != "<")
    return records


def _cell(choice: Choice, nfe: int, num_samples: int, eps: EpsOptions) -> Cell:
    table, row = choice.table, f"{choice.table.name}, {grid_of(choice)}"
    options = {**table.about, "table": digest_of(table)} | given(eps)
    return Cell(row, 0, range(num_samples), table, nfe, options, eps)
