"""The schedulers of diffusers on the benchmark's problems, and for each of them our table of the same conventions.

They are treated as well as can be. Those made of sigmas get theirs in float64 (as they come they are in float32, which
moves the result of DEISMultistep of order 3 by up to 1e-3 at 100 steps), and run on our grids too, which they do not
offer. DDIM and PNDM begin at their first time, below the last, with the noise that belongs to the last, as their
pipelines do. All end at the time 0.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch

from benchmarks.problems import NUM_TIMES, Problem
from deis import SDE, Table, tables


@dataclass(frozen=True)
class Peer:
    """A scheduler of diffusers with its options, and our table for (sde, nodes) of the same method.

    takes_grids: whether it is made of sigmas, so that any nodes can be given.
    extra_nfe: network calls beyond one a step. min_step: the fewest steps it has.
    """

    name: str
    scheduler: str
    options: dict[str, Any]
    table: Callable[[SDE, np.ndarray], Table]
    takes_grids: bool = True
    extra_nfe: int = 0
    min_step: int = 1

    def nodes(self, nfe: int) -> np.ndarray | None:
        """The whole times of its own spacing, and the end, 0; None if it cannot have this number of network calls."""
        num_step = nfe - self.extra_nfe
        if num_step < self.min_step:
            return None
        if self.takes_grids:  # timestep_spacing "linspace"
            return np.append(np.linspace(0, NUM_TIMES - 1, num_step + 1).round()[:0:-1], 0.0)
        return np.append(1.0 + NUM_TIMES // num_step * np.arange(num_step - 1, -1, -1), 0.0)  # "leading"

    def run(self, problem: Problem, rho: np.ndarray) -> tuple[np.ndarray, int]:
        """(v at the last of the nodes rho, network calls)."""
        scheduler = getattr(diffusers, self.scheduler)(num_train_timesteps=NUM_TIMES, **self.options)
        if not self.takes_grids:
            scheduler.alphas_cumprod = torch.from_numpy(problem.discrete.s(np.arange(NUM_TIMES)) ** 2)
            scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
        scheduler.set_timesteps(len(rho) - 1)
        ratios = rho
        if self.takes_grids:
            scheduler.sigmas = torch.from_numpy(rho)
            scheduler.set_begin_index(0)
        else:
            ratios = problem.discrete.rho(scheduler.timesteps.numpy().astype(float))
        x = torch.from_numpy(rho[0] / np.sqrt(1 + rho[0] ** 2) * problem.noise)  # as of a VP model
        for t, ratio in zip(scheduler.timesteps, ratios, strict=False):
            s = (1 + ratio**2) ** -0.5
            x = scheduler.step(torch.from_numpy(problem.data.eps(x.numpy(), s, s * ratio)), t, x).prev_sample
        return x.numpy() * np.sqrt(1 + rho[-1] ** 2), len(scheduler.timesteps)


def _peers() -> Iterator[Peer]:
    strided = {"steps_offset": 1, "set_alpha_to_one": False}
    yield Peer("DDIM", "DDIMScheduler", strided | {"clip_sample": False}, tables.ddim, takes_grids=False)
    yield Peer("PNDM", "PNDMScheduler", strided, tables.f_pndm, takes_grids=False, extra_nfe=9, min_step=4)
    skipping = strided | {"skip_prk_steps": True}
    yield Peer("PNDM, PLMS", "PNDMScheduler", skipping, tables.plms, takes_grids=False, extra_nfe=1, min_step=2)
    for k in (2, 3):
        options = {"solver_order": k, "algorithm_type": "deis"}
        yield Peer(f"DEIS{k}", "DEISMultistepScheduler", options, _below_15(tables.log_rho_ab, order=k - 1))
    for k, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        options = {"solver_order": k, "solver_type": kind, "final_sigmas_type": "sigma_min"}
        table = _below_15(tables.dpm_solver_pp, order=k, exact=kind == "heun")
        yield Peer(f"DPM++{k}M {kind}", "DPMSolverMultistepScheduler", options, table)
    for k in (2, 3):
        for prediction in ("x_0", "eps"):
            for variant in ("B1", "B2"):
                options = {"solver_order": k, "predict_x0": prediction == "x_0", "final_sigmas_type": "sigma_min"}
                options |= {"solver_type": variant.replace("B", "bh")}
                table = partial(tables.unipc, order=k, prediction=prediction, variant=variant)
                yield Peer(f"UniPC{k} {prediction} {variant}", "UniPCMultistepScheduler", options, table)


def _below_15(method: Callable[..., Table], **options: Any) -> Callable[[SDE, np.ndarray], Table]:
    """`method` with a lower order at the end below 15 steps, as the schedulers have it."""
    return lambda sde, ts: method(sde, ts, lower_order_final=len(ts) - 1 < 15, **options)


PEERS = tuple(_peers())
