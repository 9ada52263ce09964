"""A table of the paper with an exact network: the error of each cell instead of its FID.

python -m benchmarks.exact_tables cifar10_ablation digits

The data are a mixture of Gaussians, whose eps is known, so that the solver alone is at fault. The error of a
trajectory is the root mean square distance, over its coordinates, to where the probability-flow ODE leads from the same
noise; a cell has the median of all trajectories. Seconds on two cores.
"""

import sys
from functools import cache
from pathlib import Path

import hydra
import jax
import numpy as np
from sklearn.datasets import load_digits

import deis
from deis.sampler import EpsFn
from eval.exact.mixture import IN_2D, Mixture
from eval.paper.plan import cells
from eval.paper.spec import Paper, Record, by_nfe, verdicts
from eval.paper.tables import markdown_grid, markdown_verdicts
from runs import config

CONF = Path(__file__).parent.parent / "conf"
SDE = deis.vp_linear(t_0=1e-3)  # the tables' own t_0
REFERENCE_STEPS = 1000  # of the fourth order, even in log rho


def _digits() -> Mixture:
    """400 real digits of 8x8 pixels in [-1, 1], each a little blurred."""
    return Mixture(np.full(400, 1 / 400), load_digits().data[:400] / 8 - 1, np.full(400, 0.02))


PROBLEMS = {"plane": (IN_2D, 1024), "digits": (_digits(), 128)}
"""The data, and how many trajectories."""


def main(table: str, problem: str) -> str:
    """The table of conf/paper/`table`.yaml on one of PROBLEMS, as Markdown: thousandths of the data's units."""
    paper, records = measure(table, problem)
    grid = by_nfe(records)
    found = verdicts(paper, grid)
    return markdown_grid(grid) + (f"\n\n{markdown_verdicts(found)}" if found else "")


def measure(table: str, problem: str) -> tuple[Paper, list[Record]]:
    """The table, and a record for each of its cells; its "fid" is 1,000 times the error."""
    config.register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        paper = config.to_object(hydra.compose("table", [f"paper={table}"])).paper
        planned = cells(paper, SDE, 2)
    eps_fn, x_T, exact = solution(problem)
    records: list[Record] = []
    with jax.enable_x64(True):
        for cell in planned:
            if not isinstance(cell.solver, deis.Table) or cell.solver.is_stochastic:
                raise ValueError(f"{cell} is not a table without noise, whose error could be taken")
            x_0 = np.asarray(deis.sample(cell.solver, eps_fn, x_T))
            error = np.median(np.sqrt(np.mean((x_0 - exact) ** 2, axis=1)))
            records.append(
                {"row": cell.row, "nfe_asked": cell.nfe_asked, "nfe": cell.solver.nfe, "fid": 1000 * float(error)}
            )
    return paper, records


@cache
def solution(problem: str) -> tuple[EpsFn, jax.Array, np.ndarray]:
    """(eps_fn, x_T, the exact x_0) of one of PROBLEMS, float64 [trajectories, dim]."""
    mixture, trajectories = PROBLEMS[problem]
    with jax.enable_x64(True):
        eps_fn = jax.tree_util.Partial(mixture.eps_fn(SDE))
        x_T = SDE.prior_sample(jax.random.key(0), (trajectories, mixture.mean.shape[1])).astype(np.float64)
        fine = deis.tables.rho_rk(SDE, deis.timesteps(SDE, REFERENCE_STEPS, "log"), "4rk")
        return eps_fn, x_T, np.asarray(deis.sample(fine, eps_fn, x_T))


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]))
