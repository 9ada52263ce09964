"""The distance of samples to the fine solution from the same noise."""

import numpy as np
import pytest

import deis
from eval.few_calls.trajectories import fine_table
from eval.metrics.solver_distance import distance, mean_squares
from models.sampling.draw import Trained, draw
from models.sampling.options import EpsOptions
from models.score import Network
from runs.errors import NonFiniteError


def network() -> Trained:
    """A network that knows images of independent pixels of standard deviation 1/2."""
    sde = deis.vp_linear()

    def apply(params, x, time, *_):
        s, sigma = (of(time / 999)[:, None, None, None] for of in (sde.s, sde.sigma))
        return sigma * x / (s**2 / 4 + sigma**2)

    return Trained(Network(apply, time="t_999", input="x"), {}, sde, (4, 4, 1), 0)


def test_it_is_the_difference_of_the_samples_and_falls_with_the_calls() -> None:
    net, seeds, found = network(), list(range(5)), []
    for nfe in (4, 8):
        table = deis.tables.build(net.sde, num_step=nfe)
        squares = mean_squares(net, table, seeds, 2, EpsOptions(), 40)
        x_0, fine = (
            np.concatenate(list(draw(net, solver, seeds, 5))).astype(np.float64)
            for solver in (table, fine_table(net.sde, 40))
        )
        expected = ((x_0 - fine) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(squares, expected, rtol=1e-3)
        found.append(distance(squares, 40))
        ratio = np.mean(20 * np.log10(2 / np.sqrt(expected)))
        assert (found[-1]["rmse"], found[-1]["psnr"]) == pytest.approx((np.sqrt(expected.mean()), ratio), rel=1e-3)
    assert found[1]["rmse"] < found[0]["rmse"] / 2
    assert found[1]["psnr"] > found[0]["psnr"] + 6


def test_fine_solutions_that_are_not_finite_have_no_distance() -> None:
    net = network()
    net = net._replace(network=Network(lambda params, x, *_: x * np.nan))
    table = deis.tables.build(net.sde, num_step=2)
    with pytest.raises(NonFiniteError, match="with 3 network calls gave NaN or infinite values for 2 of 2 images"):
        mean_squares(net, table, [5, 6], 2, EpsOptions(), 3)


def test_equal_samples_have_a_finite_ratio() -> None:
    found = distance(np.zeros(3), 64)
    assert (found["rmse"], found["distance_to_nfe"]) == (0, 64)
    assert 100 < found["psnr"] < 150
    assert distance(np.empty(0), None) == {}
