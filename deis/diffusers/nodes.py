"""The diffusion and the nodes that a scheduler's configuration describes.

Times are those of the SDE: the index of a discrete-time model, or sigma of flow matching.
"""

import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

import deis
from deis.errors import as_type, choice, require
from deis.schedule import Nodes, round_down, spaced, timesteps
from deis.sde import SDE

Config = Mapping[str, Any]

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v", "flow_prediction": "flow"}
"""diffusers' prediction types by their names in `deis.wrappers.PREDICTIONS`."""

GRIDS = {"karras": partial(spaced, kind="power", order=7.0)}
GRIDS |= {"exponential": partial(spaced, kind="log"), "beta": partial(spaced, kind="beta")}
"""diffusers' grids of noise levels, as `use_karras_sigmas`: functions of both ends and the number of steps."""

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""diffusers' beta schedules by their names in `deis.discrete_vp`."""


_NAMES: dict[str, Collection[str]] = {
    "prediction_type": PREDICTION_TYPES,
    "final_sigmas_type": ("zero", "sigma_min"),
    "time_shift_type": ("exponential", "linear"),
}


def is_flow(config: Config) -> bool:
    """Whether the model is one of flow matching."""
    return config["prediction_type"] == "flow_prediction" or config["use_flow_sigmas"]


def sde_of(config: Config) -> SDE:
    """The diffusion that the model was trained under. Raises ValueError for an unknown name."""
    for name, allowed in _NAMES.items():
        choice(name, config[name], allowed)
    if is_flow(config):
        return deis.flow()
    to_zero = config["rescale_betas_zero_snr"]
    if config["trained_betas"] is not None:
        return deis.discrete_vp(betas=config["trained_betas"], zero_terminal_snr=to_zero)
    if config["beta_schedule"] not in SCHEDULES:
        raise ValueError(
            f"beta_schedule must be one of {', '.join(SCHEDULES)}, got {config['beta_schedule']!r}; other betas are "
            f"given as trained_betas=[...]"
        )
    schedule, times = SCHEDULES[config["beta_schedule"]], config["num_train_timesteps"]
    return deis.discrete_vp(schedule, config["beta_start"], config["beta_end"], times, zero_terminal_snr=to_zero)


def nodes_of(
    config: Config,
    sde: SDE,
    num_step: int | None,
    given_times: np.ndarray | None = None,
    given_sigmas: np.ndarray | None = None,
    mu: float | None = None,
) -> tuple[Nodes, bool]:
    """(nodes, whether one more network call, at the last of them, leads to sigma = 0).

    num_step: network calls of a method that makes one a step; of times or sigmas that are given, their number or None.
    given_times: as the network is told them. given_sigmas: the noise-to-signal ratios, or of flow matching the
        sigmas before they are shifted. A last one at sigma = 0 may be left out.
    mu: the logarithm of the shift, where the configuration has use_dynamic_shifting.
    Raises ValueError for numbers or names that are not allowed.
    """
    require(given_times is None or given_sigmas is None, "give timesteps or sigmas, not both")
    sigmas = None if given_sigmas is None else np.trim_zeros(given_sigmas, "b")
    if given_times is not None and is_flow(config):
        given_times = np.trim_zeros(given_times, "b")
    if (given := given_times if sigmas is None else sigmas) is None:
        num_step = as_type("num_inference_steps", num_step, int)
        require(num_step >= 1, f"num_inference_steps must be at least 1, got {num_step}")
    elif len(given) == 0:
        raise ValueError("timesteps must hold a time above 0, and sigmas a noise level above 0, got none")
    elif num_step not in (None, len(given)):
        raise ValueError(f"num_inference_steps={num_step} is not the number of the times that are given, {len(given)}")
    if is_flow(config):
        if given_times is not None:
            return np.append(given_times / config["num_train_timesteps"], 0.0), False
        return np.append(_flow_sigmas(config, num_step, sigmas, mu), 0.0), False
    if given_times is not None:
        ts = given_times
    elif sigmas is not None:
        ts = sde.t_of_rho(sigmas)
    else:
        assert num_step is not None
        ts = _discrete_times(config, sde, num_step)
    if config["final_sigmas_type"] == "zero" or ts[-1] == 0:
        return ts, True
    return np.append(ts, 0.0), False


def _discrete_times(config: Config, sde: SDE, num_step: int) -> Nodes:
    """The times of `num_step` network calls."""
    times, spacing = config["num_train_timesteps"], config["timestep_spacing"]
    if kind := _sigma_spacing(config):
        most, least = sde.rho(np.array([sde.T, sde.t_0])).tolist()
        high, low = config["sigma_max"] or most, config["sigma_min"] or least
        is_known = 0.99 * least <= low < high <= 1.01 * most and high < math.inf  # as 14.6146 of 14.61465
        said = f"sigma_min and sigma_max must be finite and between the model's {least:.4g} and {most:.4g}"
        require(is_known, f"{said}, got {low:g} and {high:g}")
        ts = np.asarray(sde.t_of_rho(GRIDS[kind](high, low, num_step - 1)), np.float64)
        return np.clip(np.round(ts, 9), sde.t_0, sde.T)  # the ends are whole times
    match spacing:
        case "linspace":
            ts = np.linspace(0, times - 1, num_step + 1)[:0:-1].round()
        case "leading":
            ts = np.arange(num_step)[::-1] * (times // num_step) + float(config["steps_offset"])
        case "trailing":
            ts = np.round(times - np.arange(num_step) * times / num_step) - 1
        case _:
            to_zero = config["final_sigmas_type"] == "zero" and num_step > 1
            ts = timesteps(sde, num_step - to_zero, spacing, config["ts_order"])[:num_step]
    return round_down(ts, int(sde.T))


def _flow_sigmas(config: Config, num_step: int | None, sigmas: np.ndarray | None, mu: float | None) -> Nodes:
    """Sigmas of the network calls, shifted towards the noisy end."""
    dynamic, shift = config["use_dynamic_shifting"], config["flow_shift"]
    if dynamic:
        if mu is None:
            raise ValueError("use_dynamic_shifting derives the shift from the image's size: pass mu")
        shift = math.exp(mu) if config["time_shift_type"] == "exponential" else mu
    shifted = deis.flow(shift).sigma
    if sigmas is None:
        assert num_step is not None
        lowest = 1 / config["num_train_timesteps"]
        if config["use_flow_sigmas"]:  # as diffusers' multistep schedulers, with a last step like the others
            sigmas = np.linspace(1.0, lowest, num_step + 1)[:-1]
        else:
            sigmas = np.linspace(1.0, lowest if dynamic else shifted(lowest), num_step)
    sigmas = np.asarray(shifted(sigmas))
    if config["shift_terminal"]:
        require(sigmas[-1] < 1, "shift_terminal moves the last time, which is the first where there is one step alone")
        sigmas = 1 - (1 - sigmas) * (1 - config["shift_terminal"]) / (1 - sigmas[-1])
    if kind := _sigma_spacing(config):
        sigmas = GRIDS[kind](sigmas[0], sigmas[-1], len(sigmas) - 1)
    return sigmas


def _sigma_spacing(config: Config) -> str | None:
    asked = [kind for kind in GRIDS if config[f"use_{kind}_sigmas"]]
    if len(asked) > 1:
        raise ValueError(f"use_{asked[0]}_sigmas and use_{asked[1]}_sigmas exclude each other")
    return asked[0] if asked else None
