"""TableScheduler by itself: what diffusers asks of its schedulers, their configurations, and sentences of errors."""

import json
from pathlib import Path
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

CONFIGS: list[dict[str, Any]] = [
    {},
    {"method": "tab2", "timestep_spacing": "leading", "steps_offset": 1},
    {"method": "rho_rk", "options": {"rk_method": "2heun"}, "timestep_spacing": "trailing"},
    {"method": "unipc", "options": {"order": 2}, "use_karras_sigmas": True, "final_sigmas_type": "zero"},
    {"method": "ddpm", "options": {"variance": "large"}, "beta_schedule": "squaredcos_cap_v2"},
    {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    {"prediction_type": "sample", "use_exponential_sigmas": True, "clip_sample": True},
    {"prediction_type": "epsilon", "use_beta_sigmas": True, "thresholding": True, "sample_max_value": 1.5},
    {"prediction_type": "flow_prediction", "flow_shift": 3.0},
    {"trained_betas": np.linspace(1e-4, 0.02, 100).tolist(), "num_train_timesteps": 100},
]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: ",".join(config) or "default")


class TestAsDiffusersTestsItsSchedulers:
    """Its list: configurations, forward arguments, saving, shapes, outputs, the public names, noise, betas."""

    @every_config
    def test_saved_and_loaded_it_steps_the_same(self, config: dict[str, Any], tmp_path: Path) -> None:
        made = TableScheduler(**config)
        made.save_pretrained(tmp_path)
        again = TableScheduler.from_pretrained(tmp_path)
        assert json.loads((tmp_path / "scheduler_config.json").read_text())["_class_name"] == "TableScheduler"
        torch.testing.assert_close(run(again), run(made), rtol=0, atol=0)
        rebuilt = TableScheduler.from_config(made.config)
        torch.testing.assert_close(run(rebuilt), run(made), rtol=0, atol=0)

    @every_config
    @pytest.mark.parametrize("num_step", [1, 2, 10, 50])
    def test_forward_arguments(self, config: dict[str, Any], num_step: int) -> None:
        made = TableScheduler(**config)
        result = run(made, num_step)
        assert torch.isfinite(result).all()
        assert len(made.timesteps) == made.table.nfe
        assert made.step_index == made.table.nfe

    @every_config
    def test_shapes_and_outputs(self, config: dict[str, Any]) -> None:
        as_dict, as_tuple = TableScheduler(**config), TableScheduler(**config)
        x = sample_of()
        for made in (as_dict, as_tuple):
            made.set_timesteps(5)
        t = as_dict.timesteps[0]
        first = as_dict.step(model(x, t), t, x, generator=torch.Generator().manual_seed(0))
        (second,) = as_tuple.step(model(x, t), t, x, torch.Generator().manual_seed(0), return_dict=False)
        assert first.prev_sample.shape == x.shape
        assert torch.equal(first.prev_sample, second)
        assert torch.equal(first[0], second)

    @every_config
    def test_public_names(self, config: dict[str, Any]) -> None:
        made = TableScheduler(**config)
        x = sample_of()
        assert torch.equal(made.scale_model_input(x, 3), x)
        assert isinstance(made.init_noise_sigma, float)
        assert len(made) == made.config.num_train_timesteps == len(made.timesteps)
        made.set_timesteps(4, device="cpu")
        assert len(made.sigmas) == len(made.timesteps) + 1
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = made.nothing

    @every_config
    def test_noise_is_that_of_the_diffusion(self, config: dict[str, Any]) -> None:
        made, x, noise = TableScheduler(**config), sample_of(), sample_of((2, 3, 4, 4)) + 1
        t = torch.tensor([7, 90])
        noised = made.add_noise(x, noise, t)
        if config.get("prediction_type") == "flow_prediction":
            sigma = (t / 1000)[:, None, None, None]
            expected, velocity = (1 - sigma) * x + sigma * noise, None
        else:
            names = ("beta_schedule", "trained_betas", "num_train_timesteps", "rescale_betas_zero_snr")
            kept = {key: value for key, value in config.items() if key in names}
            peer = diffusers.DDPMScheduler(**kept)
            expected, velocity = peer.add_noise(x, noise, t), peer.get_velocity(x, noise, t)
            torch.testing.assert_close(made.alphas_cumprod, peer.alphas_cumprod, rtol=2e-4, atol=1e-7)
        torch.testing.assert_close(noised, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made.scale_noise(x, t, noise), noised)
        if velocity is not None:
            torch.testing.assert_close(made.get_velocity(x, noise, t), velocity, rtol=1e-4, atol=1e-4)

    def test_config_attributes(self) -> None:
        made = TableScheduler(num_train_timesteps=500, method="ipndm")
        assert (made.config.num_train_timesteps, made.config.method, made.config.steps_offset) == (500, "ipndm", 0)
        assert "DDIMScheduler" in [c.__name__ for c in made.compatibles]


class TestTimes:
    @pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
    @pytest.mark.parametrize("num_step", [4, 7, 50])
    def test_spacings_are_those_of_diffusers(self, spacing: str, num_step: int) -> None:
        options = {"timestep_spacing": spacing, "steps_offset": 1}
        made = TableScheduler(method="ddim", **options)
        kind = diffusers.DPMSolverMultistepScheduler if spacing == "linspace" else diffusers.DDIMScheduler
        peer = kind(**options)
        for scheduler in (made, peer):
            scheduler.set_timesteps(num_step)
        assert made.timesteps.dtype == torch.int64
        np.testing.assert_array_equal(made.timesteps, peer.timesteps)

    @pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
    def test_grids_in_sigma_are_those_of_diffusers(self, kind: str) -> None:
        made, peer = (cls(**{f"use_{kind}_sigmas": True}) for cls in (TableScheduler, diffusers.EulerDiscreteScheduler))
        for scheduler in (made, peer):
            scheduler.set_timesteps(8)
        np.testing.assert_allclose(made.sigmas, peer.sigmas, rtol=2e-4)
        np.testing.assert_allclose(made.timesteps, peer.timesteps, rtol=1e-3, atol=0.05)

    @pytest.mark.parametrize(
        "options",
        [{"shift": 3.0}, {"use_dynamic_shifting": True}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}],
    )
    def test_flow_matching_has_the_grid_of_diffusers(self, options: dict[str, Any]) -> None:
        """And DDIM on it is its Euler method."""
        peer = diffusers.FlowMatchEulerDiscreteScheduler(**options)
        made = TableScheduler.from_config(peer.config, method="ddim")
        mu = {"mu": 0.9} if options.get("use_dynamic_shifting") else {}
        for scheduler in (made, peer):
            scheduler.set_timesteps(6, **mu)
        np.testing.assert_allclose(made.timesteps, peer.timesteps, rtol=1e-5)
        np.testing.assert_allclose(made.sigmas, peer.sigmas, rtol=1e-5, atol=1e-7)
        x = y = sample_of()
        for t, same in zip(made.timesteps, peer.timesteps, strict=True):
            x = made.step(model(x, t), t, x).prev_sample
            y = peer.step(model(y, t), same, y).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)

    def test_multistep_schedulers_of_flow_matching_have_a_grid_of_their_own(self) -> None:
        options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
        peer = diffusers.UniPCMultistepScheduler(**options)
        made = TableScheduler.from_config(peer.config)
        for scheduler in (made, peer):
            scheduler.set_timesteps(6)
        np.testing.assert_allclose(made.sigmas, peer.sigmas, rtol=1e-5)

    def test_times_and_sigmas_of_ones_own(self) -> None:
        made = TableScheduler(method="t_ab", final_sigmas_type="zero")
        made.set_timesteps(timesteps=[900, 500, 33])
        assert made.timesteps.tolist() == [900, 500, 33]
        sigmas = made.sigmas.tolist()
        assert sigmas[-1] == 0
        made.set_timesteps(3, sigmas=torch.tensor(sigmas, requires_grad=True))
        np.testing.assert_allclose(made.timesteps, [900, 500, 33], rtol=1e-5)
        flow = TableScheduler(prediction_type="flow_prediction")
        flow.set_timesteps(timesteps=[1000, 400.5, 0])
        assert flow.timesteps.tolist() == [1000, 400.5]
        flow.set_timesteps(sigmas=[1.0, 0.5])
        assert flow.timesteps.tolist() == [1000, 500]

    def test_the_default_is_the_published_call(self) -> None:
        made = TableScheduler()
        x, sde = sample_of(), deis.discrete_vp()
        got = run(made, 7, x)
        expected = deis.torch.get_sampler(sde, model, num_step=7)(x)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


class TestSentences:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: TableScheduler(method="tab9"), "method must be one of ddim, t_ab"),
            (
                lambda: TableScheduler(method="ddim", options={"order": 2}),
                "option of ddim must be one of .*, got 'order'",
            ),
            (lambda: TableScheduler(final_sigmas_type="last"), "final_sigmas_type must be one of zero, .*got 'last'"),
            (lambda: TableScheduler(time_shift_type="log"), "time_shift_type must be one of exponential, .*got 'log'"),
            (lambda: TableScheduler(prediction_type="noise"), "prediction_type must be one of epsilon, .*got 'noise'"),
            (lambda: TableScheduler(beta_schedule="sigmoid"), "beta_schedule must be one of linear, .*trained_betas"),
            (lambda: TableScheduler(timestep_spacing="odd").set_timesteps(3), "ts_phase must be one of t, .*got 'odd'"),
            (lambda: TableScheduler().set_timesteps(0), "num_inference_steps must be at least 1, got 0"),
            (lambda: TableScheduler().set_timesteps(3, timesteps=[1], sigmas=[1]), "timesteps or sigmas, not both"),
            (lambda: TableScheduler().set_timesteps(timesteps=[5, 900]), "must decrease strictly"),
            (lambda: TableScheduler().set_timesteps(3, timesteps=[9, 5]), "=3 is not the number of the times .*, 2"),
            (lambda: TableScheduler().set_timesteps(sigmas=[0.0]), "sigmas a noise level above 0, got none"),
            (
                lambda: TableScheduler(use_flow_sigmas=True, prediction_type="sample").set_timesteps(sigmas=[]),
                "got none",
            ),
            (
                lambda: TableScheduler(use_karras_sigmas=True, sigma_max=700.0).set_timesteps(3),
                "must be finite and between the model's 0.01 and 157.4, got 0.01.* and 700",
            ),
            (
                lambda: TableScheduler(**CONFIGS[5] | {"use_karras_sigmas": True}).set_timesteps(3),
                "must be finite and between the model's 0.01 and inf",
            ),
            (
                lambda: TableScheduler(prediction_type="flow_prediction", shift_terminal=0.1).set_timesteps(1),
                "shift_terminal moves the last time",
            ),
            (lambda: TableScheduler().set_begin_index(1.5), "begin_index must be a whole number or None, got 1.5"),
            (lambda: TableScheduler(dynamic_thresholding_ratio=99.5), "dynamic_thresholding_ratio must lie in"),
            (
                lambda: TableScheduler(use_karras_sigmas=True, use_beta_sigmas=True).set_timesteps(3),
                "use_karras_sigmas and use_beta_sigmas exclude each other",
            ),
            (
                lambda: TableScheduler(prediction_type="flow_prediction", use_dynamic_shifting=True).set_timesteps(3),
                "pass mu",
            ),
            (lambda: TableScheduler(rescale_betas_zero_snr=True), "eps"),
            (lambda: TableScheduler().table, "call set_timesteps first"),
            (lambda: TableScheduler().step(sample_of(), 3, sample_of()), "call set_timesteps first"),
        ],
    )
    def test_what_cannot_be(self, make: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()

    @pytest.mark.parametrize("method", ["t_ab", "ddpm", "rho_rk"])
    def test_one_step_to_sigma_0_is_the_prediction(self, method: str) -> None:
        made, x = (
            TableScheduler(method=method, prediction_type="sample", final_sigmas_type="zero"),
            sample_of().double(),
        )
        made.set_timesteps(1)
        torch.testing.assert_close(made.step(0.5 * x, made.timesteps[0], x).prev_sample, 0.5 * x, rtol=1e-5, atol=1e-5)

    def test_steps_that_cannot_be(self) -> None:
        made, x = TableScheduler(method="ddim"), sample_of()
        made.set_timesteps(2)
        with pytest.raises(ValueError, match="timestep 3 is none of this run's, 999, 249"):
            made.step(x, 3, x)
        with pytest.raises(ValueError, match=r"timestep must be one time for the whole batch, got shape \(2,\)"):
            made.step(x, torch.tensor([999, 999]), x)
        with pytest.raises(ValueError, match=r"model_output must have the shape of sample, \(2, 3, 4, 4\), got"):
            made.step(x[:, :2], 999, x)
        made.set_timesteps(2)
        made.set_begin_index(5)
        with pytest.raises(ValueError, match="begin_index must be 0 to 1 in this run, got 5"):
            made.step(x, 999, x)
        made.set_timesteps(1)
        made.step(x, 999, x)
        with pytest.raises(ValueError, match="all 1 network calls of this run are made"):
            made.step(x, 999, x)

    def test_tables(self, tmp_path: Path) -> None:
        sde, file = deis.discrete_vp(), tmp_path / "five.safetensors"
        tables.t_ab(sde, deis.schedule.round_down(deis.timesteps(sde, 5), 999)).save(file)
        made = TableScheduler(table=file)
        with pytest.raises(ValueError, match="the table tAB3 makes 5 network calls: give num_inference_steps=5, got 6"):
            made.set_timesteps(6)
        with pytest.raises(ValueError, match="tAB3 was made for another SDE"):
            TableScheduler(table=str(file), beta_end=0.05)
        with pytest.raises(FileNotFoundError, match="there is no table"):
            TableScheduler(table=tmp_path / "none.safetensors")
        made.save_pretrained(tmp_path / "saved")
        file.unlink()
        again = TableScheduler.from_pretrained(tmp_path / "saved")  # by its numbers
        torch.testing.assert_close(run(again, 5), run(made, 5), rtol=0, atol=0)
