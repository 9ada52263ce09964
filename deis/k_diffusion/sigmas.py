"""Noise levels, as k-diffusion's samplers take them."""

from functools import cache

import numpy as np

import deis
from deis.errors import checked, needs, require
from deis.schedule import timesteps
from deis.sde import SDE
from deis.table import Table

with needs("torch", "deis.k_diffusion"):
    from torch import Tensor, tensor


@cache
def latent_diffusion() -> SDE:
    """The discrete-time diffusion of Stable Diffusion 1, 2 and XL."""
    return deis.discrete_vp("scaled_linear", 0.00085, 0.012)


def is_flow(sde: SDE) -> bool:
    """Whether x at the noise level sigma is (1 - sigma) x_0 + sigma eps, as in flow matching, and not x_0 + sigma eps.

    Raises ValueError for other diffusions with s(T) = 0, whose sigma / s is infinite.
    """
    flow = bool(np.isclose(sum(sde.marginal(0.5 * (sde.t_0 + sde.T))), 1.0))
    if not flow:
        sde.refuse_noise("the noise level sigma / s")
    return flow


@checked
def get_sigmas(n: int, phase: str = "t", order: float = 2.0, sde: SDE | None = None) -> Tensor:
    """[n+1] noise levels: those of a grid of `deis.timesteps`, n in number, and then 0. Raises ValueError for n < 1."""
    require(n >= 1, f"n must be at least 1, got {n}")
    sde = latent_diffusion() if sde is None else sde
    flow, ends_at_0 = is_flow(sde), sde.sigma(np.array(sde.t_0)) == 0
    ts = timesteps(sde, n if ends_at_0 else max(n - 1, 1), phase, order)[:n]
    levels = sde.sigma(ts) if flow else sde.rho(ts)
    return tensor([*levels.tolist(), 0.0])


@checked
def sigmas_of(table: Table, sde: SDE | None = None) -> Tensor:
    """[nfe+1] noise levels at a table's network calls, and at its result."""
    flow = sde is not None and is_flow(sde)
    return tensor((table.rho * table.s if flow else table.rho).tolist())
