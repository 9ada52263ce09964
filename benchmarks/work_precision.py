"""Error against network calls: every deterministic table on problems with known answers, beside diffusers.

    PYTHONPATH=tests python -m benchmarks.work_precision > docs/work_precision.md      ten minutes on two cores
    PYTHONPATH=tests python -m benchmarks.work_precision --nfe 5,10 --problem "VE, 2-d" --grid log

Nothing is fitted: solvers and grids are listed once, here and in `peers`, and each of them runs on every problem.
Where diffusers is not installed, ours are printed alone.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from typing import Any

import jax
import numpy as np

import deis
from benchmarks import report
from benchmarks.problems import DATA, MODELS, Problem, problem
from benchmarks.report import Errors
from deis import SDE, Table, tables
from deis.sampler import _padded, _run, as_partial

NFES = (4, 5, 6, 8, 10, 12, 15, 20, 30, 50, 100)

GRIDS: dict[str, Callable[[SDE, int], np.ndarray]] = {
    "t": partial(deis.timesteps, phase="t", order=1.0),
    "t quadratic": partial(deis.timesteps, phase="t", order=2.0),  # the default of get_sampler
    "t cubic": partial(deis.timesteps, phase="t", order=3.0),
    "edm": partial(deis.timesteps, phase="edm"),
    "rho 20": partial(deis.timesteps, phase="rho", order=20.0),  # between "edm" and "log"
    "log": partial(deis.timesteps, phase="log"),
}
"""Nodes on a problem's continuous SDE, from (sde, num_step)."""

_TOGETHER = 48  # tables that one compiled call runs


@dataclass(frozen=True)
class Solver:
    """table: from (sde, nodes). It makes nfe_a_step calls a step and extra_nfe more."""

    name: str
    table: Callable[[SDE, np.ndarray], Table]
    nfe_a_step: int = 1
    extra_nfe: int = 0

    def build(self, sde: SDE, grid: Callable[[SDE, int], np.ndarray], nfe: int) -> Table | None:
        """The table that makes nfe calls, or None if there is none."""
        num_step, rest = divmod(nfe - self.extra_nfe, self.nfe_a_step)
        if num_step < 1 or rest:
            return None
        table = self.table(sde, grid(sde, num_step))
        return table if table.nfe == nfe else None  # F-PNDM's first steps make more


def _solvers() -> Iterator[Solver]:
    yield Solver("Euler", tables.euler)
    yield Solver("EI-score", tables.ei_score)
    yield Solver("DDIM", tables.ddim)
    for name, method in (("tAB", tables.t_ab), ("rhoAB", tables.rho_ab), ("logrhoAB", tables.log_rho_ab)):
        for order in (1, 2, 3, 4):
            yield from _with_options(f"{name}{order}", partial(method, order=order))
    for order in (2, 3, 4):
        yield from _with_options(f"iPNDM{order}", partial(tables.ipndm, order=order))
    for order in (2, 3):
        for exact in (False, True):
            name = f"DPM++{order}M" + " exact" * exact
            yield from _with_options(name, partial(tables.dpm_solver_pp, order=order, exact=exact))
        method = partial(tables.dpm_solver_pp, order=order, prediction="eps")
        yield from _with_options(f"DPM-Solver-{order}M", method)
    for order in (2, 3):
        for prediction in ("x_0", "eps"):
            for variant in ("B1", "B2"):
                method = partial(tables.unipc, order=order, prediction=prediction, variant=variant)
                yield Solver(f"UniPC{order} {prediction} {variant}", method)
    yield from _with_options("GE", tables.gradient_estimation)
    yield Solver("PFDiff-1", tables.pfdiff)
    for order in (2, 3):
        for prediction, name in (("x_0", "DPM++"), ("eps", "DPM-Solver-")):
            for lower in (False, True):
                method = partial(tables.dpm_solver_singlestep, order=order, prediction=prediction)
                yield Solver(f"{name}{order}S" + " L" * lower, partial(method, lower_order_final=lower))
    for name, (shares, _) in tables.EXPONENTIAL.items():
        for prediction in ("x_0", "eps"):
            method = partial(tables.exponential_rk, rk_method=name, prediction=prediction)
            yield Solver(f"expRK {name} {prediction}", method, len(shares) + 1)
    for name, tableau in tables.TABLEAUS.items():
        if tableau.stages > 1:
            yield Solver(f"rhoRK {name}", partial(tables.rho_rk, rk_method=name), tableau.stages)
    yield Solver("S-PNDM", tables.s_pndm, extra_nfe=1)
    yield Solver("PLMS", tables.plms, extra_nfe=1)
    yield Solver("F-PNDM", tables.f_pndm, extra_nfe=9)


def _with_options(name: str, method: Callable[..., Table]) -> Iterator[Solver]:
    for corrector in (False, True):
        for lower in (False, True):
            label = name + " C" * corrector + " L" * lower
            yield Solver(label, partial(method, corrector=corrector, lower_order_final=lower))


SOLVERS = tuple(_solvers())


def our_errors(problem: Problem, nfes: tuple[int, ...] = NFES) -> Errors:
    """Every solver on every grid."""
    found: Errors = {}
    for nfe in nfes:
        built = {}
        for solver, (grid, nodes) in product(SOLVERS, GRIDS.items()):
            if (table := solver.build(problem.continuous, nodes, nfe)) is not None:
                built[problem.name, solver.name, grid, nfe] = table
        found |= dict(zip(built, errors(problem, problem.continuous, list(built.values())), strict=True))
    return found


def paired_errors(problem: Problem, nfes: tuple[int, ...] = NFES) -> tuple[Errors, Errors]:
    """(theirs, ours of the same method): each scheduler of diffusers on its own nodes, and if possible on GRIDS."""
    from benchmarks.peers import PEERS

    theirs, ours = {}, {}
    for peer in PEERS:
        for nfe in nfes:
            nodes = {"own": (problem.discrete, peer.nodes(nfe))}
            if peer.takes_grids:
                nodes |= {name: (problem.continuous, grid(problem.continuous, nfe)) for name, grid in GRIDS.items()}
            for grid, (sde, ts) in nodes.items():
                if ts is None:
                    continue
                v, calls = peer.run(problem, sde.rho(ts))
                table = peer.table(sde, ts)
                assert calls == table.nfe == nfe, (peer.name, calls, table.nfe, nfe)
                key = (problem.name, peer.name, grid, nfe)
                theirs[key], ours[key] = problem.error(v), error(problem, sde, table)
    return theirs, ours


def error(problem: Problem, sde: SDE, table: Table) -> float:
    """The samples of `deis.sample` in float64."""
    return errors(problem, sde, [table])[0]


def errors(problem: Problem, sde: SDE, built: list[Table]) -> list[float]:
    """Errors of tables of as many network calls each, run many at once by the loop of `deis.sample` in float64."""
    found = np.zeros(len(built))
    padded = [_padded(table) for table in built]
    for lags in {table.lags for table in padded}:
        chosen = [i for i, table in enumerate(padded) if table.lags == lags]
        together = min(_TOGETHER, len(chosen))
        for first in range(0, len(chosen), together):
            some = (chosen[first : first + together] * together)[:together]
            columns = {name: np.stack([getattr(padded[i], name) for i in some]) for name in padded[0].shapes()}
            x_T = np.stack([built[i].s[0] * built[i].rho[0] * problem.noise for i in some])
            with jax.enable_x64(True):
                x = np.asarray(_run_all(as_partial(_eps_fn(problem, sde)), columns, built[0].nfe, x_T))
            for i, samples in zip(some, x, strict=True):
                found[i] = problem.error(samples / built[i].s[-1])
    return found.tolist()


@jax.jit
def _run_all(eps_fn: Any, columns: dict[str, Any], nfe: Any, x_T: Any) -> Any:
    return jax.vmap(lambda rows, x: _run(eps_fn, rows, nfe, x, None))(columns, x_T)


@cache  # one object, so one compilation
def _eps_fn(problem: Problem, sde: SDE) -> Any:
    return problem.data.eps_fn(sde, jax.numpy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", default=",".join(map(str, NFES)), help="network calls, as 5,10")
    parser.add_argument("--problem", default="", help="only the problems whose names begin so")
    parser.add_argument("--grid", default="t quadratic", choices=GRIDS, help="of the last table")
    args = parser.parse_args()
    nfes = tuple(int(nfe) for nfe in args.nfe.split(","))
    problems = [problem(model, data) for model in MODELS for data in DATA]
    ours: Errors = {}
    theirs: Errors = {}
    same: Errors = {}
    for case in problems:
        if not case.name.startswith(args.problem):
            continue
        ours |= our_errors(case, nfes)
        if find_spec("diffusers"):
            pair = paired_errors(case, nfes)
            theirs, same = theirs | pair[0], same | pair[1]
    print(report.page(ours, theirs, same, nfes, args.grid))


if __name__ == "__main__":
    main()
