"""The configuration of any scheduler of diffusers as one of ours."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

import diffusers

log = logging.getLogger(__name__)

# what says under which diffusion a model was trained: a default of another class, too, is not ours
_DIFFUSION = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
_DIFFUSION += ("rescale_betas_zero_snr", "use_flow_sigmas", "flow_shift", "use_dynamic_shifting", "time_shift_type")
_OF_OTHERS = ("sigma_data", "snr", "snr_shift_scale", "invert_sigmas")
# read by pipelines, and without a meaning for a solver
_SILENT = ("variance_type",)


def translated(config: Mapping[str, Any], given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """`config` as `cls` takes it.

    given: what comes before it. Raises ValueError for the scheduler of a model that is none of eps, v, x_0 or flow.
    """
    name = config.get("_class_name", cls.__name__)
    if name == cls.__name__ or not isinstance(name, str):
        return dict(config)
    found, defaults = dict(config), set(config.get("_use_default_values", ()))
    is_flow = name.startswith("FlowMatch")
    peer = getattr(diffusers, name, None)
    known = inspect.signature(peer.__init__).parameters if peer is not None else found
    if not (is_flow or "beta_schedule" in known) or any(found.get(key) for key in _OF_OTHERS):
        raise ValueError(
            f"{name} is of a model whose output or noise is not that of DDPM or flow matching; "
            "deis.torch.sample with deis.wrappers runs tables on any"
        )
    if is_flow:
        found |= {"prediction_type": "flow_prediction", "flow_shift": found.pop("shift", 1.0)}
    if "final_sigmas_type" not in found and "set_alpha_to_one" in found.keys() - defaults:
        found["final_sigmas_type"] = "zero" if found["set_alpha_to_one"] else "sigma_min"
    found["_use_default_values"] = list(defaults - set(_DIFFUSION))
    ours = {*inspect.signature(cls.__init__).parameters, "set_alpha_to_one", "shift", *_SILENT}  # type: ignore[misc]
    without = sorted(key for key, value in config.items() if key not in {*ours, *defaults} and key[0] != "_" and value)
    if without:
        chosen = "the given table" if given.get("table") is not None else f"method={given.get('method', 't_ab')!r}"
        log.warning("%s runs %s: %s of %s have no effect", cls.__name__, chosen, ", ".join(without), name)
    return found
