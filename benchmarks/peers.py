"""The schedulers of diffusers on the same problems, and our table of the same method for each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import numpy as np
import torch

from benchmarks.problems import NUM_TIMES, Problem
from deis import SDE, Table, tables


@dataclass(frozen=True)
class Peer:
    name: str
    scheduler: str
    options: dict[str, Any]
    ours: Callable[[SDE, np.ndarray], Table]
    extra_nfe: Callable[[int], int] = field(default=lambda n: 0)
    sigma_based: bool = True


def _lof(ts):
    return len(ts) - 1 < 15


def _peers():
    yield Peer(
        "DDIM",
        "DDIMScheduler",
        dict(clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"),
        tables.ddim,
        sigma_based=False,
    )
    yield Peer(
        "PNDM", "PNDMScheduler", dict(timestep_spacing="trailing"), tables.f_pndm, lambda n: 9, sigma_based=False
    )
    yield Peer(
        "PNDM (PLMS)",
        "PNDMScheduler",
        dict(timestep_spacing="trailing", skip_prk_steps=True),
        tables.plms,
        lambda n: 1,
        sigma_based=False,
    )
    end = dict(final_sigmas_type="sigma_min")
    for k in (2, 3):
        yield Peer(
            f"DEIS {k}",
            "DEISMultistepScheduler",
            dict(solver_order=k, algorithm_type="deis"),
            lambda sde, ts, k=k: tables.log_rho_ab(sde, ts, k - 1, lower_order_final=_lof(ts)),
        )
    for k, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
        yield Peer(
            f"DPM++ {k}M {kind}",
            "DPMSolverMultistepScheduler",
            end | dict(solver_order=k, solver_type=kind),
            lambda sde, ts, k=k, kind=kind: tables.dpm_solver_pp(
                sde, ts, k, exact=kind == "heun", lower_order_final=_lof(ts)
            ),
        )
    for k in (2, 3):
        for pred in ("x_0", "eps"):
            for b in ("B1", "B2"):
                yield Peer(
                    f"UniPC {k} {pred} {b}",
                    "UniPCMultistepScheduler",
                    end | dict(solver_order=k, solver_type=b.replace("B", "bh"), predict_x0=pred == "x_0"),
                    lambda sde, ts, k=k, b=b, pred=pred: tables.unipc(sde, ts, k, variant=b, prediction=pred),
                )


PEERS = list(_peers())


def run(peer: Peer, problem: Problem, nfe: int, ts=None):
    """v"""
    scheduler = getattr(diffusers, peer.scheduler)(num_train_timesteps=NUM_TIMES, **peer.options)
    scheduler.alphas_cumprod = torch.from_numpy(problem.alpha_bar)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    num_step = nfe - peer.extra_nfe(nfe)
    if num_step < 1 or ("PNDM" == peer.name and num_step < 4):
        return None
    scheduler.set_timesteps(num_step)
    sde = problem.discrete
    if ts is not None:
        if not peer.sigma_based:
            return None
        sde = problem.continuous
        scheduler.sigmas = torch.from_numpy(sde.rho(ts))
        scheduler.set_begin_index(0)
    v, x = problem.noise, None
    s_T, s_0 = sde.s(np.array([sde.T, sde.t_0]))
    x = torch.from_numpy(v / (1 + problem.rho_T**2) ** 0.5)
    for i, t in enumerate(scheduler.timesteps):
        s, sigma = (
            sde.marginal(float(t))
            if ts is None
            else (1 / (1 + sde.rho(ts[i]) ** 2) ** 0.5, sde.rho(ts[i]) / (1 + sde.rho(ts[i]) ** 2) ** 0.5)
        )
        eps = problem.data.eps(x.numpy(), s, sigma)
        x = scheduler.step(torch.from_numpy(eps), t, x).prev_sample
    assert len(scheduler.timesteps) == nfe, (peer.name, nfe, len(scheduler.timesteps))
    return x.numpy() * (1 + problem.rho_0**2) ** 0.5
