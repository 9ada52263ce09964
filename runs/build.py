"""From options to the SDE and the solver table. NumPy only, so that wrong options are found before JAX starts."""

from collections.abc import Callable
from typing import Any

import deis
from deis import tables
from runs.config import ABSamplerConfig, RKSamplerConfig, SamplerConfig

SDES: dict[str, Callable[..., deis.SDE]] = {"vp_linear": deis.vp_linear, "vp_cosine": deis.vp_cosine, "ve": deis.ve}


def build_sde(options: dict[str, Any]) -> deis.SDE:
    """The SDE of a configuration's `sde` group. Raises ValueError for an unknown name or impossible times."""
    name = options["name"]
    if name not in SDES:
        raise ValueError(f"sde.name must be one of {', '.join(SDES)}, got {name!r}")
    return SDES[name](**{key: value for key, value in options.items() if key != "name"})


def build_table(cfg: SamplerConfig, sde: deis.SDE) -> deis.Table:
    """The solver table of a configuration's `sampler` group: `cfg.nfe` network evaluations, exactly.

    Raises ValueError for anything that the solver does not allow, and for an nfe that the stages of a Runge-Kutta
    method do not divide, unless round_nfe allows the next multiple.
    """
    if cfg.nfe < 1:
        raise ValueError(f"sampler.nfe must be at least 1, got {cfg.nfe}")
    if cfg.t_0 is not None:
        sde = _ending_at(sde, cfg.t_0)
    num_step, order, rk_method = cfg.nfe, 0, ""
    if isinstance(cfg, RKSamplerConfig):
        rk_method = cfg.rk_method
        num_step = _rk_steps(cfg)
    if isinstance(cfg, ABSamplerConfig):
        # iPNDM counts the evaluations it uses, the others the polynomial's degree
        order = cfg.order - 1 if cfg.method == "ipndm" else cfg.order
    return tables.build(sde, cfg.ts_phase, cfg.ts_order, num_step, cfg.method, order, rk_method)


def _ending_at(sde: deis.SDE, t_0: float) -> deis.SDE:
    return deis.SDE(sde.s, sde.sigma, sde.t_of_rho, t_0, sde.T, sde.prior_std)


def _rk_steps(cfg: RKSamplerConfig) -> int:
    if cfg.rk_method not in tables.TABLEAUS:
        raise ValueError(f"sampler.rk_method must be one of {', '.join(tables.TABLEAUS)}, got {cfg.rk_method!r}")
    stages = tables.TABLEAUS[cfg.rk_method].stages
    steps = -(-cfg.nfe // stages)
    if steps * stages != cfg.nfe and not cfg.round_nfe:
        below = f"{(steps - 1) * stages} or " if steps > 1 else ""
        raise ValueError(
            f"{cfg.rk_method} makes {stages} network calls a step, so sampler.nfe must be a multiple of {stages}, "
            f"got {cfg.nfe}; use {below}{steps * stages}, or sampler.round_nfe=true"
        )
    return steps
