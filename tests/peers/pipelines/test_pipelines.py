"""Every solver through diffusers' pipelines equals `deis.torch.sample` on the same network, and calls it as often."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deis
from deis import Table, tables, wrappers

torch = pytest.importorskip("torch", reason="runs diffusers' pipelines; make test-peers installs them")
diffusers = pytest.importorskip("diffusers", reason="runs diffusers' pipelines; make test-peers installs them")

import tiny  # noqa: E402

import deis.torch  # noqa: E402
from deis.diffusers import TableScheduler  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # diffusers' own

STEPS = 5
SOLVERS = [*tables.METHODS, "tab2", "learned"]
every_solver = pytest.mark.parametrize("name", SOLVERS)

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
SD |= {"timestep_spacing": "leading", "set_alpha_to_one": False}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learned(sde: deis.SDE, path: Path) -> str:
    """The file of a table like a learned one: other times for the network and other coefficients than any method's."""
    ts = deis.timesteps(sde, STEPS, "t", 1.0)
    table = tables.t_ab(sde, ts, 2)
    draws = np.random.default_rng(0)
    columns = {name: getattr(table, name) for name in table.shapes()}
    columns["P"] = columns["P"] * (1 + 0.02 * draws.normal(size=table.P.shape))
    columns["Q"] = columns["P"]
    columns["t"] = np.append(table.t[0], table.t[1:] + 0.004 * sde.T)
    made = Table("learned", **columns, about={"sde": deis.table.about_sde(sde)})
    made.save(path / "learned.safetensors")
    return str(path / "learned.safetensors")


def scheduler(config: dict[str, Any], name: str, path: Path) -> TableScheduler:
    if name != "learned":
        return TableScheduler.from_config(config, method=name)
    return TableScheduler.from_config(config, table=learned(TableScheduler.from_config(config)._sde, path))


def generators() -> list[Any]:
    return [torch.Generator().manual_seed(seed) for seed in (10, 11)]


def noise(shape: tuple[int, ...], draws: list[Any]) -> Any:
    return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in draws])


def global_noise(table: Table, x: Any) -> Any:
    """[nfe, *x.shape] standard normal noise of torch's own generator, drawn by the rows that add some."""
    return torch.stack([torch.randn(x.shape, dtype=x.dtype) if g else torch.zeros_like(x) for g in table.g])


def expected(made: TableScheduler, net: tiny.Tiny, x: Any, draws: Any) -> Any:
    """By deis.torch.sample, the wrapper for what the network predicts, and the times that it is told."""
    unit = 1000 if made.config.prediction_type == "flow_prediction" else 1
    prediction = {"epsilon": "eps", "v_prediction": "v", "flow_prediction": "flow"}[made.config.prediction_type]
    eps_fn = wrappers.from_prediction(made._sde, lambda x, t: net.network(x, unit * t), prediction)
    with torch.no_grad():
        return deis.torch.sample(made.table, eps_fn, x, draws if made.table.is_stochastic else None)


def drawn(net: tiny.Tiny, x: Any, draws: list[Any]) -> tuple[Any, int]:
    calls: list[None] = []
    hook = net.module.register_forward_hook(lambda *_: calls.append(None))
    result = net.draw(STEPS, x, draws)
    hook.remove()
    return result, len(calls)


def agree(made: TableScheduler, net: tiny.Tiny, hands_on_generators: bool = True) -> None:
    """hands_on_generators: whether the pipeline gives its generators to the scheduler."""
    x = noise(net.shape, generators())
    torch.manual_seed(5)
    got, calls = drawn(net, x, generators())
    assert calls == made.table.nfe == len(made.timesteps)
    torch.manual_seed(5)
    draws = generators() if hands_on_generators else global_noise(made.table, x)
    torch.testing.assert_close(got, expected(made, net, x, draws), rtol=1e-5, atol=1e-5)


@every_solver
def test_ddpm(name: str, tmp_path: Path) -> None:
    """It draws its noise from the generators, and so does a stochastic solver after it."""
    made = scheduler(diffusers.DDPMScheduler().config, name, tmp_path)
    net = tiny.ddpm(made)
    draws = generators()
    x = noise(net.shape, draws)
    got, calls = drawn(net, None, generators())
    assert calls == made.table.nfe
    torch.testing.assert_close(got, expected(made, net, x, draws).clamp(-1, 1), rtol=1e-5, atol=1e-5)


@every_solver
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(name: str, prediction: str, tmp_path: Path) -> None:
    made = scheduler(diffusers.DDIMScheduler(**SD, prediction_type=prediction).config, name, tmp_path)
    agree(made, tiny.stable_diffusion(made))


@every_solver
def test_image_to_image(name: str, tmp_path: Path) -> None:
    """It begins at the share `strength` of the steps, from the image with noise."""
    made = scheduler(diffusers.PNDMScheduler(**SD, skip_prk_steps=True).config, name, tmp_path)
    net = tiny.image_to_image(made)
    image, draws = torch.ones(2, *net.shape, dtype=torch.float64), generators()
    got, calls = drawn(net, image, draws)
    whole = len(made.timesteps)
    begin = made.order * (STEPS - int(STEPS * 0.6))
    assert calls == made.table.nfe == whole - begin
    t = made.timesteps[begin].expand(2)
    np.testing.assert_allclose(made.table.t[0], float(t[0]), rtol=1e-6)
    draws = generators()
    x = made.add_noise(image, noise(net.shape, draws), t)
    torch.testing.assert_close(got, expected(made, net, x, draws), rtol=1e-5, atol=1e-5)


@every_solver
def test_class_conditional(name: str, tmp_path: Path) -> None:
    made = scheduler(diffusers.DDIMScheduler().config, name, tmp_path)
    net = tiny.class_conditional(made)
    x = torch.randn(2, *net.shape, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    torch.manual_seed(5)
    got, calls = drawn(net, None, torch.Generator().manual_seed(10))
    assert calls == made.table.nfe
    torch.manual_seed(5)
    torch.testing.assert_close(got, expected(made, net, x, global_noise(made.table, x)), rtol=1e-5, atol=1e-5)


@every_solver
def test_stable_diffusion_3(name: str, tmp_path: Path) -> None:
    made = scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config, name, tmp_path)
    agree(made, tiny.stable_diffusion_3(made), hands_on_generators=False)


@every_solver
def test_flux(name: str, tmp_path: Path) -> None:
    config = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).config
    made = scheduler(config, name, tmp_path)
    if name == "restart":  # so few nodes leave no room for its interval
        with pytest.raises(ValueError, match="s_tmax must lie between the rho of two nodes"):
            agree(made, tiny.flux(made), hands_on_generators=False)
        return
    agree(made, tiny.flux(made), hands_on_generators=False)
