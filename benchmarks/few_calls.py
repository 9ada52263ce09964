"""Learned tables beside the best untrained ones, on mixtures whose exact trajectories are known.

    PYTHONPATH=tests python -m benchmarks.few_calls                              all: half an hour on two cores
    PYTHONPATH=tests python -m benchmarks.few_calls --nfe 5 --sde "VP linear" --dim 6

Tables are chosen and learned on some trajectories and compared on others. Nothing was tuned on these mixtures.
"""

import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from reference.mixture import Mixture

import deis
from deis import tables
from formats.tables import markdown_table

SDES = {"VP linear": deis.vp_linear(), "VP cosine": deis.vp_cosine(), "VE": deis.ve()}
DIMS = (2, 6, 16, 64)
NFES = (4, 5, 6, 8)
LEARNED_ON, COMPARED_ON = 1024, 2048


class Row(NamedTuple):
    """RMS errors of the best table on common grids, the best of all untrained ones, the learned one; and seconds."""

    grids: float
    untrained: float
    learned: float
    seconds: float


def mixture(dim: int) -> Mixture:
    """Eight components of standard deviation 0.25, means uniform in [-1, 1]."""
    rng = np.random.default_rng(100 + dim)
    return Mixture(rng.dirichlet(np.full(8, 5.0)), rng.uniform(-1, 1, (8, dim)), np.full(8, 0.25))


def measure(sde: deis.SDE, data: Mixture, nfe: int) -> Row:
    """Choose and learn on LEARNED_ON trajectories, and compare on COMPARED_ON others."""
    eps_fn = data.eps_fn(sde, jnp)
    x_T = sde.prior_sample(jax.random.key(nfe), (LEARNED_ON + COMPARED_ON, data.mean.shape[1]))
    x_0 = deis.sample(tables.log_rho_ab(sde, deis.timesteps(sde, 400, "log")), eps_fn, x_T)

    def rms(table: deis.Table) -> float:
        return float(jnp.sqrt(jnp.mean((deis.sample(table, eps_fn, x_T[LEARNED_ON:]) - x_0[LEARNED_ON:]) ** 2)))

    ranked = deis.choose(sde, eps_fn, x_T[:64], x_0[:64], nfe, batch_size=16)
    on_grids = next(choice.table for choice in ranked if choice.table.about["ts_phase"] != "optimized")
    base = next(choice.table for choice in ranked if np.all(np.diff(choice.table.rho) < 0))
    start = time.perf_counter()
    learned = deis.learn.fit(sde, eps_fn, base, x_T[:LEARNED_ON], x_0[:LEARNED_ON], batch_size=128)
    return Row(rms(on_grids), rms(ranked[0].table), rms(learned), time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nfe", default=",".join(map(str, NFES)), help="network calls, as 5,8")
    parser.add_argument("--sde", default=",".join(SDES), help="diffusions, as VE")
    parser.add_argument("--dim", default=",".join(map(str, DIMS)), help="dimensions, as 2,64")
    args = parser.parse_args()
    cells = []
    for name in args.sde.split(","):
        for dim in map(int, args.dim.split(",")):
            for nfe in map(int, args.nfe.split(",")):
                row = measure(SDES[name], mixture(dim), nfe)
                ratio = row.learned / row.untrained
                cells.append(
                    [name, str(dim), str(nfe), *(f"{error:.2e}" for error in row[:3]), f"{ratio:.2f}", f"{row[3]:.0f}"]
                )
                print(*cells[-1], flush=True)
    header = ["diffusion", "dimensions", "calls", "best on grids", "best untrained", "learned", "ratio", "seconds"]
    print(markdown_table(header, cells, "lrrrrrrr"))


if __name__ == "__main__":
    main()
