"""The configuration of any scheduler of diffusers as one of ours."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# what says under which diffusion a model was trained counts where it is another class's default, too
_DIFFUSION = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"}
_DIFFUSION |= {"rescale_betas_zero_snr", "use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type"}
# options of schedulers of other models: EDM's and consistency models, score_sde's, CogVideoX, Mochi
_OF_OTHERS = ("sigma_data", "snr", "s_churn", "beta_min", "snr_shift_scale", "invert_sigmas")
# honoured by another name, or without a meaning for a solver
_KNOWN = {"shift", "set_alpha_to_one", "variance_type", "stochastic_sampling", "invert_sigmas"}


def translated(config: Mapping[str, Any], given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """`config` as `cls` takes it, with a warning that names the options which a table cannot honour.

    given: what comes before it. Raises ValueError for a model that does not predict eps, v, x_0 or flow matching's
    flow under DDPM's or flow matching's noise.
    """
    ours = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    if "method" in config:
        return dict(config)
    if others := [key for key in _OF_OTHERS if config.get(key)]:
        raise ValueError(
            f"{others[0]}={config[others[0]]} is an option of a scheduler whose models {cls.__name__} does not know; "
            "deis.torch.sample runs tables on any network, and deis.wrappers says what it predicts"
        )
    found, defaults = dict(config), set(config.get("_use_default_values", ()))
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
