"""The cells of a paper's table: which solver, from which seeds. All of it is checked before anything is computed."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import hydra
import numpy as np
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import deis
from eval.paper.spec import Paper
from models.sampling.build import build_table, check_sampler, end_sde
from models.sampling.options import Options


class Analytic(NamedTuple):
    """Analytic-DDIM: its table needs a statistic of the network first."""

    sde: deis.SDE
    ts: np.ndarray
    eta: float
    denoise: bool

    def table(self, eps_norm: np.ndarray) -> deis.Table:
        """Its table for images in [-1, 1]. eps_norm: what `deis.tables.estimate_eps_norm` gives at `ts`."""
        return deis.tables.analytic_ddim(self.sde, self.ts, eps_norm, self.eta, half_range=1.0, denoise=self.denoise)


class Adaptive(NamedTuple):
    """DOPRI5: `deis.adaptive` at one tolerance."""

    sde: deis.SDE
    variable: str
    tolerance: float


@dataclass(frozen=True)
class Cell:
    """One number of a table. options: everything that the result depends on but network, images and features."""

    row: str
    method: str
    repeat: int
    seeds: range
    solver: deis.Table | Analytic | Adaptive
    nfe_asked: int | None
    options: dict[str, Any]

    @property
    def tolerance(self) -> float | None:
        return self.solver.tolerance if isinstance(self.solver, Adaptive) else None

    def __str__(self) -> str:
        again = f", set {self.repeat + 1}" if self.repeat else ""
        return f"{self.row} at {self.column}{again}"

    @property
    def column(self) -> str:
        return f"tolerance {self.tolerance:g}" if self.nfe_asked is None else f"NFE {self.nfe_asked}"

    @property
    def nfe(self) -> int:
        """Network calls; 0 for an adaptive solver, which says how many it made when it has made them."""
        match self.solver:
            case Adaptive():
                return 0
            case Analytic(ts=ts, denoise=denoise):
                return len(ts) - 1 + denoise
            case table:
                return table.nfe

    @property
    def is_stochastic(self) -> bool:
        return isinstance(self.solver, Analytic) or (isinstance(self.solver, deis.Table) and self.solver.is_stochastic)

    def file_name(self, surroundings: dict[str, Any]) -> str:
        """The name of its record, another one for other options or surroundings (network, images, features)."""
        identity = json.dumps([self.row, self.options, str(self.seeds), surroundings], sort_keys=True)
        words = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{self.row} {self.column} {self.repeat}")
        return f"{words}_{hashlib.sha256(identity.encode()).hexdigest()[:10]}"


def plan_cells(paper: Paper, sde: deis.SDE, num_samples: int) -> list[Cell]:
    """All cells of the table, row by row; adaptive ones last, as nobody knows how long they take.

    Raises ValueError, naming the row, for what no sampler allows. To be called within a Hydra job.
    """
    found: list[Cell] = []
    for row, overrides in paper.methods.items():
        with _named(row):
            sampler = _sampler([*paper.grid, *overrides])
            for nfe in paper.nfe:
                at_nfe = sampler | {"nfe": nfe}
                solver = _analytic(at_nfe, sde) if row in paper.analytic else build_table(at_nfe, sde)
                found += _repeated(paper, num_samples, row, at_nfe["method"], solver, nfe, _options(at_nfe, solver))
    for row, adaptive in paper.adaptive.items():
        with _named(row):
            ends = sde if adaptive.t_0 is None else replace(sde, t_0=adaptive.t_0)
            if adaptive.variable not in ("rho", "t"):
                raise ValueError(f"variable must be rho or t, got {adaptive.variable!r}")
            for tolerance in adaptive.tolerances:
                if not tolerance > 0:
                    raise ValueError(f"tolerances must be positive, got {tolerance:g}")
                dopri5 = Adaptive(ends, adaptive.variable, tolerance)
                options = {"variable": adaptive.variable, "tolerance": tolerance, "t_0": adaptive.t_0}
                found += _repeated(paper, num_samples, row, "dopri5", dopri5, None, options)
    return found


def _repeated(
    paper: Paper, num_samples: int, row: str, method: str, solver: Any, nfe: int | None, options: dict[str, Any]
) -> list[Cell]:
    """The cell once for each set of seeds."""
    starts = [paper.first_seed + repeat * num_samples for repeat in range(paper.repeats)]
    return [
        Cell(row, method, repeat, range(start, start + num_samples), solver, nfe, options)
        for repeat, start in enumerate(starts)
    ]


def _sampler(overrides: Sequence[str]) -> Options:
    """The options of the `sampler` group that the overrides choose, as on sample.py's command line."""
    chosen = [f"+{override}" if override.startswith("sampler=") else override for override in overrides]
    try:
        return check_sampler(OmegaConf.to_container(hydra.compose(overrides=chosen).sampler))  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error


def _analytic(sampler: Options, sde: deis.SDE) -> Analytic:
    if sampler["method"] != "ddim_eta":
        raise ValueError(f"a row of paper.analytic has the mean of sampler=ddim_eta, got method {sampler['method']}")
    sde = end_sde(sampler, sde)
    ts = deis.timesteps(sde, sampler["nfe"] - sampler["denoise"], sampler["ts_phase"], sampler["ts_order"])
    return Analytic(sde, ts, sampler["eta"], sampler["denoise"])


def _options(sampler: Options, solver: deis.Table | Analytic) -> dict[str, Any]:
    """The sampler's options and a digest of its numbers, so that a corrected solver is measured again."""
    table = solver if isinstance(solver, deis.Table) else solver.table(np.ones(len(solver.ts)))
    digest = hashlib.sha256(b"".join(getattr(table, column).tobytes() for column in table.shapes()))
    return sampler | {"sampler": table.name, "table": digest.hexdigest()[:16]}


@contextmanager
def _named(row: str) -> Iterator[None]:
    """Within this block a ValueError says which row it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"row {row} of the paper: {error}") from error
