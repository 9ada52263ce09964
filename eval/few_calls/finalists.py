"""The finalists of a choice: solvers that are near the fine solution, each by its own method and grid, and by FID."""

import math
from collections.abc import Mapping, Sequence

from deis.learn import Choice
from eval.paper.compute import Setup, measure_cells
from eval.paper.grid import Record, compared, measured_grid
from eval.paper.plan import Cell, digest_of
from models.sampling.options import EpsOptions, given
from runs.errors import NonFiniteError
from runs.log import Log

WIDER = 4  # times as many as the finalists are measured first, on one in so many of the images


def spread(ranked: Sequence[Choice], count: int) -> list[Choice]:
    """At most `count` of the choices, which are ordered by error: the nearest on every grid, then the next, and so on.

    Of each method on each grid only the nearest counts, since the others are near-twins.
    """
    best: dict[str, dict[str, Choice]] = {}
    for choice in ranked:
        best.setdefault(grid_of(choice), {}).setdefault(choice.table.about["method"], choice)
    rounds = [(place, choice) for on_grid in best.values() for place, choice in enumerate(on_grid.values())]
    return [choice for _, choice in sorted(rounds, key=lambda pair: (pair[0], pair[1].error))][:count]


def grid_of(choice: Choice) -> str:
    """The grid of an untrained table, as "t 2" for the phase t of order 2."""
    phase, order = choice.table.about["ts_phase"], choice.table.about.get("ts_order")
    return phase if order is None else f"{phase} {float(order):g}"


def measure(
    setup: Setup, ranked: Mapping[int, Sequence[Choice]], count: int, num_samples: int, eps: EpsOptions
) -> dict[Choice, Record]:
    """What `measure_cells` records of `count` finalists for every number of calls, over the seeds from 0 on.

    ranked: all choices of every number of calls. WIDER times as many as the finalists, a `spread`, are measured on a
    quarter of the seeds, and those of the least FID are the finalists.
    A record also has its "fid_rank" among those of as many calls, and says whether it is "tied" with the first: behind
    it by less than two standard errors of their difference.
    Raises NonFiniteError if no finalist's samples are finite; Stopped on a signal, and then what is measured stays in
    the setup's folder.
    """
    left = {nfe: spread(choices, WIDER * count) for nfe, choices in ranked.items()}
    for number in (num_samples // WIDER, num_samples):
        cells = {one: _cell(one, nfe, number, eps) for nfe, choices in left.items() for one in choices}
        files = {cell.file_name(setup.identity_of(cell)): cell for cell in cells.values()}
        records = dict(zip(cells, measure_cells(setup, files, Log(None)), strict=True))
        left = {
            nfe: sorted(choices, key=lambda one: records[one].get("fid", math.inf))[:count]
            for nfe, choices in left.items()
        }
    for nfe, choices in left.items():
        first, *_ = ordered = [records[choice] for choice in choices]
        if "error" in first:
            raise NonFiniteError(f"{first['error']}, of all {len(choices)} finalists")
        entries = [measured_grid([record])[record["row"]][nfe] for record in ordered]
        for rank, (record, entry) in enumerate(zip(ordered, entries, strict=True), 1):
            record.update(fid_rank=rank, tied=rank > 1 and "fid" in record and compared(entries[0], entry) != "<")
    return records


def _cell(choice: Choice, nfe: int, num_samples: int, eps: EpsOptions) -> Cell:
    table, row = choice.table, f"{choice.table.name}, {grid_of(choice)}"
    options = {**table.about, "table": digest_of(table)} | given(eps)
    return Cell(row, 0, range(num_samples), table, nfe, options, eps)
