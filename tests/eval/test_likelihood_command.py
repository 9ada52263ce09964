"""Bits per dimension of images: the library's part against closed forms, the command as a user runs it."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import published_network
import pytest
from commands import run_here
from scipy.stats import norm
from sklearn.datasets import load_digits

import data
import deis
from data.config import DatasetConfig
from deis import adaptive, likelihood, tables
from eval.exact.mixture import Mixture
from eval.likelihood import held_out, report
from eval.metrics.bits_per_dim import (
    bits_of_batches,
    encoding_table,
    paired_difference,
    relative_to_x_0,
    standard_error,
)
from models.sampling.source import Source

pytestmark = pytest.mark.slow

SDE = deis.vp_linear()
KUTTA_36 = partial(likelihood.encode, ts=deis.timesteps(SDE, 12, "log"))
DOPRI5 = partial(adaptive.encode, rtol=1e-4, atol=1e-4)


def log_sampler(method: str, nfe: int, round_nfe: bool = False, **options: object) -> dict:
    """The options of a solver with nodes even in log rho."""
    shared = {"method": method, "nfe": nfe, "round_nfe": round_nfe, "ts_phase": "log", "ts_order": 1.0, "t_0": None}
    return shared | options


def gaussian_eps_fn(std: float):
    """The perfect network of x_0 ~ N(0, std^2)."""
    return lambda x, t: SDE.sigma(t) * x / ((SDE.s(t) * std) ** 2 + SDE.sigma(t) ** 2)


@pytest.mark.parametrize("std", [1e-4, 0.3])
def test_relative_to_x_0_has_the_same_limit(std):
    """A Gaussian's log-density in closed form, by 300 steps either way."""
    x_0 = std * jax.random.normal(jax.random.key(0), (8, 4, 4, 1)) * SDE.s(SDE.t_0)
    variance = (SDE.s(SDE.t_0) * std) ** 2 + SDE.sigma(SDE.t_0) ** 2
    exact = np.sum(norm.logpdf(np.asarray(x_0, np.float64), scale=np.sqrt(variance)), axis=(1, 2, 3))
    flow = partial(likelihood.encode, ts=deis.timesteps(SDE, 300, "log"))
    for each in (flow, relative_to_x_0(flow)):
        log_p, nfe = likelihood.log_prob(SDE, gaussian_eps_fn(std), x_0, each)
        assert nfe == 900
        np.testing.assert_allclose(log_p, exact, atol=0.02)


def test_relative_to_x_0_does_the_known_part_exactly():
    """Data that are a point: all of the divergence is d / rho. Kutta's weights miss it by what the docstring says."""
    x_0 = 1e-4 * jax.random.normal(jax.random.key(0), (4, 16))
    eps_fn = gaussian_eps_fn(0.0)
    limit = likelihood.log_prob(
        SDE, eps_fn, x_0, relative_to_x_0(partial(KUTTA_36, ts=deis.timesteps(SDE, 600, "log")))
    )
    bits = {
        name: float(np.mean(np.abs(likelihood.log_prob(SDE, eps_fn, x_0, flow)[0] - limit[0]))) / 16 / math.log(2)
        for name, flow in (("plain", KUTTA_36), ("relative", relative_to_x_0(KUTTA_36)))
    }
    ratio = float(SDE.rho(np.array(SDE.T)) / SDE.rho(np.array(SDE.t_0))) ** (1 / 12)
    simpson = (ratio - 1) / 6 * (1 + 8 / (1 + ratio) + 1 / ratio) - math.log(ratio)
    assert bits["plain"] == pytest.approx(12 * simpson / math.log(2), rel=0.01)
    assert bits["plain"] > 0.03
    assert bits["relative"] < 1e-4


def digits_mixture() -> tuple[Mixture, np.ndarray]:
    """(400 digits at 0.8 of their contrast, each blurred, as the data; 40 of those, uint8)."""
    mean = 0.8 * (load_digits().data[:400] / 8 - 1)
    mixture = Mixture(np.full(400, 1 / 400), mean, np.full(400, 0.05))
    images = data.to_uint8(np.array(mixture.sample(jax.random.key(2), 40)))
    return mixture, images.reshape(40, 8, 8, 1)


def test_36_calls_agree_with_dopri5_on_digits():
    """Within 0.01 bits/dim, under the exact eps of a mixture of digits."""
    mixture, images = digits_mixture()
    flat = mixture.eps_fn(SDE)
    eps_fn = jax.tree_util.Partial(lambda x, t: flat(x.reshape(len(x), -1), t).reshape(x.shape))
    by_table, by_dopri5 = (
        np.concatenate([bits for bits, _ in bits_of_batches(SDE, lambda _: eps_fn, images, None, flow, 40)])
        for flow in (KUTTA_36, DOPRI5)
    )
    assert abs(np.mean(by_table - by_dopri5)) < 0.01


def test_bits_do_not_depend_on_the_batch():
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1)).astype(np.uint8)
    eps_fn = gaussian_eps_fn(0.5)
    measured = partial(bits_of_batches, SDE, lambda _: eps_fn, images, None, KUTTA_36)
    by_size = {size: list(measured(size, seed=3)) for size in (7, 3)}
    assert [len(bits) for bits, _ in by_size[3]] == [3, 3, 1]
    assert all(nfe == 36 for _, nfe in by_size[3])
    whole, parts = (np.concatenate([bits for bits, _ in by_size[size]]) for size in (7, 3))
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    other = next(measured(7, seed=4))[0]
    assert np.min(np.abs(other - whole)) > 1e-6


def test_probes_are_averaged_over_and_labels_follow_their_images():
    """The variance over seeds of a trace's estimate falls with its probes; the exact trace has none."""

    def labelled(labels, x, t):  # mixes the pixels, or one probe would be exact
        scale = 1 + 0.1 * labels[:, None, None, None]
        return gaussian_eps_fn(0.5)(x, t) * scale + 0.02 * jax.numpy.roll(x, 1, 1) * (1 + x)

    images, labels = np.full((64, 4, 1, 1), 100, np.uint8), np.arange(64, dtype=np.int32) % 2
    flow = partial(likelihood.encode, ts=deis.timesteps(SDE, 6, "log"))
    measured = partial(bits_of_batches, SDE, partial(jax.tree_util.Partial, labelled), images, labels, flow, 64)
    exact, one, many = (next(measured(**options))[0] for options in ({"trace": "exact"}, {}, {"num_probes": 8}))
    assert np.mean((many - exact) ** 2) < 0.4 * np.mean((one - exact) ** 2)
    assert abs(np.mean(exact[::2]) - np.mean(exact[1::2])) > 0.05
    with pytest.raises(ValueError, match="num_probes must be at least 1, got 0"):
        next(measured(num_probes=0))


def test_standard_error():
    assert standard_error(np.array([1.0, 2.0, 3.0, 6.0])) == pytest.approx(math.sqrt(14 / 3 / 4))
    assert standard_error(np.array([1.0])) is None


def test_data_without_noise_at_the_end_are_refused():
    sde = deis.vp_linear(t_0=0.0)
    images = np.zeros((1, 2, 2, 1), np.uint8)
    flow = partial(likelihood.encode, ts=deis.timesteps(sde, 4, "t"))
    with pytest.raises(ValueError, match="needs noise at the smallest time, but sigma is 0 at t_0=0"):
        next(bits_of_batches(sde, lambda _: gaussian_eps_fn(0.5), images, None, flow, 1))


@pytest.mark.parametrize(
    ("cfg", "calls"),
    [
        (log_sampler("rho_rk", 36, False, rk_method="3kutta"), 36),
        (log_sampler("rho_rk", 10, True, rk_method="3kutta"), 12),
        (log_sampler("log_rho_ab", 7, order=2, corrector=True), 7),
    ],
)
def test_encoding_tables_have_the_calls_of_the_sampler(cfg, calls):
    table = encoding_table(cfg, SDE)
    assert table.nfe == calls
    assert (table.t[0], table.t[-1]) == (SDE.t_0, SDE.T)
    if cfg["method"] == "rho_rk":
        expected = likelihood.encoding(SDE, deis.timesteps(SDE, calls // 3, "log"), tables.rho_rk)
        np.testing.assert_array_equal(table.P, expected.P)


def test_samplers_that_do_not_encode_are_refused():
    with pytest.raises(ValueError, match="this solver does not run from x_0 to x_T"):
        encoding_table(log_sampler("euler", 10), SDE)
    with pytest.raises(ValueError, match="cannot make 10 network calls"):
        encoding_table(log_sampler("rho_rk", 10, False, rk_method="3kutta"), SDE)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network in "net"."""
    cwd = tmp_path_factory.mktemp("network")
    published_network.write(cwd / "net")
    return cwd


def test_the_command(network: Path) -> None:
    few = ["checkpoint=net", "num_images=5", "batch_size=3", "sampler.nfe=12", "tolerance=1e-2", "run_dir=found"]
    result = run_here("eval.likelihood", *few, cwd=network)
    assert result.returncode == 0, result.stderr
    found = json.loads((network / "found" / "result.json").read_text())
    assert [row["solver"] for row in found["rows"]] == ["rho3Kutta", "DOPRI5"]
    assert found["rows"][0]["nfe"] == 12
    assert found["rows"][1]["nfe"] > 12
    assert all(row["standard_error"] > 0 for row in found["rows"])
    difference = found["rows"][0]["bits_per_dim"] - found["rows"][1]["bits_per_dim"]
    assert found["difference"]["mean"] == pytest.approx(difference, abs=1e-9)
    assert (found["num_images"], found["dataset"], found["step"]) == (5, "digits", None)
    assert "| rho3Kutta | 12 |" in result.stdout
    assert "rho3Kutta less DOPRI5" in result.stdout


def test_a_table_of_network_calls(network: Path) -> None:
    """The likelihood of one image has no standard error, and result.json says so without NaN, which is no JSON."""
    few = ["checkpoint=net", "num_images=1", "methods=[table]", "nfe=[3,12]", "run_dir=table"]
    result = run_here("eval.likelihood", *few, cwd=network)
    assert result.returncode == 0, result.stderr
    found = json.loads((network / "table" / "result.json").read_text(), parse_constant=pytest.fail)
    assert [(row["solver"], row["nfe"]) for row in found["rows"]] == [("rho3Kutta", 3), ("rho3Kutta", 12)]
    assert [row["standard_error"] for row in found["rows"]] == [None, None]
    assert "difference" not in found
    assert "| rho3Kutta | 3 |" in result.stdout
    difference = paired_difference(np.array([3.0]), np.array([2.5]))
    said = report(found | {"rows": [row | {"nfe": 9.0} for row in found["rows"]], "difference": difference})
    assert said.endswith("rho3Kutta less rho3Kutta is +0.5000 bits/dim, at most 0.5000 for one image.")


def test_images_without_the_networks_classes_are_refused() -> None:
    """A label that the network does not know would be the embedding of another class, or of none."""
    digits = {"name": "digits", "tfds_name": "digits"}
    config = {"model": {"image_size": 8, "image_channels": 1, "num_classes": 9}, "dataset": digits}
    job: Any = SimpleNamespace(dataset=DatasetConfig(), num_images=None)
    with pytest.raises(ValueError, match="takes one of 9 classes with every image, but digits has 10; give"):
        held_out(job, Source(Path("net"), None, config))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("nfe=[]", "nfe=[] chooses network calls of the method table; give some, and methods=[table]"),
        ("methods=[]", "methods must be [table], [dopri5] or [table,dopri5], got []"),
        ("trace=hutchinson", "trace must be exact, rademacher or gaussian, got 'hutchinson'"),
        ("num_images=180", "more than the 179 images of digits's test split"),
        ("sampler=euler", "this solver does not run from x_0 to x_T"),
        ("tolerance=0", "tolerance must be between 0 and 1, got 0"),
        ("dataset.image_size=16", "makes images of shape [8, 8, 1], but those of digits are [16, 16, 1]"),
        ("checkpoint=nowhere", "no checkpoint in nowhere/checkpoints"),
    ],
)
def test_refusals(argument: str, said: str, network: Path) -> None:
    result = run_here("eval.likelihood", "checkpoint=net", "dataset=digits", argument, "run_dir=refused", cwd=network)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not (network / "refused").exists()
