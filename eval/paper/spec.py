"""A table of the paper as data: its rows and columns, what was published, and which order the rows should have.

A file of conf/paper is a `Paper`. What was measured and what was published become grids of entries, which
`eval.paper.tables` writes; they stay apart, since they are of different networks, images and features.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, stdev
from typing import Any, NamedTuple

Record = dict[str, Any]  # what is known of one measured cell: the fields of its file in the run's folder


@dataclass
class Published:
    """FIDs that somebody printed. fid: row -> NFE -> a number, [number, further NFE used], or words."""

    of: str = "???"
    source: str = "???"
    fid: dict[str, dict[int, Any]] = field(default_factory=dict)


@dataclass
class Ordering:
    """Rows that the paper puts in this order, best first, at these NFE."""

    best_first: list[str] = field(default_factory=list)
    nfe: list[int] = field(default_factory=list)


@dataclass
class AdaptiveRow:
    """DOPRI5 with error control, `deis.adaptive`: one cell for each tolerance (rtol and atol alike)."""

    variable: str = "rho"
    tolerances: list[float] = field(default_factory=list)
    t_0: float | None = None


@dataclass
class Paper:
    """One table or figure; every field is explained in conf/paper/cifar10_vp.yaml, `adaptive` in dopri5.yaml."""

    name: str = "???"
    title: str = "???"
    checkpoint: str = "???"
    num_samples: int = 50_000
    first_seed: int = 0
    repeats: int = 1
    nfe: list[int] = field(default_factory=list)
    grid: list[str] = field(default_factory=list)
    methods: dict[str, list[str]] = field(default_factory=dict)
    analytic: list[str] = field(default_factory=list)
    adaptive: dict[str, AdaptiveRow] = field(default_factory=dict)
    orderings: list[Ordering] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)


def validate(paper: Paper) -> None:
    """Raise ValueError for a table that contradicts itself, naming the key."""
    if not (paper.methods and paper.nfe) and not paper.adaptive:
        raise ValueError("a paper needs rows and columns: paper.methods and paper.nfe, or paper.adaptive")
    if paper.repeats < 1:
        raise ValueError(f"paper.repeats must be at least 1, got {paper.repeats}")
    if paper.first_seed < 0:
        raise ValueError(f"paper.first_seed must be 0 or more, got {paper.first_seed}")
    for row, overrides in paper.methods.items():
        for override in (*paper.grid, *overrides):
            if not override.startswith(("sampler=", "sampler.")) or override.startswith("sampler.nfe="):
                raise ValueError(
                    f"row {row} has {override!r}; a row chooses a sampler and its options, as in sampler=t_ab "
                    "sampler.order=3, and the columns choose sampler.nfe"
                )
    named = [*paper.analytic, *(row for ordering in paper.orderings for row in ordering.best_first)]
    if unknown := [row for row in named if row not in paper.methods]:
        raise ValueError(f"there is no row {unknown[0]!r}; paper.methods has {', '.join(paper.methods)}")
    if both := set(paper.methods) & set(paper.adaptive):
        raise ValueError(f"row {min(both)} is in paper.methods and in paper.adaptive; rename one")


class Entry(NamedTuple):
    """One cell as it is printed, with so many decimals if it is a number.

    extra: network calls beyond the column's NFE. std: of several sets of seeds.
    """

    value: float | str
    extra: int = 0
    std: float | None = None
    decimals: int = 2


Grid = Mapping[str, Mapping[Any, Entry]]  # row -> column -> entry


def by_nfe(records: Iterable[Record]) -> dict[str, dict[int, Entry]]:
    """The cells of fixed-step solvers; repeats become their mean and standard deviation."""
    return _grid((record["row"], record["nfe_asked"], record) for record in records if record["nfe_asked"] is not None)


def by_tolerance(records: Iterable[Record]) -> dict[str, dict[float, Entry]]:
    """The cells of adaptive solvers: FID and the network calls that were made."""
    adaptive = [record for record in records if record["tolerance"] is not None]
    entries = _grid((record["row"], record["tolerance"], record) for record in adaptive)
    calls = {(record["row"], record["tolerance"]): record.get("nfe") for record in adaptive}

    def worded(row: str, tolerance: float, entry: Entry) -> Entry:
        value = entry.value if isinstance(entry.value, str) else f"{entry.value:.2f} at {calls[row, tolerance]:g} NFE"
        return Entry(value)

    return {row: {tol: worded(row, tol, entry) for tol, entry in cells.items()} for row, cells in entries.items()}


def _grid(cells: Iterable[tuple[str, Any, Record]]) -> dict[str, dict[Any, Entry]]:
    gathered: dict[str, dict[Any, list[Record]]] = {}
    for row, column, record in cells:
        gathered.setdefault(row, {}).setdefault(column, []).append(record)
    return {row: {column: _entry(same) for column, same in cells.items()} for row, cells in gathered.items()}


def _entry(repeats: Sequence[Record]) -> Entry:
    if any("error" in record for record in repeats):
        return Entry("ERR")
    values, extra = [record["fid"] for record in repeats], repeats[0]["nfe"] - (repeats[0]["nfe_asked"] or 0)
    return Entry(mean(values), extra, stdev(values) if len(values) > 1 else None)


def as_printed(published: Published) -> dict[str, dict[int, Entry]]:
    """The entries of what somebody published, no more precise than they were printed: whole numbers stay whole."""
    cells = {row: {nfe: _with_extra(value) for nfe, value in cells.items()} for row, cells in published.fid.items()}
    numbers = [value for row in cells.values() for value, _ in row.values() if isinstance(value, float)]
    decimals = max((len(str(number).partition(".")[2]) for number in numbers), default=0)
    return {
        row: {
            nfe: Entry(value, extra, decimals=decimals if isinstance(value, float) else 0)
            for nfe, (value, extra) in values.items()
        }
        for row, values in cells.items()
    }


def _with_extra(value: Any) -> tuple[float | str, int]:
    return (value[0], value[1]) if isinstance(value, list) else (value, 0)


class Verdict(NamedTuple):
    """Whether the paper's order of some rows holds at one NFE. holds: None where a cell was not measured."""

    nfe: int
    expected: str
    holds: bool | None
    measured: str


def verdicts(paper: Paper, grid: Grid) -> list[Verdict]:
    """One for each ordering and each of its NFE that is a column.

    An order holds if every row is strictly better than the next.
    """
    found = []
    for ordering in paper.orderings:
        for nfe in (nfe for nfe in ordering.nfe if nfe in paper.nfe):
            entries = [grid.get(row, {}).get(nfe) for row in ordering.best_first]
            values = [entry.value for entry in entries if entry is not None and not isinstance(entry.value, str)]
            expected = " < ".join(ordering.best_first)
            if len(values) < len(entries):
                found.append(Verdict(nfe, expected, None, "not measured"))
                continue
            signs = ["<" if a < b else ">=" for a, b in pairwise(values)]
            text = "".join(f" {sign} {value:.2f}" for sign, value in zip(signs, values[1:], strict=True))
            found.append(Verdict(nfe, expected, ">=" not in signs, f"{values[0]:.2f}{text}"))
    return found
