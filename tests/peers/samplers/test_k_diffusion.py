"""Our tables against the samplers of k-diffusion, on a Gaussian mixture, with the same noise.

Its samplers run in sigma with s = 1, on sigmas that end at 0, and ask a denoiser for x_0. Where a sampler asks its
`noise_sampler` for the noise between two sigmas, it gets what the table adds there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import problem
from reference.mixture import MIXTURE

import deis
from deis import Table, tables

torch = pytest.importorskip("torch", reason="compares with k-diffusion, which needs torch; make test-peers installs it")
sampling = pytest.importorskip("k_diffusion.sampling", reason="compares with k-diffusion; make test-peers installs it")

SDE = deis.edm()
RNG = np.random.default_rng(0)
X_T = 80.0 * RNG.standard_normal((8, 2))
DRAWS = RNG.standard_normal((64, 8, 2))
num_steps = pytest.mark.parametrize("num_step", [1, 2, 3, 10])


def denoiser(x: Any, sigma: Any) -> Any:
    level = float(sigma[0])
    return x - level * torch.from_numpy(MIXTURE.eps(x.numpy(), 1.0, level))


def peer(name: str, ts: np.ndarray, noise: Callable | None = None, **options: Any) -> np.ndarray:
    """Samples of k-diffusion's sampler; noise: what its n-th question for noise is answered with."""
    if noise:
        answers = (noise(n) for n in range(len(DRAWS)))
        options["noise_sampler"] = lambda *sigmas: torch.from_numpy(next(answers))
    sigmas = torch.from_numpy(np.append(ts, 0.0))
    run = getattr(sampling, f"sample_{name}")
    return run(denoiser, torch.from_numpy(X_T), sigmas, disable=True, **options).numpy()


def agree(table: Table, expected: np.ndarray) -> None:
    got = problem.run(table, MIXTURE.eps_fn(SDE), X_T, DRAWS)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8, err_msg=table.name)


@num_steps
def test_deterministic_samplers(num_step):
    ts = deis.timesteps(SDE, num_step, "edm")
    agree(tables.dpm_2(SDE, ts), peer("dpm_2", ts))
    agree(tables.edm_heun(SDE, ts), peer("heun", ts))
    agree(tables.dpm_solver_pp(SDE, ts, lower_order_final=False, denoise=True), peer("dpmpp_2m", ts))
    twice = tables.exponential_rk(SDE, ts, "2s", denoise=True)
    agree(twice, peer("dpmpp_2s_ancestral", ts, lambda n: DRAWS[0], eta=0.0))


@num_steps
@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ancestral_samplers(num_step, eta):
    """The table's noise stands in the last of the two rows of a step."""
    ts = deis.timesteps(SDE, num_step, "edm")
    options = {"eta": eta, "s_noise": 1.1}
    for name, prediction in (("dpmpp_2s_ancestral", "x_0"), ("dpm_2_ancestral", "eps")):
        table = tables.exponential_rk(SDE, ts, "2s", prediction=prediction, ancestral=True, denoise=True, **options)
        agree(table, peer(name, ts, lambda n: DRAWS[2 * n + 1], **options))
    agree(tables.ddim_eta(SDE, ts, eta, denoise=True), peer("euler_ancestral", ts, lambda n: DRAWS[n], eta=eta))


@num_steps
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_multistep_sdes(num_step, eta):
    ts = deis.timesteps(SDE, num_step, "edm")
    for variant in ("midpoint", "heun"):
        table = tables.dpm_solver_pp_sde(SDE, ts, eta=eta, variant=variant, denoise=True)
        agree(table, peer("dpmpp_2m_sde", ts, lambda n: DRAWS[n], eta=eta, solver_type=variant))
    table = tables.dpm_solver_pp_sde(SDE, ts, 3, eta=eta, variant="heun", denoise=True)
    agree(table, peer("dpmpp_3m_sde", ts, lambda n: DRAWS[n], eta=eta))


@num_steps
def test_single_step_sde(num_step):
    """Its noise over a step is not that over the half of it carried on; it gets the table's sum for the whole step."""
    ts = deis.timesteps(SDE, num_step, "edm")
    table = tables.exponential_rk(SDE, ts, "2s", eta=1.0, denoise=True)

    def noise(n: int) -> np.ndarray:
        if n % 2 == 0:
            return DRAWS[n]
        total = table.p[n] * table.g[n - 1] * DRAWS[n - 1] + table.g[n] * DRAWS[n]
        return total / np.hypot(table.p[n] * table.g[n - 1], table.g[n])

    agree(table, peer("dpmpp_sde", ts, noise))
