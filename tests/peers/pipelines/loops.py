"""The loop of every pipeline, without one."""

from typing import Any

import torch

from deis.diffusers import TableScheduler


def sample_of(shape: tuple[int, ...] = (2, 3, 4, 4)) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def model(x: Any, t: Any) -> Any:
    return 0.3 * torch.tanh(x) + 1e-4 * float(t)


def run(scheduler: TableScheduler, num_step: int = 6, x: Any = None) -> Any:
    """The loop of every pipeline."""
    scheduler.set_timesteps(num_step)
    x = scheduler.init_noise_sigma * sample_of() if x is None else x
    for t in scheduler.timesteps:
        x = scheduler.step(
            model(scheduler.scale_model_input(x, t), t), t, x, generator=torch.Generator().manual_seed(int(t))
        )[0]
    return x
