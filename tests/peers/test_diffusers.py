"""Our tables against the schedulers of diffusers, on a Gaussian mixture under its discrete linear-beta schedule.

Both run the same perfect eps in float64; what differs is the float32 of the schedulers' coefficients. Conventions:

* Nodes. A scheduler's `timesteps` are our nodes but for the end, which is the index 0 ("sigma_min",
  set_alpha_to_one=False) or sigma = 0 ("zero", set_alpha_to_one=True), our denoise=True.
* DDIM and PNDM step from index t to t - 1000 // N. With steps_offset=0 their last step goes from the index 0 to the
  index 0, an evaluation for nothing, which is no node of ours; here steps_offset is 1.
* PNDM with the Runge-Kutta steps puts the middle of a step at t - 500 // N, the average of its indices where
  1000 // N is even; ours is the average always. It has no fewer than 4 steps, and no sigma = 0 in our tables.
* DPMSolverMultistep and DEISMultistep lower the order at the end below 15 steps, UniPCMultistep always; ours where
  lower_order_final says so.
* The solver_type "midpoint" of DPMSolverMultistep is our published DPM-Solver++; "heun" of order 2 is exact=True. Of
  order 3 diffusers has the published weights alone, which make it of order 2.
* "bh1" and "bh2" of UniPCMultistep are B1 and B2, and all steps in disable_corrector leave UniP. Over a step to
  sigma = 0 it answers NaN for "bh1" and for predict_x0=False (infinity times 0); our tables are finite there.
* The schedulers of flow models have linspace(1, 1/1000, N), shifted, and 0 as nodes; our grid "t" of a `deis.flow`.
* DEISMultistep is log-rho AB of the degree solver_order - 1; it ends at the index 0.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from reference import problem
from reference.mixture import MIXTURE

import deis
from deis import SDE, Table, tables
from deis.schedule import dynamic_shift

torch = pytest.importorskip("torch", reason="compares with diffusers, which needs torch; make test-peers installs both")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers; make test-peers installs it")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own, of NumPy and torch

BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
num_steps = pytest.mark.parametrize("num_step", [4, 5, 10, 20])
endings = pytest.mark.parametrize("to_zero", [False, True], ids=["sigma_min", "zero"])


def run_peer(scheduler: Any, sde: SDE, num_step: int) -> tuple[np.ndarray, int]:
    """The scheduler's sample from `problem.start`, as its pipelines run it, and the NFE."""
    scheduler.set_timesteps(num_step)
    eps_fn, x = MIXTURE.eps_fn(sde), torch.from_numpy(problem.start(sde))
    for t in scheduler.timesteps:
        x = scheduler.step(torch.from_numpy(eps_fn(x.numpy(), float(t))), t, x).prev_sample
    return x.numpy(), len(scheduler.timesteps)


def sde_of(scheduler: Any) -> SDE:
    return deis.DiscreteVPSDE(scheduler.alphas_cumprod.double().numpy())


def agree(table: Table, sde: SDE, peer: tuple[np.ndarray, int]) -> None:
    expected, nfe = peer
    assert table.nfe == nfe
    got = problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4, err_msg=table.name)


def multistep_nodes(scheduler: Any, num_step: int, to_zero: bool) -> np.ndarray:
    scheduler.set_timesteps(num_step)
    ts = scheduler.timesteps.numpy().astype(float)
    return ts if to_zero else np.append(ts, 0.0)


def strided_nodes(num_step: int, to_zero: bool) -> np.ndarray:
    """The times of DDIM and PNDM with steps_offset=1 are ..., 1 + 1000 // N, 1, and 0."""
    ts = 1.0 + 1000 // num_step * np.arange(num_step - 1, -1, -1)
    return ts if to_zero else np.append(ts, 0.0)


@num_steps
@endings
def test_ddim(num_step, to_zero):
    peer = diffusers.DDIMScheduler(**BETAS, clip_sample=False, steps_offset=1, set_alpha_to_one=to_zero)
    sde = sde_of(peer)
    agree(tables.ddim(sde, strided_nodes(num_step, to_zero), denoise=to_zero), sde, run_peer(peer, sde, num_step))


@num_steps
@pytest.mark.parametrize("skip_prk_steps", [False, True])
def test_pndm(num_step, skip_prk_steps):
    """F-PNDM with the Runge-Kutta steps, PLMS without."""
    peer = diffusers.PNDMScheduler(**BETAS, steps_offset=1, skip_prk_steps=skip_prk_steps)
    sde, method = sde_of(peer), tables.plms if skip_prk_steps else tables.f_pndm
    agree(method(sde, strided_nodes(num_step, False)), sde, run_peer(peer, sde, num_step))


@num_steps
@endings
@pytest.mark.parametrize(
    ("order", "solver_type", "exact"),
    [(1, "midpoint", False), (2, "midpoint", False), (2, "heun", True), (3, "midpoint", False)],
)
def test_dpm_solver_pp(num_step, to_zero, order, solver_type, exact):
    ending = "zero" if to_zero else "sigma_min"
    peer = diffusers.DPMSolverMultistepScheduler(
        **BETAS, solver_order=order, solver_type=solver_type, algorithm_type="dpmsolver++", final_sigmas_type=ending
    )
    sde, ts = sde_of(peer), multistep_nodes(peer, num_step, to_zero)
    table = tables.dpm_solver_pp(sde, ts, order, exact=exact, lower_order_final=num_step < 15, denoise=to_zero)
    agree(table, sde, run_peer(peer, sde, num_step))


@num_steps
@endings
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("variant", ["B1", "B2"])
@pytest.mark.parametrize("prediction", ["eps", "x_0"])
@pytest.mark.parametrize("corrector", [False, True])
def test_unipc(num_step, to_zero, order, variant, prediction, corrector):
    peer = diffusers.UniPCMultistepScheduler(
        **BETAS,
        solver_order=order,
        solver_type=variant.replace("B", "bh"),
        predict_x0=prediction == "x_0",
        disable_corrector=[] if corrector else list(range(num_step)),
        final_sigmas_type="zero" if to_zero else "sigma_min",
    )
    sde, ts = sde_of(peer), multistep_nodes(peer, num_step, to_zero)
    table = tables.unipc(sde, ts, order, variant=variant, prediction=prediction, corrector=corrector, denoise=to_zero)
    expected = run_peer(peer, sde, num_step)
    if to_zero and (variant, prediction) != ("B2", "x_0"):
        assert np.all(np.isnan(expected[0]))
        assert np.all(np.isfinite(problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))))
    else:
        agree(table, sde, expected)


@num_steps
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(num_step, order):
    peer = diffusers.DEISMultistepScheduler(**BETAS, solver_order=order, algorithm_type="deis")
    sde, ts = sde_of(peer), multistep_nodes(peer, num_step, to_zero=False)
    table = tables.log_rho_ab(sde, ts, order - 1, lower_order_final=num_step < 15)
    agree(table, sde, run_peer(peer, sde, num_step))


def run_flow(scheduler: Any, z: np.ndarray, **nodes: Any) -> np.ndarray:
    """A flow scheduler's sample from the noise z, with the exact network eps - x_0 of the mixture."""
    scheduler.set_timesteps(**nodes)
    x = torch.from_numpy(z)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas.double().numpy(), strict=False):
        s = 1 - sigma
        eps_minus_x_0 = MIXTURE.eps(x.numpy(), s, sigma) - MIXTURE.x_0(x.numpy(), s, sigma)
        x = scheduler.step(torch.from_numpy(eps_minus_x_0), t, x).prev_sample.double()
    return x.numpy()


def noise() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, 2))


@num_steps
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_euler_with_a_static_shift(num_step, shift):
    """Its grid is even from 1 to the shifted 1/1000, and shifted once more; a last step leads to sigma = 0."""
    peer = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    expected = run_flow(peer, noise(), num_inference_steps=num_step)
    sde = deis.flow(shift, t_0=float(deis.flow(shift).sigma(1e-3)))
    table = tables.ddim(sde, deis.timesteps(sde, num_step - 1, "t", 1.0), denoise=True)
    assert table.nfe == num_step
    np.testing.assert_allclose(problem.run(table, MIXTURE.eps_fn(sde), noise()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_step", [1, 4, 10, 28])
@pytest.mark.parametrize("num_tokens", [256, 4096])
def test_flow_euler_with_a_dynamic_shift(num_step, num_tokens):
    """As FLUX's pipeline calls it, with even sigmas down to 1 / N."""
    mu = (1.15 - 0.5) / (4096 - 256) * (num_tokens - 256) + 0.5
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    expected = run_flow(peer, noise(), sigmas=np.linspace(1, 1 / num_step, num_step).tolist(), mu=mu)
    sde = deis.flow(dynamic_shift(num_tokens))
    table = tables.ddim(sde, deis.timesteps(sde, num_step, "t", 1.0))
    np.testing.assert_allclose(problem.run(table, MIXTURE.eps_fn(sde), noise()), expected, rtol=0, atol=1e-6)


FLOW_PEERS: dict[str, tuple[str, dict[str, Any], Any]] = {
    "DPM++2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}, partial(tables.dpm_solver_pp, order=2)),
    "DPM++3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, partial(tables.dpm_solver_pp, order=3)),
    "UniPC2": ("UniPCMultistepScheduler", {"solver_order": 2}, partial(tables.unipc, order=2)),
    "UniPC3": ("UniPCMultistepScheduler", {"solver_order": 3}, partial(tables.unipc, order=3)),
}


@pytest.mark.parametrize("name", FLOW_PEERS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_multistep_schedulers_with_flow_sigmas(name, shift):
    """They begin at sigma = 0.999 or 1 - 1e-6 with pure noise, and so do our tables if asked to."""
    scheduler, options, method = FLOW_PEERS[name]
    for num_step in (5, 10, 100):
        got, ts = run_flow_sigmas(scheduler, num_step, flow_shift=shift, **options)
        sde = deis.flow(T=ts[0])
        table = method(sde, ts, lower_order_final=num_step < 15 or "UniPC" in name)
        np.testing.assert_allclose(problem.run(table, MIXTURE.eps_fn(sde), noise()), got, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["DPM++2M", "DPM++3M"])
def test_a_start_at_1_is_nearer_than_one_at_0_999(name):
    scheduler, options, method = FLOW_PEERS[name]
    theirs, ts = run_flow_sigmas(scheduler, 200, **options)
    sde = deis.flow()
    ours = problem.run(method(sde, np.append(1.0, ts[1:])), MIXTURE.eps_fn(sde), noise())
    exact = MIXTURE.flow(sde, noise(), np.array([1.0, 1e-6]))[-1]
    errors = [np.sqrt(np.mean((x - exact) ** 2)) for x in (ours, theirs)]
    assert errors[0] < 0.2 * errors[1]


def run_flow_sigmas(scheduler: str, num_step: int, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sample of a multistep scheduler with flow sigmas, and these, which are times of `deis.flow()`."""
    options |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
    peer = getattr(diffusers, scheduler)(**options)
    return run_flow(peer, noise(), num_inference_steps=num_step), peer.sigmas.double().numpy()
