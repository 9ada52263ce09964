"""Runs of TableScheduler: precision, changed samples, runs from the middle, clipping, and what a step costs."""

import copy
import pickle
import time
from typing import Any

import numpy as np
import pytest

import deis
from deis import tables

torch = pytest.importorskip("torch", reason="tests a scheduler of diffusers; make test-peers installs it")
diffusers = pytest.importorskip("diffusers", reason="tests a scheduler of diffusers; make test-peers installs it")

from loops import model, run, sample_of  # noqa: E402

import deis.torch  # noqa: E402
from deis.diffusers import TableScheduler  # noqa: E402


class TestRuns:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_low_precision(self, dtype: Any) -> None:
        """As deis.torch: the state is float32 and only what the network sees and the result are rounded."""
        made = TableScheduler(method="unipc")
        x = sample_of().to(dtype)
        got = run(made, 12, x)
        assert got.dtype == dtype
        assert torch.equal(got, deis.torch.sample(made.table, model, x))

    @pytest.mark.parametrize(
        ("method", "options"), [("t_ab", {}), ("rho_rk", {}), ("t_ab", {"corrector": True}), ("ei_score", {})]
    )
    def test_a_changed_sample_moves_the_state(self, method: str, options: dict[str, Any]) -> None:
        """Inpainting replaces a part between the steps: a constant added to x at the network call i is in u and v."""
        made = TableScheduler(method=method, options=options)
        made.set_timesteps(4)
        x, by = sample_of().double(), 0.25
        zero = torch.zeros_like(x)
        for i, t in enumerate(made.timesteps):
            x = x + by * (i == 2)
            x = made.step(zero, t, x).prev_sample
        s = made.table.s
        expected = s[-1] * (sample_of().double() / s[0] + by / s[2])
        torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)

    def test_a_run_from_the_middle_is_the_method_from_there(self) -> None:
        made = TableScheduler(method="t_ab", timestep_spacing="leading", steps_offset=1)
        made.set_timesteps(10)
        made.set_begin_index(4)
        times = made.timesteps[4:]
        x = sample_of().double()
        for t in times:
            x = made.step(model(x, t), t, x).prev_sample
        ts = np.append(times.numpy(), 0.0)
        expected = tables.t_ab(deis.discrete_vp(), ts, 3)
        torch.testing.assert_close(x, deis.torch.sample(expected, model, sample_of().double()), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("method", ["rho_rk", "f_pndm", "s_pndm", "edm_heun", "plms"])
    @pytest.mark.parametrize("begin", [1, 2, 5, 6])
    def test_a_run_from_any_row_follows_the_exact_solution(self, method: str, begin: int) -> None:
        """eps is that of a point mass at 0.7: every consistent row stays on its path."""
        sde, made = deis.discrete_vp(), TableScheduler(method=method)
        made.set_timesteps(12)
        made.set_begin_index(begin)
        left = made.timesteps[begin:]
        z, s, sigma = sample_of().double(), *sde.marginal(float(left[0]))
        x = 0.7 * float(s) + float(sigma) * z
        for t in left:
            x = made.step(z, t, x).prev_sample
        s, sigma = (made.table.s[-1], made.table.s[-1] * made.table.rho[-1])
        torch.testing.assert_close(x, 0.7 * s + sigma * z, rtol=1e-6, atol=1e-6)

    def test_without_begin_index_the_time_says_where(self) -> None:
        made = TableScheduler(method="rho_rk", options={"rk_method": "2heun"})
        made.set_timesteps(5)
        t = made.timesteps[2]  # twice: the second stage of the first step, and the first of the second
        assert t == made.timesteps[1]
        made.step(sample_of(), t, sample_of())
        assert made.step_index == 3

    def test_clipping_is_that_of_the_wrapper(self) -> None:
        made, sde = TableScheduler(method="t_ab", clip_sample=True, clip_sample_range=0.5), deis.discrete_vp()
        x = sample_of().double()
        wrapped = deis.wrappers.clip_x_0(sde, model, -0.5, 0.5)
        got = run(made, 6, x)
        torch.testing.assert_close(got, deis.torch.sample(made.table, wrapped, x), rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
    def test_a_copy_goes_on_with_the_run(self, again: Any) -> None:
        made = TableScheduler(method="unipc", thresholding=True)
        expected, x = run(made), sample_of()
        made.set_timesteps(6)
        for i, t in enumerate(made.timesteps):
            made = again(made) if i == 3 else made
            x = made.step(model(x, t), t, x).prev_sample
        assert torch.equal(x, expected)

    def test_thresholding_is_that_of_diffusers(self) -> None:
        options = {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9}
        made = TableScheduler(method="ddim", timestep_spacing="leading", steps_offset=1, **options)
        peer = diffusers.DDIMScheduler(
            clip_sample=False, steps_offset=1, set_alpha_to_one=False, timestep_spacing="leading", **options
        )
        peer.set_timesteps(5)
        x = y = 3 * sample_of()
        got = run(made, 5, x)
        for t in peer.timesteps[:-1]:
            y = peer.step(model(y, t), t, y, use_clipped_model_output=True).prev_sample
        y = peer.step(model(y, peer.timesteps[-1]), peer.timesteps[-1], y, use_clipped_model_output=True).prev_sample
        torch.testing.assert_close(got, y, rtol=1e-3, atol=1e-3)

    def test_a_learned_variance_is_left_out(self) -> None:
        made = TableScheduler(method="ddim")
        made.set_timesteps(3)
        x = sample_of()
        with_variance = made.step(torch.cat([x, x + 9], 1), made.timesteps[0], x).prev_sample
        made.set_timesteps(3)
        assert torch.equal(with_variance, made.step(x, made.timesteps[0], x).prev_sample)


@pytest.mark.slow
def test_overhead() -> None:
    """A step costs less than 3 % of a call of a U-Net of 1.6 M parameters, and the set-up less than 5 ms."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        block_out_channels=(48, 96),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    assert 1.2e6 < sum(p.numel() for p in unet.parameters()) < 2e6
    made, x = TableScheduler(method="t_ab"), torch.randn(1, 1, 28, 28)
    calls, steps, starts = (list[float]() for _ in range(3))

    def timed(kept: list[float], call: Any) -> Any:
        before = time.perf_counter()
        result = call()
        kept.append(time.perf_counter() - before)
        return result

    with torch.no_grad():
        for _ in range(5):
            timed(starts, lambda: made.set_timesteps(5))
            for t in made.timesteps:
                e = timed(calls, lambda: unet(x, t).sample)  # noqa: B023
                x = timed(steps, lambda: made.step(e, t, x).prev_sample)  # noqa: B023
    assert min(starts) < 5e-3, starts
    assert min(steps) < 0.03 * min(calls), (min(steps), min(calls))
