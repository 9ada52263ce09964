"""From options to the SDE and the solver table. NumPy only, so that wrong options are found before JAX starts."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import deis
from deis import tables
from runs.solver_config import SamplerConfig

SDES: dict[str, Callable[..., deis.SDE]] = {
    "vp_linear": deis.vp_linear,
    "vp_cosine": deis.vp_cosine,
    "sub_vp": deis.sub_vp,
    "ve": deis.ve,
    "edm": deis.edm,
    "discrete_vp": deis.discrete_vp,
}

_NOT_THE_SOLVERS = ("method", "nfe", "round_nfe", "ts_phase", "ts_order", "t_0")


def build_sde(options: dict[str, Any]) -> deis.SDE:
    """The SDE of a configuration's `sde` group. Raises ValueError for an unknown name or impossible times."""
    name = options["name"]
    if name not in SDES:
        raise ValueError(f"sde.name must be one of {', '.join(SDES)}, got {name!r}")
    return SDES[name](**{key: value for key, value in options.items() if key != "name"})


def build_table(cfg: SamplerConfig, sde: deis.SDE) -> deis.Table:
    """The solver table of a configuration's `sampler` group: `cfg.nfe` network calls, exactly.

    Raises ValueError for anything that the solver does not allow, and for an nfe that no number of its steps makes,
    unless round_nfe allows the next one that does.
    """
    if cfg.nfe < 1:
        raise ValueError(f"sampler.nfe must be at least 1, got {cfg.nfe}")
    if cfg.method not in tables.METHODS:
        raise ValueError(f"sampler.method must be one of {', '.join(tables.METHODS)}, got {cfg.method!r}")
    if cfg.t_0 is not None:
        sde = replace(sde, t_0=cfg.t_0)
    solver = tables.METHODS[cfg.method]
    options = {key: value for key, value in vars(cfg).items() if key not in _NOT_THE_SOLVERS}

    def table(num_step: int) -> deis.Table:
        return solver(sde, deis.timesteps(sde, num_step, cfg.ts_phase, cfg.ts_order), **options)

    num_step = bisect_left(range(1, cfg.nfe), cfg.nfe, key=lambda n: table(n).nfe) + 1
    result = table(num_step)
    if result.nfe != cfg.nfe and not cfg.round_nfe:
        smaller = [table(num_step - 1).nfe] if num_step > 1 and result.nfe > cfg.nfe else []
        reachable = " or ".join(str(nfe) for nfe in [*smaller, result.nfe])
        raise ValueError(
            f"{result.name} cannot make {cfg.nfe} network calls, since a step of it makes several; "
            f"use sampler.nfe={reachable}, or sampler.round_nfe=true"
        )
    return result
