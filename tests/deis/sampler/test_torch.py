"""The torch runner: the same tables give the same samples, with or without JAX."""

import inspect
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from reference import loop
from reference.mixture import MIXTURE

import deis
from deis import tables, wrappers

torch = pytest.importorskip("torch")
import deis.torch  # noqa: E402

SDE = deis.vp_linear()
ROOT = Path(__file__).parents[3]


NODES = deis.timesteps(SDE, 12)
EXTRAS = {
    "ddim_eta": partial(tables.ddim_eta, eta=0.3),
    "ddpm_large": partial(tables.ddpm, variance="large", denoise=True),
    "analytic_ddim": partial(tables.analytic_ddim, eps_norm=np.full(len(NODES), 0.9), eta=1.0),
    "t_ab_corrected": partial(tables.t_ab, corrector=True, lower_order_final=True, denoise=True),
    "ipndm_variable": partial(tables.ipndm, variable_step=True),
    "edm_churn": partial(tables.edm_heun, s_churn=10.0),
}
TABLES = {name: tables.build(SDE, num_step=12, method=name) for name in tables.METHODS}
TABLES |= {name: build(SDE, NODES) for name, build in EXTRAS.items()}
every_table = pytest.mark.parametrize("made", TABLES.values(), ids=TABLES)


def network(x, t):
    """A perfect network for the mixture: in NumPy float64 this is what the reference loop calls."""
    return MIXTURE.eps(x, SDE.s(t), SDE.sigma(t))


def torch_network(x, t):
    return torch.from_numpy(np.asarray(network(x.double().numpy(), t.item()))).to(x.dtype)


@every_table
def test_every_table_equals_the_reference_loop(made):
    x_T = np.random.default_rng(0).normal(size=(6, 2))
    if made.is_stochastic:
        made = replace(made, g=np.zeros(made.nfe))
    got = deis.torch.sample(made, torch_network, torch.from_numpy(x_T))
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, loop.run(made, network, x_T), rtol=0, atol=1e-12)


@every_table
def test_torch_and_jax_agree(made):
    """To 1e-5 in float32, noise included."""
    jax = pytest.importorskip("jax")
    from deis import sampler

    x_T = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    key, noise = None, None
    if made.is_stochastic:
        key = jax.random.key(0)
        keys = sampler.keys_of_samples(key, len(x_T))
        drawn = [sampler._noise(keys, i, jax.numpy.asarray(x_T)) for i in jax.numpy.arange(made.nfe)]
        noise = torch.from_numpy(np.stack(drawn))
    from_jax = deis.sample(made, jax_network, jax.numpy.asarray(x_T), key)
    from_torch = deis.torch.sample(made, torch_network_32, torch.from_numpy(x_T), noise)
    np.testing.assert_allclose(from_torch, from_jax, rtol=0, atol=1e-5)


def two_modes(x, t, xp):
    """The perfect network of x_0 = +-1 with standard deviation 0.5 in every element, in either library."""
    s, sigma = SDE.s(t), SDE.sigma(t)
    variance = 0.25 * s**2 + sigma**2
    return sigma * (x - s * xp.tanh(s * x / variance)) / variance


def jax_network(x, t):
    import jax.numpy as jnp

    return two_modes(x, t, jnp)


def torch_network_32(x, t):
    return two_modes(x, t, torch)


@pytest.mark.parametrize("method", ["ddim", "t_ab", "rho_rk"])
def test_trajectory(method):
    made = tables.build(SDE, num_step=4, method=method)
    x_T = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t, x_0 = deis.torch.trajectory(made, torch_network, x_T)
    assert x_t.shape == (made.nfe + 1, 3, 2)
    assert x_0.shape == (made.nfe, 3, 2)
    assert torch.equal(x_t[-1], deis.torch.sample(made, torch_network, x_T))
    torch.testing.assert_close(x_t[0], x_T)
    for x, predicted, t in zip(x_t, x_0, made.t, strict=False):
        expected = (x.numpy() - SDE.sigma(t) * network(x.numpy(), t)) / SDE.s(t)
        np.testing.assert_allclose(predicted, expected, rtol=0, atol=1e-12)


def test_a_network_may_answer_in_the_same_memory():
    table, x = tables.t_ab(SDE, deis.timesteps(SDE, 5)), torch.randn(4, 3)
    memory = torch.empty_like(x)
    got = deis.torch.sample(table, lambda x, t: memory.copy_(torch.sin(x)), x)
    assert torch.equal(got, deis.torch.sample(table, lambda x, t: torch.sin(x), x))


def test_published_call():
    """The signature of deis.get_sampler, also with torch functions of time; t arrives as a tensor of x's device."""
    parameters = inspect.signature(deis.torch.get_sampler).parameters
    assert [(p.name, p.default) for p in parameters.values()] == [
        ("sde", inspect.Parameter.empty),
        ("eps_fn", inspect.Parameter.empty),
        ("ts_phase", "t"),
        ("ts_order", 2.0),
        ("num_step", 10),
        ("method", "t_ab"),
        ("ab_order", 3),
        ("rk_method", "3kutta"),
        ("options", inspect.Parameter.empty),
    ]
    seen = []

    def eps_fn(x, t):
        seen.append(t)
        return torch_network(x, t)

    def t2alpha(t):
        return torch.exp(-0.1 * t - 0.5 * 19.9 * t**2)

    def alpha2t(alpha):
        return ((0.1**2 - 2 * 19.9 * torch.log(alpha)) ** 0.5 - 0.1) / 19.9

    x_T = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    sde = deis.VPSDE(t2alpha, alpha2t, 1e-3, 1.0)
    x_0 = deis.torch.get_sampler(sde, eps_fn, num_step=6)(x_T)
    assert all(t.shape == () and t.dtype == x_T.dtype and t.device == x_T.device for t in seen)
    assert (len(seen), x_0.dtype, x_0.shape) == (6, torch.float32, (3, 2))
    expected = loop.run(tables.t_ab(SDE, deis.timesteps(SDE, 6)), network, x_T.double().numpy())
    np.testing.assert_allclose(x_0, expected, rtol=0, atol=1e-5)


def stochastic(nfe=5):
    """Any table with noise: DDIM's rows with some added."""
    return replace(tables.ddim(SDE, deis.timesteps(SDE, nfe)), g=np.linspace(0.5, 0.0, nfe))


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_a_sample_depends_on_its_generator_alone():
    made, x_T = stochastic(), torch.zeros(64, 3)
    together = deis.torch.sample(made, torch_network_32, x_T, generators(range(64)))
    apart = deis.torch.sample(made, torch_network_32, x_T[:7], generators(range(7)))
    assert torch.equal(together[:7], apart)
    assert len(torch.unique(together, dim=0)) == 64


def test_noise_enters_as_the_table_says():
    made = stochastic(2)
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = deis.torch.sample(made, lambda x, t: torch.zeros_like(x), torch.ones(4, 3, dtype=torch.float64), noise)
    expected = made.s[2] * (1 / made.s[0] + made.g[0] * noise[0])  # the last row adds none
    torch.testing.assert_close(x, expected, rtol=1e-14, atol=0)


def test_gradients_flow_through_the_loop():
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x_T = torch.ones(1, 1, dtype=torch.float64)

    def end(w):
        return deis.torch.sample(tables.t_ab(SDE, deis.timesteps(SDE, 5)), lambda x, t: w * x, x_T).sum()

    end(weight).backward()
    difference = (end(weight.detach() + 1e-6) - end(weight.detach() - 1e-6)) / 2e-6
    assert weight.grad.item() == pytest.approx(difference.item(), rel=1e-7)


def test_wrappers_answer_in_torch_as_in_numpy():
    """Every wrapper on float64 tensors, against its NumPy answer (which has its own proofs)."""
    x, label, null = np.random.default_rng(0).normal(size=(3, 4, 5))
    mask = np.array([True, False, True, False, True])
    discrete = deis.DiscreteVPSDE(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))

    def made(sde, xp, as_array):
        def net(x, t, *condition):
            return 0.3 * x + 0.2 * t + sum(condition)

        return [
            *(wrappers.from_prediction(sde, net, name) for name in wrappers.PREDICTIONS),
            wrappers.from_edm(sde, net),
            wrappers.classifier_free_guidance(net, as_array(label), as_array(null), 2.0),
            wrappers.classifier_guidance(sde, net, lambda x, t: x * t, 2.0),
            wrappers.clip_x_0(sde, net),
            wrappers.threshold_x_0(sde, net, 80.0),
            wrappers.inpaint(sde, net, as_array(label), as_array(mask)),
        ]

    for sde, t in ((SDE, 0.3), (deis.ve(), 0.6), (discrete, 300.4)):
        for in_torch, in_numpy in zip(made(sde, torch, torch.from_numpy), made(sde, np, np.asarray), strict=True):
            got = in_torch(torch.from_numpy(x), torch.tensor(t, dtype=torch.float64))
            np.testing.assert_allclose(got, in_numpy(x, t), rtol=1e-10, atol=1e-10)
    asked = wrappers.discrete_time(lambda x, i: i, 1000)(torch.from_numpy(x), torch.tensor(300.4))
    assert (asked.item(), asked.dtype) == (300, torch.int32)


def not_a_number_below(t_bad):
    return lambda x, t: x * (float("nan") if t < t_bad else 0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run(torch_network, torch.ones(2, 2).long()), "must be floating point, got torch.int64"),
        (lambda run: run(torch_network, [[1.0]]), "x_T must be a Tensor, got list"),
        (lambda run: run(None, torch.ones(2, 2)), "eps_fn must be a Callable, got NoneType"),
        (lambda run: deis.torch.sample(SDE, run, torch.ones(2, 2)), "table must be a Table, got SDE"),  # type: ignore[arg-type]
        (lambda run: run(lambda x, t: x[:1], torch.ones(2, 2)), r"in the shape of x, \(2, 2\), got \(1, 2\)"),
        (lambda run: run(lambda x, t: None, torch.ones(2, 2)), r"in the shape of x, \(2, 2\), got NoneType"),
        (lambda run: run(torch_network, torch.tensor([[0.0, float("nan")]])), "x_T holds NaN or infinite values"),
        (
            lambda run: run(not_a_number_below(0.3), torch.ones(2, 2)),
            r"DDIM: eps_fn gave NaN or infinite values in evaluation 4 of 5, at t=0\.1",
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(partial(deis.torch.sample, tables.ddim(SDE, deis.timesteps(SDE, 5))))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (None, r"DDIM adds noise: pass noise=\[torch\.Generator"),
        ([0, 1], "noise must be one torch.Generator for each of the 2 samples"),
        (torch.Generator(), "noise must be one torch.Generator for each of the 2 samples"),
        (generators(range(3)), "noise must be one torch.Generator for each of the 2 samples"),
        (torch.zeros(4, 2, 2), r"shape \[nfe, batch, ...\] = \(5, 2, 2\), got \(4, 2, 2\)"),
    ],
)
def test_bad_noise_is_one_sentence(noise, message):
    with pytest.raises(ValueError, match=message):
        deis.torch.sample(stochastic(), torch_network_32, torch.ones(2, 2), noise)


def test_sampling_works_where_jax_is_not_installed():
    code = """
import sys
sys.modules["jax"] = sys.modules["jaxlib"] = None  # importing either raises ImportError
import torch, deis, deis.torch
noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
for method in deis.tables.METHODS:
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    x = deis.torch.get_sampler(deis.vp_linear(), lambda x, t: 0.5 * x, method=method, ts_order=1.0)(noise, generators)
    assert x.shape == noise.shape and torch.isfinite(x).all(), method
wrapped = deis.wrappers.clip_x_0(deis.ve(), deis.wrappers.from_prediction(deis.ve(), lambda x, t: 0.5 * x, "v"))
deis.torch.get_sampler(deis.ve(), wrapped)(50 * noise)
try:
    deis.get_sampler
except ImportError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "ModuleNotFoundError"), done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_low_precision_ask_at_the_nodes_and_are_summed_in_float32(dtype) -> None:
    """The result differs from a float32 state's by the rounding of the network's input and of the result."""
    times: list[float] = []

    def eps_fn(x, t):
        assert x.dtype == dtype
        assert t.dtype == torch.float32
        times.append(float(t))
        return torch_network(x.float(), t)

    table, x_T = tables.build(SDE, num_step=100, method="unipc"), torch.randn(64, 2, generator=torch.Generator())
    x_0 = deis.torch.sample(table, eps_fn, x_T.to(dtype))
    np.testing.assert_array_equal(times, table.t[:-1].astype(np.float32))
    exact = deis.torch.sample(table, torch_network, x_T.to(dtype).float())
    assert x_0.dtype == dtype
    assert float((x_0.float() - exact).square().mean().sqrt()) < 5 * torch.finfo(dtype).eps
