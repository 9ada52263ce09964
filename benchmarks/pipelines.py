"""Error against network calls of schedulers in one pipeline of diffusers, on a mixture whose solution is exact.

    PYTHONPATH=tests python -m benchmarks.pipelines        two minutes on two cores; the table of docs/pipelines.md

Every scheduler runs in DDPMPipeline, from the same noise, on the exact eps of a Gaussian mixture in 2 dimensions under
DDPM's betas, and is compared with the probability-flow ODE's solution at the first training time, where all end.
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from reference.mixture import MIXTURE

import deis
from deis.diffusers import TableScheduler

NFES = (5, 6, 8, 10, 15, 20)
SDE = deis.discrete_vp()
BATCH = 64


class ExactNetwork(diffusers.ModelMixin, ConfigMixin):
    """The mixture's eps as a network of images of one channel and 1 x 2 pixels."""

    @register_to_config
    def __init__(self, sample_size: tuple[int, int] = (1, 2), in_channels: int = 1):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: Any) -> Any:
        t = np.float64(t)
        e = MIXTURE.eps(x.double().numpy().reshape(-1, 2), SDE.s(t), SDE.sigma(t))
        return SimpleNamespace(sample=torch.from_numpy(e).reshape(x.shape))


@cache
def learned(nfe: int) -> Path:
    """The file of a table of tAB3's kind, learned on 256 other trajectories of the mixture."""
    x_T = np.random.default_rng(1).normal(size=(256, 2))
    x_0 = MIXTURE.flow(SDE, x_T, np.array([SDE.T, SDE.t_0]))[-1]
    base = deis.tables.t_ab(SDE, deis.schedule.round_down(deis.timesteps(SDE, nfe), 999))
    eps_fn = MIXTURE.eps_fn(SDE, jnp)
    table = deis.learn.fit(SDE, eps_fn, base, jnp.asarray(x_T, jnp.float32), jnp.asarray(x_0, jnp.float32))
    path = Path(tempfile.mkdtemp()) / "learned.safetensors"
    table.save(path)
    return path


def _like(config: dict[str, Any] | None = None, **options: Any) -> Callable[[int], Any]:
    return lambda nfe: TableScheduler(**(config or {}), **options)


EVEN = {"timestep_spacing": "linspace"}
SCHEDULERS: dict[str, Callable[[int], Any]] = {
    "DDIM": _like(EVEN, method="ddim"),
    "diffusers DEIS, order 2": lambda nfe: diffusers.DEISMultistepScheduler(solver_order=2),
    "diffusers DEIS, order 3": lambda nfe: diffusers.DEISMultistepScheduler(solver_order=3),
    "diffusers DPM-Solver++ 2M": lambda nfe: diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"),
    "diffusers UniPC 2": lambda nfe: diffusers.UniPCMultistepScheduler(final_sigmas_type="sigma_min"),
    "tAB2, the same times": _like(EVEN, method="tab2"),
    "tAB3, the same times": _like(EVEN, method="tab3"),
    "tAB3, its own times": _like(method="tab3"),
    "learned": lambda nfe: TableScheduler(table=learned(nfe)),
}


def error(scheduler: Any, nfe: int) -> float:
    """RMS difference to the exact solution from the pipeline's noise at the first time; it checks the network calls."""
    network = ExactNetwork()
    pipe = diffusers.DDPMPipeline(network, scheduler)
    pipe.set_progress_bar_config(disable=True)
    seen: list[torch.Tensor] = []
    step = scheduler.step

    def recorded(output: torch.Tensor, t: Any, sample: torch.Tensor, **options: Any) -> Any:
        options = options if isinstance(scheduler, TableScheduler) else {}
        result = step(output, t, sample, **options)
        seen.extend([sample, result.prev_sample])
        return result

    scheduler.step = recorded
    pipe(BATCH, torch.Generator().manual_seed(0), num_inference_steps=nfe, output_type="np")
    assert len(seen) == 2 * nfe, (len(seen), nfe)
    start, end = (x.double().numpy().reshape(-1, 2) for x in (seen[0], seen[-1]))
    exact = MIXTURE.flow(SDE, start, np.array([float(scheduler.timesteps[0]), 0.0]))[-1]
    return float(np.sqrt(np.mean((end - exact) ** 2)))


def main() -> None:
    print(f"| RMS error by network calls | {' | '.join(map(str, NFES))} |\n|---|{'---:|' * len(NFES)}")
    for name, make in SCHEDULERS.items():
        print(f"| {name} | {' | '.join(f'{error(make(nfe), nfe):.4f}' for nfe in NFES)} |", flush=True)


if __name__ == "__main__":
    main()
