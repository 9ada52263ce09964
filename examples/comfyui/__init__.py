"""DEIS in ComfyUI: copy this folder to ComfyUI/custom_nodes/deis, and pip install 'deis-sampler[torch]' there.

KSampler then lists deis_tab3, deis_tab2 and others. The node "DEIS sampler" makes any solver of the library, or a
learned table, for SamplerCustom, and "DEIS sigmas" its grids.
"""

import json
from typing import Any

import comfy.k_diffusion.sampling
import comfy.model_sampling
import comfy.samplers
import numpy as np

import deis
from deis import k_diffusion
from deis.tables import METHODS

SAMPLERS = {
    "deis_tab3": ("t_ab", {"order": 3}),
    "deis_tab2": ("t_ab", {"order": 2}),
    "deis_tab1": ("t_ab", {"order": 1}),
    "deis_ipndm": ("ipndm", {}),
    "deis_unipc": ("unipc", {}),
}


def sde_of(model_sampling: Any) -> deis.SDE:
    """The diffusion of a model: flow matching, or the one of its discrete noise levels."""
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        return deis.flow()
    if not hasattr(model_sampling, "sigmas"):
        return deis.edm()
    levels = np.asarray(model_sampling.sigmas.cpu().double())
    return deis.DiscreteVPSDE(1 / (1 + levels**2))


def sample(
    model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None, **how: Any
):
    """`deis.k_diffusion.sample_table` for the diffusion of ComfyUI's model."""
    sde = sde_of(model.inner_model.model_patcher.get_model_object("model_sampling"))
    return k_diffusion.sample_table(model, x, sigmas, extra_args, callback, disable, sde=sde, **how)


def _register(name: str, method: str, options: dict[str, Any]) -> None:
    def named(model, x, sigmas, extra_args=None, callback=None, disable=None):  # by ComfyUI's signature
        return sample(model, x, sigmas, extra_args, callback, disable, method=method, options=options)

    setattr(comfy.k_diffusion.sampling, f"sample_{name}", named)
    comfy.samplers.KSampler.SAMPLERS.append(name)


for _name, (_method, _options) in SAMPLERS.items():
    _register(_name, _method, _options)


class DeisSampler:
    """Any solver by its name and options as JSON, or the file of a learned table."""

    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "sampler"
    CATEGORY = "sampling/custom_sampling/samplers"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        text = {"multiline": False}
        options = {"options": ("STRING", {"default": "{}", **text}), "table": ("STRING", {"default": "", **text})}
        return {"required": {"method": (list(METHODS),), **options}}

    def sampler(self, method: str, options: str, table: str) -> tuple[Any]:
        how = {"table": table} if table else {"method": method, "options": json.loads(options)}
        return (comfy.samplers.KSAMPLER(sample, extra_options=how),)


class DeisSigmas:
    """A grid of `deis.timesteps` as noise levels; with denoise below 1, the last `steps` of a longer one."""

    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "sigmas"
    CATEGORY = "sampling/custom_sampling/schedulers"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        numbers: dict[str, Any] = {
            "steps": ("INT", {"default": 10, "min": 1, "max": 1000}),
            "phase": (["t", "rho", "log", "edm"],),
            "order": ("FLOAT", {"default": 2.0, "min": 0.1, "max": 20.0}),
            "denoise": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 1.0}),
        }
        return {"required": {"model": ("MODEL",), **numbers}}

    def sigmas(self, model: Any, steps: int, phase: str, order: float, denoise: float) -> tuple[Any]:
        sde = sde_of(model.get_model_object("model_sampling"))
        return (k_diffusion.get_sigmas(round(steps / denoise), phase, order, sde)[-(steps + 1) :],)


NODE_CLASS_MAPPINGS = {"DeisSampler": DeisSampler, "DeisSigmas": DeisSigmas}
NODE_DISPLAY_NAME_MAPPINGS = {"DeisSampler": "DEIS sampler", "DeisSigmas": "DEIS sigmas"}
