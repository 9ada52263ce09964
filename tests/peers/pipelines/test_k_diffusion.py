"""Tables by k-diffusion's calling convention against k-diffusion's own samplers, and ComfyUI's nodes.

Its modules are read without its package's __init__, which asks for much that no sampler needs.
"""

import importlib
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from reference.mixture import MIXTURE

import deis
from deis import tables, wrappers

torch = pytest.importorskip(
    "torch", reason="compares with k-diffusion, which needs torch; make test-peers installs both"
)

import deis.torch  # noqa: E402
from deis import k_diffusion as ours  # noqa: E402

SDE = ours.latent_diffusion()
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def peer() -> Any:
    """k_diffusion.sampling."""
    if not find_spec("k_diffusion"):
        pytest.skip("compares with k-diffusion; make test-peers installs it")
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = [str(Path(find_spec("k_diffusion").origin).parent)]  # type: ignore[union-attr, arg-type]
    utils.append_dims = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]  # type: ignore[attr-defined]
    package.utils = utils  # type: ignore[attr-defined]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    yield importlib.import_module("k_diffusion.sampling")
    for name in ("k_diffusion", "k_diffusion.utils", "k_diffusion.sampling"):
        del sys.modules[name]


def denoiser(x: Any, sigma: Any) -> Any:
    """The exact one of the mixture, in float64."""
    assert sigma.shape == (len(x),)
    level = float(sigma[0])
    e = torch.from_numpy(np.asarray(MIXTURE.eps(x.double().numpy(), 1.0, level)))
    return (x - level * e).to(x.dtype)


def noise(sigma_max: float, count: int = 8) -> Any:
    return sigma_max * torch.randn(count, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("grid", ["karras", "exponential", "vp"])
@pytest.mark.parametrize(
    ("theirs", "method", "options"),
    [
        ("euler", "ddim", {}),
        ("heun", "edm_heun", {}),
        ("dpm_2", "dpm_2", {}),
        ("lms", "rho_ab", {"order": 3}),
        ("dpmpp_2m", "dpm_solver_pp", {"order": 2, "lower_order_final": False}),
    ],
)
def test_its_samplers_are_tables_of_ours(
    peer: Any, theirs: str, method: str, options: dict[str, Any], grid: str
) -> None:
    """With sigma as time, in which its linear multistep method integrates the polynomial down to 0."""
    span = () if grid == "vp" else (0.03, 14.6)
    sigmas = getattr(peer, f"get_sigmas_{grid}")(10, *span).double()
    x = noise(float(sigmas[0]))
    expected = getattr(peer, f"sample_{theirs}")(denoiser, x, sigmas, disable=True)
    got = ours.sample_table(denoiser, x, sigmas, method=method, options=options, sde=deis.edm())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [*tables.METHODS, "tab3"])
def test_by_its_calling_convention_it_is_deis_torch(method: str) -> None:
    """x is in its scale there, sqrt(1 + sigma^2) times that of the variance preserving diffusion."""
    sigmas = ours.get_sigmas(8).double()
    x = noise(float(sigmas[0]))
    seen: list[dict[str, Any]] = []
    gaussian = torch.randn(20, 8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noises = iter(gaussian)
    got = ours.sample_table(
        denoiser, x, sigmas, callback=seen.append, method=method, noise_sampler=lambda *_: next(noises)
    )
    table = deis.tables.named_solver(method, {})(SDE, SDE.t_of_rho(sigmas[:-1].numpy()).clip(0, 999), True)
    eps_fn = wrappers.from_edm(SDE, lambda x, sigma: denoiser(x, sigma.expand(len(x))))
    rows = np.flatnonzero(table.g)
    z = torch.zeros(table.nfe, 8, 2, dtype=torch.float64)
    z[rows] = gaussian[: len(rows)]
    expected = deis.torch.sample(table, eps_fn, x * table.s[0], z)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert [at["i"] for at in seen] == list(range(table.nfe))
    np.testing.assert_allclose([float(at["sigma"]) for at in seen], table.rho[:-1], rtol=1e-6)
    assert seen[-1].keys() == {"x", "i", "sigma", "sigma_hat", "denoised"}


def test_tab_and_extra_arguments() -> None:
    sigmas, x = ours.get_sigmas(6), noise(10.0).float()
    asked: list[Any] = []

    def model(x: Any, sigma: Any, **extra: Any) -> Any:
        asked.append(extra)
        assert x.dtype == sigma.dtype == torch.float32
        return denoiser(x, sigma)

    got = ours.sample_tab(model, x, sigmas, {"cond": 3}, None, True, order=2)
    assert asked == [{"cond": 3}] * 6
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, ours.sample_table(denoiser, x, sigmas, options={"order": 2}))


def test_flow_matching() -> None:
    """x is (1 - sigma) x_0 + sigma eps there, and sigma = 1 pure noise."""
    flow = deis.flow()
    assert ours.get_sigmas(6, "t", 1.0, replace(flow, T=0.5))[0] == 0.5
    sigmas = ours.get_sigmas(6, "t", 1.0, flow).double()
    assert (float(sigmas[0]), float(sigmas[-1])) == (1.0, 0.0)
    x = noise(1.0)

    def model(x: Any, sigma: Any) -> Any:
        return 0.5 * x.tanh() * (1 - sigma[:, None])

    got = ours.sample_table(model, x, sigmas, sde=flow)
    eps_fn = wrappers.from_prediction(flow, lambda x, t: model(x, t.expand(len(x))), "x_0")
    expected = deis.torch.sample(tables.t_ab(flow, sigmas.numpy(), 3), eps_fn, x)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_a_table_has_its_own_noise_levels(tmp_path: Path) -> None:
    table = tables.t_ab(SDE, deis.timesteps(SDE, 5), 2)
    table.save(tmp_path / "five.safetensors")
    x = noise(10.0)
    got = ours.sample_table(denoiser, x, ours.sigmas_of(table), table=tmp_path / "five.safetensors")
    eps_fn = wrappers.from_edm(SDE, lambda x, sigma: denoiser(x, sigma.expand(len(x))))
    expected = deis.torch.sample(table, eps_fn, x * table.s[0]) / table.s[-1]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"the table tAB2 has its own noise levels: give sigmas=sigmas_of\(table, sde\)"
    ):
        ours.sample_table(denoiser, x, ours.get_sigmas(5), table=table)


@pytest.mark.parametrize("method", ["t_ab", "ddpm", "edm_heun", "s_pndm"])
def test_one_step_to_0_is_the_denoiser(method: str) -> None:
    x = noise(5.0)
    torch.testing.assert_close(
        ours.sample_table(denoiser, x, [5.0, 0.0], method=method), denoiser(x, x.new_full((8,), 5.0))
    )


def test_sigmas_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        ours.get_sigmas(0)
    with pytest.raises(ValueError, match="sigmas must be a vector of at least 2 noise levels that decrease to 0"):
        ours.sample_table(denoiser, noise(1.0), torch.tensor([1.0, 2.0, 0.0]))
    with pytest.raises(ValueError, match=r"sigmas of flow matching must begin at 1 or below, got 1\.5"):
        ours.sample_table(denoiser, noise(1.0), [1.5, 0.0], sde=deis.flow())
    with pytest.raises(ValueError, match=r"x must be floating point, got torch\.int64"):
        ours.sample_table(denoiser, torch.ones(2, 2, dtype=torch.int64), [1.0, 0.0])
    with pytest.raises(ValueError, match=r"model must answer in the shape of x, \(8, 2\), got \(1, 2\)"):
        ours.sample_table(lambda x, sigma: x[:1], noise(1.0), [1.0, 0.0])
    with pytest.raises(ValueError, match="the noise level sigma / s has no meaning at T=999, where s = 0"):
        ours.sample_table(denoiser, noise(1.0), [1.0, 0.5, 0.0], sde=deis.discrete_vp(zero_terminal_snr=True))
    with pytest.raises(ValueError, match="give a table, or a method with its options, not both"):
        ours.sample_table(denoiser, noise(1.0), [1.0, 0.0], method="ddim", table=tables.build(SDE, method="ddim"))


class ModelSampling:
    """ComfyUI's object that says under which noise a model was trained."""

    sigmas = torch.from_numpy(SDE.rho(np.arange(1000.0)))


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """examples/comfyui, beside a ComfyUI of only what it touches."""
    sampling = ModuleType("comfy.k_diffusion.sampling")
    samplers, model_sampling = ModuleType("comfy.samplers"), ModuleType("comfy.model_sampling")
    samplers.KSampler = SimpleNamespace(SAMPLERS=["euler"])  # type: ignore[attr-defined]
    samplers.KSAMPLER = lambda function, extra_options: SimpleNamespace(**locals())  # type: ignore[attr-defined]
    model_sampling.CONST = type("CONST", (), {})  # type: ignore[attr-defined]
    parts = {"comfy": ModuleType("comfy"), "comfy.k_diffusion": ModuleType("comfy.k_diffusion")}
    parts |= {
        "comfy.k_diffusion.sampling": sampling,
        "comfy.samplers": samplers,
        "comfy.model_sampling": model_sampling,
    }
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(parts[parent], last, module)
    spec = importlib.util.spec_from_file_location("deis_comfyui", ROOT / "examples" / "comfyui" / "__init__.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def test_comfyui_s_samplers_and_nodes(nodes: Any) -> None:
    from comfy.k_diffusion import sampling
    from comfy.samplers import KSampler

    assert KSampler.SAMPLERS[:2] == ["euler", "deis_tab3"]
    inner = SimpleNamespace(model_patcher=SimpleNamespace(get_model_object=lambda name: ModelSampling()))

    class Model:
        inner_model = inner

        def __call__(self, x: Any, sigma: Any, **extra: Any) -> Any:
            return denoiser(x, sigma)

    patcher = SimpleNamespace(get_model_object=lambda name: ModelSampling())
    (sigmas,) = nodes.DeisSigmas().sigmas(patcher, steps=7, phase="t", order=2.0, denoise=1.0)
    torch.testing.assert_close(sigmas, ours.get_sigmas(7).float())
    x = noise(float(sigmas[0]))
    got = sampling.sample_deis_tab3(Model(), x, sigmas, extra_args={"seed": 3})
    torch.testing.assert_close(got, ours.sample_tab(denoiser, x, sigmas), rtol=1e-5, atol=1e-5)
    (half,) = nodes.DeisSigmas().sigmas(patcher, steps=4, phase="t", order=2.0, denoise=0.5)
    assert len(half) == 5
    assert half[0] < sigmas[0] / 2
    (sampler,) = nodes.DeisSampler().sampler("rho_rk", '{"rk_method": "2heun"}', "")
    got = sampler.function(Model(), x, sigmas, extra_args={}, **sampler.extra_options)
    expected = ours.sample_table(denoiser, x, sigmas, method="rho_rk", options={"rk_method": "2heun"})
    torch.testing.assert_close(got, expected)
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        assert node.INPUT_TYPES()["required"]
        assert hasattr(node, node.FUNCTION)
        assert name in nodes.NODE_DISPLAY_NAME_MAPPINGS
