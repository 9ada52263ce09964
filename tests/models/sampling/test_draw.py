"""What is done to the network's eps on its way to the solver, against the definition of each on arrays."""

from typing import Any

import jax.numpy as jnp
import numpy as np

import deis
from models.sampling.draw import Trained, changed_eps, starts
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
