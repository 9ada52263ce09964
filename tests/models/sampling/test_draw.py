"""What is done to the network's eps on its way to the solver, against the definition of each on arrays."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from commands import environment

import deis
from deis import guidance, wrappers
from models.sampling.draw import Trained, changed_eps, draw, draw_by_guidance, starts, warm_up
from models.sampling.options import EpsOptions
from models.score import Network


def toy(traced: list[int]) -> Trained:
    """A network whose predicted images have values far outside of [-1, 1]; it notes whenever JAX traces it."""

    def apply(params: Any, x: Any, time: Any, label: Any, dropout_keys: Any) -> Any:
        traced.append(1)
        return params * jnp.sin(3 * x)

    return Trained(Network(apply, time="t", input="x"), jnp.float32(0.5), deis.vp_linear(), (8, 8, 1), 0)


def thresholded(x_0: np.ndarray, percentile: float) -> np.ndarray:
    """Imagen's: to the percentile of each image's |x_0| where that is above 1, then scaled to [-1, 1]."""
    limit = np.maximum(np.percentile(np.abs(x_0), percentile, axis=(1, 2, 3), keepdims=True), 1)
    return np.clip(x_0, -limit, limit) / limit


def test_the_predicted_image_is_clipped_or_thresholded() -> None:
    net, t = toy([]), 0.4
    at = starts(net, [0, 1, 2])
    x, s, sigma = (np.asarray(value, np.float64) for value in (at.x_T, net.sde.s(t), net.sde.sigma(t)))

    def predicted(options: EpsOptions) -> np.ndarray:
        return (x - sigma * np.asarray(changed_eps(net, at, options)(at.x_T, np.float32(t)))) / s

    free = predicted(EpsOptions())
    assert np.abs(free).max() > 1.5, "there is something to clip"
    np.testing.assert_allclose(predicted(EpsOptions(clip=True)), free.clip(-1, 1), atol=1e-5)
    for percentile in (50.0, 95.0):
        found = predicted(EpsOptions(threshold=percentile))
        np.testing.assert_allclose(found, thresholded(free, percentile), atol=1e-5)


@pytest.mark.parametrize("noisy", [False, True])
def test_what_is_warmed_up_does_not_compile_again(noisy: bool) -> None:
    traced: list[int] = []
    net = toy(traced)
    warm_up(net, noisy, 2, EpsOptions())
    next(draw(net, deis.tables.t_ab_sde(net.sde, deis.timesteps(net.sde, 5), lam=float(noisy)), [3, 4], 2))
    assert len(traced) == 1


def test_another_percentile_does_not_compile_again() -> None:
    traced: list[int] = []
    net = toy(traced)
    table, at = deis.tables.ddim(net.sde, np.array([1.0, 0.5, 1e-3])), starts(net, [0])
    samples = [
        deis.sample(table, changed_eps(net, at, EpsOptions(threshold=percentile)), at.x_T)
        for percentile in (50.0, 99.0)
    ]
    assert len(traced) == 1
    assert not np.allclose(*samples)


def with_classes(traced: list[int], scale: float = 0.5, classes: int = 3) -> Trained:
    """A network of three classes and none, whose answers differ between them."""

    def apply(params: Any, x: Any, time: Any, label: Any, dropout_keys: Any) -> Any:
        traced.append(1)
        shift = 0.0 if label is None else 0.3 * label[:, None, None, None]
        return params * jnp.sin(3 * x + shift)

    network = Network(apply, time="t", input="x", null_label=classes or None)
    return Trained(network, jnp.float32(scale), deis.vp_linear(), (8, 8, 1), classes)


GUIDED: dict[str, dict[str, Any]] = {
    "classifier-free": {"guidance": 3.0},
    "interval": {"guidance": 3.0, "guidance_interval": [0.5, 2.0]},
    "rescale": {"guidance": 3.0, "guidance_rescale": 0.7},
    "APG": {"guidance": 3.0, "guidance_parallel": 0.0, "guidance_norm": 0.5},
    "all": {"guidance": 3.0, "guidance_rescale": 0.5, "guidance_parallel": 0.2, "guidance_interval": [0.1, 5.0]},
    "clipped": {"guidance": 3.0, "clip": True},
    "thresholded": {"guidance": 3.0, "guidance_norm": 2.0, "threshold": 90.0},
}


@pytest.mark.parametrize("worse_classes", [None, 3, 0], ids=["null class", "autoguidance", "unconditional"])
@pytest.mark.parametrize("options", [EpsOptions(**options) for options in GUIDED.values()], ids=GUIDED)
def test_options_are_the_rules_of_guidance(options: EpsOptions, worse_classes: int | None) -> None:
    net = with_classes([])
    if worse_classes is not None:
        net = net._replace(worse=with_classes([], 0.2, worse_classes))
    at, sde = starts(net, [0, 1, 2]), net.sde

    def eps(x: Any, t: Any, label: Any, net: Trained = net) -> Any:
        return net.network.apply(net.params, x, t, label, None)

    rule: guidance.Rule = guidance.linear
    if options.guidance_parallel is not None or options.guidance_norm is not None:
        share = 1.0 if options.guidance_parallel is None else options.guidance_parallel
        rule = guidance.projected(sde, share, options.guidance_norm)
    if options.guidance_rescale is not None:
        rule = guidance.rescaled(sde, options.guidance_rescale, rule)
    weight: Any = options.guidance
    if options.guidance_interval is not None:
        weight = guidance.interval(sde, weight, *options.guidance_interval)
    if net.worse is None:
        expected = wrappers.classifier_free_guidance(eps, at.label, jnp.full(3, 3), weight, rule)
    else:
        label = at.label if worse_classes else None
        away = lambda x, t: eps(x, t, label, net.worse)  # noqa: E731
        expected = wrappers.autoguidance(lambda x, t: eps(x, t, at.label), away, weight, rule)
    if options.clip:
        expected = wrappers.clip_x_0(sde, expected)
    if options.threshold is not None:
        expected = wrappers.threshold_x_0(sde, expected, options.threshold)
    for t in (np.float32(0.2), np.float32(0.9)):
        np.testing.assert_allclose(changed_eps(net, at, options)(at.x_T, t), expected(at.x_T, t), rtol=1e-6, atol=1e-6)


def test_batches_do_not_change_guided_images_and_other_values_do_not_compile_again() -> None:
    traced: list[int] = []
    net = with_classes(traced)._replace(worse=with_classes(traced, 0.2))
    table = deis.tables.t_ab(net.sde, deis.timesteps(net.sde, 4))
    options = EpsOptions(None, 3.0, "worse", [0.2, 20.0], 0.5, 0.0, 2.0, threshold=95.0)
    seeds = [5, 6, 7, 8, 9]
    whole = np.concatenate(list(draw(net, table, seeds, 5, options)))
    calls = len(traced)
    other = EpsOptions(2, 1.5, "worse", [0.5, 5.0], 0.7, 0.5, 1.0, threshold=90.0)
    assert not np.allclose(np.concatenate(list(draw(net, table, seeds, 5, other))), whole)
    assert len(traced) == calls
    np.testing.assert_allclose(np.concatenate(list(draw(net, table, seeds, 2, options))), whole, atol=1e-5)


def test_a_flow_network_is_clipped_at_pure_noise_too() -> None:
    """At T, where s = 0, the network's x_0 = x - flow is what the first step takes."""
    sde = deis.flow()
    network = Network(toy([]).network.apply, time="flow_1000", input="x", output="flow")
    net = Trained(network, jnp.float32(1.5), sde, (8, 8, 1), 0)
    at, table = starts(net, [0, 1]), deis.tables.ddim(sde, np.array([1.0, 0.5, 0.0]))
    x_t, x_0 = deis.trajectory(table, changed_eps(net, at, EpsOptions(clip=True)), at.x_T)
    x = np.asarray(at.x_T)
    np.testing.assert_allclose(x_0[0], (x - 1.5 * np.sin(3 * x)).clip(-1, 1), atol=1e-6)
    np.testing.assert_allclose(x_t[1], 0.5 * x_0[0] + 0.5 * x, atol=1e-6)


@pytest.mark.slow
def test_devices_share_a_batch_that_lies_on_none() -> None:
    """As `deis.choose` gives it: each of two devices computes its half, and not both the whole."""
    code = (
        "import jax; from test_draw import *; from models.score import eps_fn; net = toy([]); "
        "at = starts(net, [0, 1]); "
        "both = changed_eps(net, at, EpsOptions()), eps_fn(net.network, net.sde, net.params); "
        "print(*(jax.jit(eps)(at.x_T, 0.5).addressable_shards[1].data.shape for eps in both))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment() | {"JAX_NUM_CPU_DEVICES": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "(1, 8, 8, 1) (1, 8, 8, 1)\n"


@pytest.mark.parametrize("names", [["cat", "dog", "emu"], [], ["of", "another", "data", "set"]])
def test_a_sheet_has_the_classes_by_their_names_and_else_by_their_numbers(names: list[str]) -> None:
    net = with_classes([])
    table = deis.tables.ddim(net.sde, np.array([1.0, 1e-3]))
    called = names if len(names) == 3 else ["class 0", "class 1", "class 2"]
    sheet = draw_by_guidance(net, table, [4], EpsOptions(), [2.0], names)
    assert [*sheet] == [("guidance 2", name) for name in called]
    (expected,) = draw(net, table, [4], 1, EpsOptions(label=1, guidance=2.0))
    np.testing.assert_array_equal(sheet["guidance 2", called[1]], expected)
