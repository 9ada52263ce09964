"""Import of diffusers' networks against diffusers: what a UNet2DModel answers, and what its DDIM pipeline draws.

Weights are random, since the published ones would have to be fetched; they are those that torch draws, but the last
layer is scaled so that the answers are of unit size.
"""

import inspect
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import tables
from models.published.diffusers import SCHEDULER, UNET, read_diffusers
from models.score import eps_fn
from models.unet import network_of, num_params

torch = pytest.importorskip("torch", reason="compares with diffusers, which needs torch; make test-peers installs both")
diffusers = pytest.importorskip("diffusers", reason="compares with diffusers; make test-peers installs it")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own, of NumPy and torch

GOLDEN = Path(__file__).parent.parent / "fixtures" / "unet2d"
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}

# options of Ho et al.'s network, as those of google/ddpm-cifar10-32
DDPM = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}


def levels(size: int, widths: list[int], attention: list[int]) -> dict[str, Any]:
    """attention: the sizes that have it, one size a level from `size` down by halves."""
    kinds = ["Attn" if size // 2**i in attention else "" for i in range(len(widths))]
    return {
        "sample_size": size,
        "block_out_channels": widths,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


CIFAR10 = levels(32, [128, 256, 256, 256], [16]) | DDPM
NETWORKS = {
    "cifar10": CIFAR10,
    "celeba, a quarter as wide": levels(64, [32, 64, 64, 64, 128], [16]) | DDPM,
    "defaults, with classes": levels(16, [32, 64, 96, 128], [8, 4, 2]) | {"num_class_embeds": 10},
    "old attention groups": levels(16, [32, 64], [8]) | {"norm_num_groups": 16, "attn_norm_num_groups": 16},
}
SMALL = levels(32, [32, 64, 64, 64], [16]) | DDPM


def unet_of(options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**options).eval()
    label = torch.zeros(1, dtype=torch.long) if unet.config.num_class_embeds else None
    with torch.no_grad():
        size = unet(noise(unet, 1), 500, label).sample.std()
        for parameter in unet.conv_out.parameters():
            parameter /= size
    return unet


def noise(unet: Any, batch: int) -> Any:
    size = unet.config.sample_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def to_nhwc(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())


def agree(ours: Any, theirs: Any, tolerance: float) -> None:
    """To `tolerance` of the largest value."""
    expected = to_nhwc(theirs)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_imported_network_answers_as_in_torch(name, tmp_path):
    unet = unet_of(NETWORKS[name])
    unet.save_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text(json.dumps(BETAS))
    found = read_diffusers(tmp_path)
    assert num_params(found.params) == sum(parameter.numel() for parameter in unet.parameters())
    x, t = noise(unet, 1), torch.tensor([731])
    label = torch.tensor([7]) if found.model.num_classes else None
    with torch.no_grad():
        theirs = unet(x, t, label).sample
    assert 0.5 < theirs.std() < 2
    apply = jax.jit(network_of(found.model).apply)
    ours = apply(found.params, to_nhwc(x), jnp.array([731.0]), None if label is None else label.numpy(), None)
    agree(ours, theirs, 1e-4)


def test_cifar10_has_as_many_parameters_as_published():
    assert sum(parameter.numel() for parameter in diffusers.UNet2DModel(**CIFAR10).parameters()) == 35_746_307


def test_the_golden_case_is_what_diffusers_answers():
    """tests/fixtures/unet2d, from which tests/test_diffusers_import.py reads without torch."""
    io = np.load(GOLDEN / "io.npz")
    x, t, label = (torch.from_numpy(io[name]) for name in ("x", "t", "label"))
    for changed in [name for name in io if name.startswith("{")]:
        unet = diffusers.UNet2DModel.from_pretrained(GOLDEN, local_files_only=True, **json.loads(changed))
        with torch.no_grad():
            agree(io[changed], unet(x.permute(0, 3, 1, 2), t, label).sample, 1e-5)


def test_defaults_are_those_of_diffusers():
    """Every option of the network has a default here, and so have those of a scheduler that are not asked for."""
    defaults = inspect.signature(diffusers.UNet2DModel.__init__).parameters
    expected = {name: p.default for name, p in defaults.items() if name != "self"}
    assert {name: default for name, (default, _) in UNET.items()} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()
    }
    scheduler = dict(diffusers.DDIMScheduler().config)
    for name in ("trained_betas", "rescale_betas_zero_snr", "prediction_type"):
        assert SCHEDULER[name][0] == scheduler[name]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_discrete_diffusion_is_that_of_the_scheduler(schedule):
    """To the float32 in which diffusers multiplies the betas."""
    scheduler = diffusers.DDIMScheduler(beta_schedule=schedule, beta_start=8.5e-4, beta_end=0.012)
    ours = "cosine" if schedule == "squaredcos_cap_v2" else schedule
    alpha_bar = deis.discrete_vp(ours, 8.5e-4, 0.012).s(np.arange(1000.0)) ** 2
    np.testing.assert_allclose(alpha_bar, scheduler.alphas_cumprod.numpy(), rtol=1e-4)


@pytest.fixture(
    scope="module", params=[(CIFAR10, "epsilon"), (SMALL, "sample"), (SMALL, "v_prediction")], ids=lambda p: p[1]
)
def pipeline(request, tmp_path_factory):
    """(A DDPM pipeline, the folder that it saved itself in)."""
    options, prediction = request.param
    folder = tmp_path_factory.mktemp("ddpm")
    scheduler = diffusers.DDPMScheduler(**BETAS, prediction_type=prediction, clip_sample=False)
    made = diffusers.DDPMPipeline(unet_of(options), scheduler)
    made.save_pretrained(folder)
    return made, folder


def imported(folder: Path) -> tuple[deis.SDE, Any]:
    found = read_diffusers(folder)
    sde = deis.discrete_vp(**{key: value for key, value in found.sde.items() if key != "name"})
    return sde, eps_fn(network_of(found.model), sde, found.params)


def test_ddim_draws_what_the_pipeline_draws(pipeline):
    """10 NFE at the indices 900, 800, ..., 0 and on to sigma = 0; the pipeline's pictures are cut to [0, 1]."""
    made, folder = pipeline
    ddim = diffusers.DDIMPipeline(made.unet, diffusers.DDIMScheduler.from_config(made.scheduler.config))
    ddim.set_progress_bar_config(disable=True)
    x_T = noise(made.unet, 1)
    pictures = ddim(num_inference_steps=10, generator=torch.Generator().manual_seed(1), output_type="np").images
    x = x_T
    with torch.no_grad():
        for t in ddim.scheduler.timesteps:
            x = ddim.scheduler.step(made.unet(x, t).sample, t, x).prev_sample

    sde, eps = imported(folder)
    table = tables.ddim(sde, ddim.scheduler.timesteps.numpy().astype(float), denoise=True)
    assert table.nfe == 10
    ours = deis.sample(table, eps, jnp.asarray(to_nhwc(x_T)))
    agree(ours, x, 1e-3)
    np.testing.assert_allclose(np.clip(ours / 2 + 0.5, 0, 1), pictures, rtol=0, atol=1e-3)


def test_tab3_draws_the_same_in_jax_and_in_torch(pipeline):
    made, folder = pipeline
    sde, eps = imported(folder)
    table = tables.t_ab(sde, deis.timesteps(sde, 10, "uniform"), order=3)
    assert table.nfe == 10
    x_T = noise(made.unet, 1)
    prediction = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}[made.scheduler.config.prediction_type]
    in_torch = deis.wrappers.from_prediction(sde, lambda x, t: made.unet(x, t).sample, prediction)
    with torch.no_grad():
        theirs = deis.torch.sample(table, in_torch, x_T)
    agree(deis.sample(table, eps, jnp.asarray(to_nhwc(x_T))), theirs, 1e-3)


def test_the_average_that_diffusers_saves(tmp_path: Path) -> None:
    from diffusers.training_utils import EMAModel

    unet = unet_of(levels(16, [32, 64], [8]))
    ema = EMAModel(unet.parameters(), model_cls=diffusers.UNet2DModel, model_config=unet.config)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter += torch.randn_like(parameter)
    ema.step(unet.parameters())
    diffusers.DDPMScheduler(**BETAS).save_pretrained(tmp_path / "scheduler")
    ema.save_pretrained(tmp_path / "unet_ema")
    found = read_diffusers(tmp_path)
    assert "optimization_step" in json.loads((tmp_path / "unet_ema" / "config.json").read_text())
    ema.copy_to(unet.parameters())
    unet.save_pretrained(tmp_path / "plain")
    expected = read_diffusers(tmp_path / "plain")
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, expected.params))
