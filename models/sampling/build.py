"""From options to the SDE and the solver table. NumPy only, so that wrong options are found before JAX starts."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import deis
from deis import tables
from models.sampling.options import Options, checked

SDES: dict[str, Callable[..., deis.SDE]] = {
    sde.__name__: sde for sde in (deis.vp_linear, deis.vp_cosine, deis.sub_vp, deis.ve, deis.edm, deis.discrete_vp)
}

SHARED = {"method": str, "nfe": int, "round_nfe": bool, "ts_phase": str, "ts_order": float, "t_0": float | None}
"""The options that every solver has, conf/sampler/euler.yaml explains them; the others are keyword arguments of its
function in `deis.tables`."""


def build_sde(options: Mapping[str, Any]) -> deis.SDE:
    """The SDE of a configuration's `sde` group.

    Raises ValueError for an unknown name or option, a value of another type, and impossible times.
    """
    name = options["name"]
    if name not in SDES:
        raise ValueError(f"sde.name must be one of {', '.join(SDES)}, got {name!r}")
    return SDES[name](**checked("sde", SDES[name], {key: value for key, value in options.items() if key != "name"}))


def check_sampler(options: Mapping[str, Any]) -> Options:
    """All options of a configuration's `sampler` group, as the types that the solver wants.

    Raises ValueError for an unknown method or option, for a value of another type and for an nfe below 1.
    """
    method = options["method"]
    if method not in tables.METHODS:
        raise ValueError(f"sampler.method must be one of {', '.join(tables.METHODS)}, got {method!r}")
    found = checked("sampler", tables.METHODS[method], options, **SHARED)
    if found["nfe"] < 1:
        raise ValueError(f"sampler.nfe must be at least 1, got {found['nfe']}")
    return found


def solver_of(options: Options) -> Callable[..., deis.Table]:
    """The solver that the options of `check_sampler` name, with its own options filled in: a function of (sde, ts)."""
    own = {key: value for key, value in options.items() if key not in SHARED}
    return partial(tables.METHODS[options["method"]], **own)


def end_sde(options: Options, sde: deis.SDE) -> deis.SDE:
    """The SDE, which ends where the options of `check_sampler` say."""
    return sde if options["t_0"] is None else replace(sde, t_0=options["t_0"])


def build_table(sampler: Mapping[str, Any], sde: deis.SDE) -> deis.Table:
    """The solver table of a configuration's `sampler` group: `sampler.nfe` network calls, exactly.

    Raises ValueError for anything that the solver does not allow, and for an nfe that no number of its steps makes,
    unless round_nfe allows the next one that does.
    """
    options = check_sampler(sampler)
    solver, sde, nfe = solver_of(options), end_sde(options, sde), options["nfe"]

    def table(num_step: int) -> deis.Table:
        return solver(sde, deis.timesteps(sde, num_step, options["ts_phase"], options["ts_order"]))

    num_step = tables.fewest_steps(table, nfe)
    result = table(num_step)
    if result.nfe != nfe and not options["round_nfe"]:
        smaller = [table(num_step - 1).nfe] if num_step > 1 and result.nfe > nfe else []
        reachable = " or ".join(str(nfe) for nfe in [*smaller, result.nfe])
        raise ValueError(
            f"{result.name} cannot make {nfe} network calls, since a step of it makes several; "
            f"use sampler.nfe={reachable}, or sampler.round_nfe=true"
        )
    return result
