"""From options to seeds, the SDE and the solver table. Without JAX, so that wrong options are found before it starts.

The options of an SDE or a solver are the keyword arguments of the function that takes them: a new solver in
`deis.tables.METHODS` needs no schema.
"""

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints, is_typeddict

import numpy as np
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import deis
from deis import tables
from deis.schedule import Nodes, check_nodes
from formats.files import read_npz, write_npz
from models.checkpoints.hub import local_table

Options = dict[str, Any]

SDES: dict[str, Callable[..., deis.SDE]] = {
    sde.__name__: sde
    for sde in (
        *(deis.vp_linear, deis.vp_cosine, deis.vp_zero_snr, deis.sub_vp, deis.ve, deis.edm, deis.discrete_vp),
        deis.flow,
    )
}

KEPT = Path("~/.cache/deis/grids").expanduser()

SHARED = {
    **{"method": str, "nfe": int, "round_nfe": bool},
    **{"ts_phase": str, "ts_order": float, "ts": list[float] | None, "t_0": float | None},
}
"""The options that every solver has beside its own; conf/sampler/euler.yaml explains them."""


def build_sde(options: Mapping[str, Any]) -> deis.SDE:
    """The SDE of a configuration's `sde` group.

    Raises ValueError for an unknown name or option, a value of another type, and impossible times.
    """
    name = options["name"]
    if name not in SDES:
        raise ValueError(f"sde.name must be one of {', '.join(SDES)}, got {name!r}")
    return SDES[name](**_checked("sde", SDES[name], {key: value for key, value in options.items() if key != "name"}))


def same_diffusion(one: deis.SDE, other: deis.SDE) -> bool:
    """Whether two diffusions have the same marginals at the times that both know."""
    low, high = max(one.t_0, other.t_0), min(one.T, other.T)
    if one.is_discrete != other.is_discrete or low >= high:
        return False
    t = np.linspace(low, high, 11)
    return all(np.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(one.marginal(t), other.marginal(t), strict=True))


def check_sampler(options: Mapping[str, Any]) -> Options:
    """All options of a configuration's `sampler` group, as the types that the solver wants.

    Raises ValueError for an unknown method or option, for a value of another type and for an nfe below 1.
    """
    method = options["method"]
    if method == "learned":
        return _of_file(options)
    if method == "recommended":
        found = _checked("sampler", tables.recommended, options, method=str, nfe=int, t_0=float | None)
    elif method in tables.METHODS:
        found = _checked("sampler", tables.METHODS[method], options, **SHARED)
    else:
        names = f"{', '.join(tables.METHODS)}, recommended or learned"
        raise ValueError(f"sampler.method must be one of {names}, got {method!r}")
    if found["nfe"] < 1:
        raise ValueError(f"sampler.nfe must be at least 1, got {found['nfe']}")
    return found


def _of_file(options: Mapping[str, Any]) -> Options:
    """The options of a table in a file, which has its calls and nodes of its own."""
    if unknown := sorted(options.keys() - {"method", "table"}):
        raise ValueError(f"learned has no sampler.{unknown[0]}: calls and times are those of the file sampler.table")
    if not options.get("table"):
        raise ValueError("sampler=learned needs sampler.table=FILE, as eval.learn and eval.choose write them")
    none = dict.fromkeys(("nfe", "ts", "t_0"))
    return {"method": "learned", "table": str(options["table"]), **none}


def refuse_own_times(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a table in a file and for the recommended one, which go with their own times only."""
    if options["method"] in ("learned", "recommended"):
        raise ValueError(
            f"sampler={options['method']} has times of its own and cannot be put on others; choose another sampler"
        )


def solver_of(options: Options) -> Callable[..., deis.Table]:
    """The solver that the options of `check_sampler` name, with its own options filled in: a function of (sde, ts).

    Raises ValueError as `refuse_own_times`.
    """
    refuse_own_times(options)
    own = {key: value for key, value in options.items() if key not in SHARED}
    return partial(tables.METHODS[options["method"]], **own)


def end_sde(options: Options, sde: deis.SDE) -> deis.SDE:
    """The SDE, which ends where the options of `check_sampler` say."""
    return sde if options["t_0"] is None else replace(sde, t_0=options["t_0"])


def nodes_of(options: Options, sde: deis.SDE, num_step: int) -> Nodes:
    """The nodes that the options of `check_sampler` name: their own `ts`, else `num_step` steps of their schedule.

    sde: as `end_sde` gives it. Raises ValueError for own nodes outside of its times, and as `deis.timesteps` and
    `deis.grids.optimized` do.
    """
    if options.get("ts") is None:
        if options["ts_phase"] == "optimized":
            return _optimized(sde, num_step, solver_of(options))
        return deis.timesteps(sde, num_step, options["ts_phase"], options["ts_order"])
    if outside := [t for t in options["ts"] if not sde.t_0 <= t <= sde.T]:
        raise ValueError(
            f"sampler.ts must lie between the diffusion's t_0={sde.t_0:g} and T={sde.T:g}, got {outside[0]:g}; "
            "sampler.t_0 sets another end"
        )
    return check_nodes(sde, np.array(options["ts"]))


def build_table(sampler: Mapping[str, Any], sde: deis.SDE) -> deis.Table:
    """The solver table of a configuration's `sampler` group: `sampler.nfe` network calls, or those of its own nodes.

    Raises ValueError for anything that the solver does not allow, and for an nfe that no number of its steps makes,
    unless round_nfe allows the next one that does.
    """
    options = check_sampler(sampler)
    if options["method"] == "learned":
        return deis.Table.load(local_table(options["table"]), sde)
    if options["method"] == "recommended":
        return tables.recommended(end_sde(options, sde), options["nfe"])
    solver, sde, nfe = solver_of(options), end_sde(options, sde), options["nfe"]

    def table(num_step: int) -> deis.Table:
        return solver(sde, nodes_of(options, sde, num_step))

    if options.get("ts") is not None:
        return table(len(options["ts"]) - 1)
    # the number of calls is the same on any nodes
    plain = options | {"ts_phase": "t", "ts_order": 1.0} if options["ts_phase"] == "optimized" else options
    num_step = tables.fewest_steps(lambda num_step: solver(sde, nodes_of(plain, sde, num_step)), nfe)
    result = table(num_step)
    if result.nfe != nfe and not options["round_nfe"]:
        smaller = [table(num_step - 1).nfe] if num_step > 1 and result.nfe > nfe else []
        reachable = " or ".join(str(nfe) for nfe in [*smaller, result.nfe])
        raise ValueError(
            f"{result.name} cannot make {nfe} network calls, since a step of it makes several; "
            f"use sampler.nfe={reachable}, or sampler.round_nfe=true"
        )
    return result


def _optimized(sde: deis.SDE, num_step: int, solver: Callable[..., deis.Table]) -> Nodes:
    """The nodes of `deis.grids.optimized`, kept on disk: the solver's table on other nodes says which they are.

    What another version of that module found is found anew.
    """
    table = solver(sde, deis.timesteps(sde, num_step, "t", 1.0))
    columns = (
        b"".join(getattr(table, name).tobytes() for name in table.shapes()) + inspect.getsource(deis.grids).encode()
    )
    path = KEPT / f"optimized-{hashlib.sha256(columns).hexdigest()[:16]}.npz"
    if path.is_file():
        return read_npz(path)["ts"]
    ts = deis.grids.optimized(sde, num_step, solver)
    with suppress(OSError):  # a home that cannot be written to
        write_npz(path, {"ts": ts})
    return ts


def parse_seeds(text: str) -> list[int]:
    """The seeds that "0-9" or "3+7+20-29" names, in that order; a comma works as "+" does, where it is quoted.

    Raises ValueError for anything else, for a seed named twice, and for one that 32 bits do not hold.
    """
    seeds: list[int] = []
    for part in text.replace(",", "+").split("+"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"seeds must look like 0-999 or 3+7+20-29, got {text!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= 2**32:
            raise ValueError(f"seeds must be below 2^32, got {last}")
        seeds.extend(range(first, last + 1))
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must differ from each other, got {text!r}")
    return seeds


def name_seeds(seeds: list[int]) -> str:
    """The seeds as `parse_seeds` reads them."""
    return f"{seeds[0]}-{seeds[-1]}" if seeds == [*range(seeds[0], seeds[-1] + 1)] else "+".join(map(str, seeds))


def parse_shard(text: str) -> tuple[int, int]:
    """(index, count) of a shard such as "3/16", counted from 0. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(f"shard must be INDEX/COUNT with INDEX from 0 to COUNT - 1, as 3/16, got {text!r}")
    return int(match[1]), int(match[2])


def share(seeds: list[int], index: int, count: int, batch_size: int) -> list[int]:
    """Share `index` of `count` of the seeds: consecutive batches of them, about equally many in every share.

    As batches are whole, every image is drawn in the same batch, so with the same bits, whatever the number of shares.
    """
    batches = -(-len(seeds) // batch_size)
    return seeds[batches * index // count * batch_size : batches * (index + 1) // count * batch_size]


def _checked(group: str, function: Callable[..., Any], given: Mapping[str, Any], **shared: Any) -> Options:
    """The given options with their values converted to the types that `function` declares.

    group: of the configuration, for messages. shared: types of further options that the group has.
    Raises ValueError for an option that is not there, naming those that are, and for a value of another type.
    """
    known = shared | _option_types(function)
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{function.__name__} has no {group}.{unknown[0]}; it has {', '.join(known)}")
    schema = make_dataclass(function.__name__, [(name, known[name], field(default=MISSING)) for name in given])
    values = OmegaConf.structured(schema)
    for name, value in given.items():
        try:
            values[name] = value
        except OmegaConfBaseException as error:
            raise ValueError(f"{group}.{name}={value} is refused: {str(error).splitlines()[0]}") from None
    return OmegaConf.to_container(values)  # type: ignore[return-value]


def _option_types(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments that have a default, and of those that a TypedDict behind `**` declares, by name."""
    hints = get_type_hints(function)
    types: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (declared,) = get_args(hints[name])
            assert is_typeddict(declared)
            types |= {key: _plain(hint) for key, hint in get_type_hints(declared).items()}
        elif parameter.default is not inspect.Parameter.empty:
            types[name] = _plain(hints[name])
    return types


def _plain(hint: Any) -> Any:
    """A type that can be typed on a command line: of several, the first of these that is allowed."""
    allowed = get_args(hint) or (hint,)
    plain: Any = next(one for one in (str, bool, int, float, list[float]) if one in allowed)
    return plain | None if type(None) in allowed else plain
