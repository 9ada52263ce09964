"""The cells of a paper's table: which solver, from which seeds. All of it is checked before anything is computed."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import hydra
import numpy as np
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import deis
from eval.paper.spec import AdaptiveRow, Paper, is_of_eps
from models.sampling.build import Options, build_table, check_sampler, end_sde, nodes_of
from models.sampling.options import EpsOptions, given, values_of


@dataclass(frozen=True)
class Analytic:
    """Analytic-DDIM: its table needs a statistic of the network first."""

    sde: deis.SDE
    ts: np.ndarray
    eta: float
    denoise: bool
    is_stochastic: ClassVar = True

    @property
    def nfe(self) -> int:
        """Network calls."""
        return len(self.ts) - 1 + self.denoise

    def table(self, eps_norm: np.ndarray) -> deis.Table:
        """Its table for images in [-1, 1]. eps_norm: what `deis.tables.estimate_eps_norm` gives at `ts`."""
        return deis.tables.analytic_ddim(self.sde, self.ts, eps_norm, self.eta, half_range=1.0, denoise=self.denoise)


@dataclass(frozen=True)
class Adaptive:
    """DOPRI5: `deis.adaptive` at one tolerance. It says how many network calls it made when it has made them."""

    sde: deis.SDE
    variable: str
    tolerance: float
    is_stochastic: ClassVar = False
    nfe: ClassVar = 0


Solver = deis.Table | Analytic | Adaptive


@dataclass(frozen=True)
class Cell:
    """One number of a table. options: everything that the result depends on but network, images and features."""

    row: str
    repeat: int
    seeds: range
    solver: Solver
    nfe_asked: int | None
    options: Options
    eps: EpsOptions = field(default_factory=EpsOptions)

    def __str__(self) -> str:
        again = f", set {self.repeat + 1}" if self.repeat else ""
        return f"{self.row} at {self.column}{again}"

    @property
    def column(self) -> str:
        """What stands over the cell's column."""
        return f"tolerance {self.tolerance:g}" if self.nfe_asked is None else f"NFE {self.nfe_asked}"

    @property
    def tolerance(self) -> float | None:
        """The tolerance of an adaptive solver."""
        return self.solver.tolerance if isinstance(self.solver, Adaptive) else None

    def file_name(self, surroundings: dict[str, Any]) -> str:
        """The name of its record, another one for other options or surroundings (network, images, features)."""
        identity = json.dumps([self.row, self.options, str(self.seeds), surroundings], sort_keys=True)
        words = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{self.row} {self.column} {self.repeat}")
        return f"{words}_{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def plan_cells(paper: Paper, sde: deis.SDE, num_samples: int, eps: EpsOptions | None = None) -> list[Cell]:
    """All cells of the table, row by row; adaptive ones last, as nobody knows how long they take.

    eps: options of all rows, before the row's own.
    Raises ValueError, naming the row, for what no sampler allows. To be called within a Hydra job.
    """
    found: list[Cell] = []
    for row in (*paper.methods, *paper.adaptive):
        try:
            solvers = _adaptive(paper.adaptive[row], sde) if row in paper.adaptive else _fixed(paper, row, sde)
            options = _eps([*paper.grid, *paper.methods.get(row, ())], eps or EpsOptions())
        except ValueError as error:
            raise ValueError(f"row {row} of the paper: {error}") from error
        for solver, nfe, about in solvers:
            for repeat in range(paper.repeats):
                start = paper.first_seed + repeat * num_samples
                seeds = range(start, start + num_samples)
                found.append(Cell(row, repeat, seeds, solver, nfe, about | given(options), options))
    return found


def shared_out(cells: Mapping[str, Cell], process: int, num_processes: int) -> dict[str, Cell]:
    """The cells of one process, so that all have about as many network calls to make; the dearest cells come first.

    An adaptive solver is taken for the dearest, as nobody knows its calls. One process keeps the order of the cells.
    """
    if num_processes == 1:
        return dict(cells)
    calls = {name: len(cell.seeds) * (cell.solver.nfe or 1000) for name, cell in cells.items()}
    loads, mine = [0] * num_processes, {}
    for name in sorted(cells, key=lambda name: -calls[name]):
        least = loads.index(min(loads))
        loads[least] += calls[name]
        if least == process:
            mine[name] = cells[name]
    return mine


def _fixed(paper: Paper, row: str, sde: deis.SDE) -> list[tuple[Solver, int, Options]]:
    """(solver, NFE, options) for every column; by a digest in the options a corrected solver is measured again."""
    sampler = _sampler([*paper.grid, *paper.methods[row]])
    found: list[tuple[Solver, int, Options]] = []
    for nfe in paper.nfe:
        options = sampler | {"nfe": nfe}
        solver = _analytic(options, sde) if row in paper.analytic else build_table(options, sde)
        table = solver if isinstance(solver, deis.Table) else solver.table(np.ones(len(solver.ts)))
        found.append((solver, nfe, options | {"sampler": table.name, "table": digest_of(table)}))
    return found


def digest_of(table: deis.Table) -> str:
    """A digest of the table's numbers."""
    return hashlib.sha256(b"".join(getattr(table, name).tobytes() for name in table.shapes())).hexdigest()[:16]


def _sampler(overrides: Sequence[str]) -> Options:
    """The options of the `sampler` group that the overrides choose, as on sample.py's command line."""
    chosen = [f"+{text}" if text.startswith("sampler=") else text for text in overrides if not is_of_eps(text)]
    try:
        return check_sampler(OmegaConf.to_container(hydra.compose(overrides=chosen).sampler))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error


def _eps(overrides: Sequence[str], base: EpsOptions) -> EpsOptions:
    """The options of the overrides that are of class, guidance and clipping, over those of all rows."""
    chosen = OmegaConf.from_dotlist([text for text in overrides if is_of_eps(text)])
    try:
        return OmegaConf.to_object(OmegaConf.merge(EpsOptions(**values_of(base)), chosen))  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ValueError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error


def _analytic(sampler: Options, sde: deis.SDE) -> Analytic:
    if sampler["method"] != "ddim_eta":
        raise ValueError(f"a row of paper.analytic has the mean of sampler=ddim_eta, got method {sampler['method']}")
    sde = end_sde(sampler, sde)
    ts = nodes_of(sampler, sde, sampler["nfe"] - sampler["denoise"])
    return Analytic(sde, ts, sampler["eta"], sampler["denoise"])


def _adaptive(row: AdaptiveRow, sde: deis.SDE) -> list[tuple[Solver, None, Options]]:
    """(solver, no NFE, options) for every tolerance."""
    if row.variable not in ("rho", "t"):
        raise ValueError(f"variable must be rho or t, got {row.variable!r}")
    if not all(tolerance > 0 for tolerance in row.tolerances):
        raise ValueError(f"tolerances must be positive, got {min(row.tolerances):g}")
    sde = sde if row.t_0 is None else replace(sde, t_0=row.t_0)
    shared = {"variable": row.variable, "t_0": row.t_0}
    return [(Adaptive(sde, row.variable, each), None, shared | {"tolerance": each}) for each in row.tolerances]
