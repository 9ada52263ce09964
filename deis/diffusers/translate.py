"""The configuration of any scheduler of diffusers as one of ours."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import diffusers

from deis.errors import require, shown

log = logging.getLogger(__name__)

# what says under which diffusion a model was trained counts where it is another class's default, too
_DIFFUSION = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
_DIFFUSION |= {"rescale_betas_zero_snr", "use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type"}
# options of schedulers of other models: EDM's and consistency models, score_sde's, CogVideoX, Mochi, Helios
_OF_OTHERS = ("sigma_data", "snr", "s_churn", "beta_min", "snr_shift_scale", "invert_sigmas", "stages")
# what says which diffusion it is
_SAID_BY = ("beta_start", "beta_schedule", "trained_betas", "shift", "use_flow_sigmas")
# honoured by another name, or without a meaning for a solver
_KNOWN = {"shift", "set_alpha_to_one"}


def translated(config: Mapping[str, Any], given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """`config` as `cls` takes it, with a warning that names the options which a table cannot honour.

    given: what comes before it; a method comes before a table and its own options, and a table before a method.
    Raises ValueError for what is no configuration, and for a model that does not predict eps, v, x_0 or flow matching's
    flow under DDPM's or flow matching's noise.
    """
    ours, is_one = inspect.signature(cls.__init__).parameters, isinstance(config, Mapping)  # type: ignore[misc]
    require(is_one, f"config must be a scheduler's configuration, as pipe.scheduler.config, got {shown(config)}")
    if "method" in config:
        has_table, solver = given.get("table") is not None, {"method", "options", "table"}
        return {
            key: value for key, value in config.items() if key not in solver or not (has_table or "method" in given)
        }
    config = _filled_up(config)
    if others := [key for key in _OF_OTHERS if config.get(key)]:
        raise ValueError(
            f"{others[0]}={config[others[0]]} is an option of a scheduler whose models {cls.__name__} does not know; "
            "deis.torch.sample runs tables on any network, and deis.wrappers says what it predicts"
        )
    told = config.get("timestep_type", "discrete")
    require(told == "discrete", f"timestep_type={told!r} is of networks that are told log sigma: use deis.torch.sample")
    if not any((config | dict(given)).get(key) is not None for key in _SAID_BY):
        said = ", ".join(key for key in config if key[0] != "_") or "nothing"
        raise ValueError(
            f"this configuration, of {said}, does not say which diffusion its model was trained under: give "
            "beta_schedule, beta_start and beta_end, or use_flow_sigmas=True"
        )
    found, defaults = dict(config), set(config["_use_default_values"])
    if "shift" in config and "beta_start" not in config:  # flow matching
        found |= {"prediction_type": "flow_prediction", "flow_shift": found.pop("shift")}
    if "final_sigmas_type" not in config and "set_alpha_to_one" in config.keys() - defaults:
        found["final_sigmas_type"] = "zero" if config["set_alpha_to_one"] else "sigma_min"
    found["_use_default_values"] = list(defaults - _DIFFUSION)
    known = ours.keys() | _KNOWN | defaults
    if without := sorted(key for key, value in config.items() if key not in known and key[0] != "_" and value):
        runs = "the given table" if given.get("table") is not None else f"method={given.get('method', 't_ab')!r}"
        log.warning("%s runs %s, for which %s mean nothing", cls.__name__, runs, ", ".join(without))
    return {key: value for key, value in found.items() if key in ours or key not in config or key[0] == "_"}


def _filled_up(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with what its file leaves out, the defaults of the scheduler that it names."""
    peer = getattr(diffusers, str(config.get("_class_name")), None)
    parameters = inspect.signature(peer.__init__).parameters.values() if peer else ()
    left_out = {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in config}
    return left_out | dict(config) | {"_use_default_values": [*config.get("_use_default_values", ()), *left_out]}
