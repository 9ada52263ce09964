"""DEIS: fast sampling of diffusion models with exponential integrators (Zhang & Chen, arXiv 2204.13902).

    sampler_fn = deis.get_sampler(sde, eps_fn, method="t_ab", ab_order=3, num_step=10)
    x_0 = sampler_fn(noise)

SDEs, schedules and solver tables are NumPy; JAX, an extra, is imported when a sampler is first asked for. In PyTorch it
is `deis.torch.get_sampler`, and JAX is not needed. An argument of another type than its annotation is a ValueError.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deis import tables
from deis.errors import needs
from deis.schedule import timesteps
from deis.sde import (
    SDE,
    VPSDE,
    DiscreteVPSDE,
    discrete_vp,
    edm,
    flow,
    get_cos_alpha_fns,
    get_linear_alpha_fns,
    sub_vp,
    ve,
    vp_cosine,
    vp_linear,
    vp_zero_snr,
)
from deis.table import Table

if TYPE_CHECKING:
    from deis.learn.choosing import choose
    from deis.sampler import get_sampler, sample, trajectory

__all__ = ["SDE", "DiscreteVPSDE", "discrete_vp", "edm", "flow", "sub_vp", "ve", "vp_cosine", "vp_linear"]
__all__ += ["VPSDE", "get_cos_alpha_fns", "get_linear_alpha_fns", "get_sampler", "vp_zero_snr"]
__all__ += ["Table", "__version__", "choose", "sample", "tables", "timesteps", "trajectory"]

__version__ = "0.1.0"

_NEED_JAX = {"choose": "learn.choosing"} | dict.fromkeys(("get_sampler", "sample", "trajectory"), "sampler")
_MODULES = ("adaptive", "diffusers", "grids", "guidance", "k_diffusion", "learn", "likelihood", "torch", "wrappers")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})


def __getattr__(name: str) -> Any:
    if name in _NEED_JAX:
        with needs("jax", f"deis.{name}"):
            return getattr(import_module(f"deis.{_NEED_JAX[name]}"), name)
    if name in _MODULES:
        return import_module(f"deis.{name}")
    raise AttributeError(f"module 'deis' has no attribute {name!r}")
