"""A table of the paper as data, a file of conf/paper: rows and columns, what was published, the order of the rows."""

from dataclasses import dataclass, field
from typing import Any

from models.sampling.options import EpsOptions

TAKEN = ("sampler.nfe=", "sampler.ts=")  # what a row does not choose, as the columns do


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
    """One table or figure; every field is explained in conf/paper/cifar10_vp.yaml, dopri5.yaml or guidance.yaml."""

    name: str = "???"
    title: str = "???"
    checkpoint: str = "???"
    num_samples: int = 50_000
    first_seed: int = 0
    repeats: int = 1
    nfe: list[int] = field(default_factory=list)
    precision_recall: bool = False
    worse_network: str | None = None
    grid: list[str] = field(default_factory=list)
    methods: dict[str, list[str]] = field(default_factory=dict)
    analytic: list[str] = field(default_factory=list)
    adaptive: dict[str, AdaptiveRow] = field(default_factory=dict)
    orderings: list[Ordering] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)


def is_of_eps(override: str) -> bool:
    """Whether an override of a row is one of label, guidance, clipping, and not of the sampler."""
    return override.partition("=")[0] in EpsOptions.__dataclass_fields__


def validate(paper: Paper) -> None:
    """Raise ValueError for a table that contradicts itself, naming the key."""
    if not (paper.methods and paper.nfe) and not paper.adaptive:
        raise ValueError("a paper needs rows and columns: paper.methods and paper.nfe, or paper.adaptive")
    if paper.repeats < 1:
        raise ValueError(f"paper.repeats must be at least 1, got {paper.repeats}")
    if paper.first_seed < 0:
        raise ValueError(f"paper.first_seed must be 0 or more, got {paper.first_seed}")
    for row, overrides in paper.methods.items():
        if "guidance_network=None" in overrides:
            raise ValueError(f"row {row} needs a worse network: give paper.worse_network=RUN/checkpoints/00001000")
        for override in (*paper.grid, *overrides):
            of_sampler = override.startswith(("sampler=", "sampler.")) and not override.startswith(TAKEN)
            if not of_sampler and not is_of_eps(override):
                raise ValueError(
                    f"row {row} has {override!r}; a row chooses a sampler and its options, as in sampler=t_ab "
                    "sampler.order=3, or guidance, and the columns choose sampler.nfe, so that it has no sampler.ts"
                )
    named = [*paper.analytic, *(row for ordering in paper.orderings for row in ordering.best_first)]
    if unknown := [row for row in named if row not in paper.methods]:
        raise ValueError(f"there is no row {unknown[0]!r}; paper.methods has {', '.join(paper.methods)}")
    if both := set(paper.methods) & set(paper.adaptive):
        raise ValueError(f"row {min(both)} is in paper.methods and in paper.adaptive; rename one")
