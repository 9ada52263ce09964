"""The torch runner inside graphs: compiled as one, without a wait for the device, in the memory format of the state."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import deis
from deis import tables

torch = pytest.importorskip("torch")
import deis.torch  # noqa: E402

SDE = deis.vp_linear()


def network(x, t):
    return t * x.tanh()


@pytest.mark.parametrize("method", ["t_ab", "unipc", "rho_rk"])
def test_the_whole_loop_compiles_as_one_graph(method) -> None:
    """fullgraph=True: nothing in the loop leaves the graph. Its numbers are constants of it."""
    x_T = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    run = partial(deis.torch.sample, tables.build(SDE, num_step=4, method=method), network)
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x_T), run(x_T), rtol=1e-6, atol=1e-6)


def test_a_stochastic_loop_compiles_with_its_noise_given() -> None:
    made, x_T = replace(tables.ddim(SDE, deis.timesteps(SDE, 5)), g=np.linspace(0.5, 0.0, 5)), torch.zeros(4, 3)
    noise = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(partial(deis.torch.sample, made, network), fullgraph=True, backend="eager")
    expected = deis.torch.sample(made, network, x_T, noise)
    torch.testing.assert_close(compiled(x_T, noise), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", tables.METHODS)
def test_nothing_waits_for_the_device(method) -> None:
    """Tensors on the meta device have no values that could be read on the host."""
    made, x_T = tables.build(SDE, num_step=4, method=method), torch.ones(3, 2, device="meta")
    noise = torch.ones(made.nfe, 3, 2, device="meta")
    x_0 = deis.torch.sample(made, network, x_T, noise, check_finite=False)
    assert (x_0.device.type, x_0.shape) == ("meta", x_T.shape)
    with pytest.raises((NotImplementedError, RuntimeError)):
        deis.torch.sample(made, network, x_T, noise)


def test_without_the_check_what_is_not_finite_comes_out() -> None:
    made = tables.ddim(SDE, deis.timesteps(SDE, 5))
    x_0 = deis.torch.sample(
        made, lambda x, t: x * (float("nan") if t < 0.3 else 0.1), torch.ones(2, 2), check_finite=False
    )
    assert torch.isnan(x_0).all()


@pytest.mark.parametrize("method", tables.METHODS)
def test_the_memory_format_is_kept(method) -> None:
    made, x_T = (
        tables.build(SDE, num_step=4, method=method),
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
    )
    noise = torch.ones(made.nfe, 2, 3, 4, 4)

    def eps_fn(x, t):
        assert x.is_contiguous(memory_format=torch.channels_last)
        return network(x, t)

    x_0 = deis.torch.sample(made, eps_fn, x_T, noise)
    assert x_0.is_contiguous(memory_format=torch.channels_last)
