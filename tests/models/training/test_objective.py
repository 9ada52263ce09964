"""The losses are those of the literature, for every output of a network, and times are drawn as stated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import deis
from models.score import Network
from models.training.config import ObjectiveConfig
from models.training.objective import TIME_DISTRIBUTIONS, WEIGHTS, Examples, level_edges, weighted_loss

pytestmark = pytest.mark.slow

SDES = {
    "vp_linear": deis.vp_linear(),
    "vp_cosine": deis.vp_cosine(),
    "sub_vp": deis.sub_vp(),
    "ve": deis.ve(),
    "edm": deis.edm(),
    "discrete_vp": deis.discrete_vp(),
}
SIGMA_DATA = 0.5
OUTPUTS = ("eps", "x_0", "v", "score", "sigma_score", "edm")
B = 512  # images in a batch, everywhere the same since every other number compiles anew
X_0, PREDICTED = np.random.default_rng(1).uniform(-1, 1, (2, B, 2, 2, 1)).astype(np.float32)
BATCH = Examples(jnp.asarray(X_0), None, jnp.arange(B))


def seen(
    sde: deis.SDE,
    cfg: ObjectiveConfig,
    batch: Examples = BATCH,
    predicted: Any = PREDICTED,
    train: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """The loss of a network whose output is `predicted`, and the x, t and label of its call, in float64."""
    asked: dict[str, Any] = {}

    def apply(params: Any, x: Any, t: Any, label: Any, dropout_keys: Any) -> Any:
        asked.update(x=np.asarray(x, np.float64), t=np.asarray(t, np.float64), label=label, dropout_keys=dropout_keys)
        return jnp.asarray(predicted)

    network = Network(apply, time="t", input="x", null_label=3, **options)
    loss, levels = weighted_loss(network, sde, cfg, B, None, batch, jax.random.key(7), train)
    return asked | {"loss": float(loss)} | levels


def rate(sde: deis.SDE, t: np.ndarray) -> np.ndarray:
    """g^2, of the formulas that define the SDEs of score_sde."""
    if sde is SDES["vp_linear"]:
        return 0.1 + t * 19.9
    assert sde is SDES["ve"]
    return (0.01 * 5000**t) ** 2 * 2 * np.log(5000)


@pytest.mark.parametrize("name", ["vp_linear", "ve"])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_weight_of_every_output_is_the_published_loss(output: str, weight: str, name: str) -> None:
    """Random outputs, taken for what they stand for, put into the formula as its paper writes it, in float64."""
    sde, x_0, predicted = SDES[name], X_0.astype(np.float64), PREDICTED.astype(np.float64)
    got = seen(sde, ObjectiveConfig(weight), output=output, sigma_data=SIGMA_DATA)
    x, (s, sigma) = got["x"], (value[:, None, None, None] for value in sde.marginal(got["t"]))
    eps = (x - s * x_0) / sigma
    variance = (s * SIGMA_DATA) ** 2 + sigma**2
    truth, denoised = {
        "eps": (eps, (x - sigma * predicted) / s),
        "x_0": (x_0, predicted),
        "v": (s * eps - sigma * x_0, (s * x - sigma * predicted) / (s**2 + sigma**2)),
        "score": (-eps / sigma, (x + sigma**2 * predicted) / s),
        "sigma_score": (-eps, (x + sigma * predicted) / s),
        "edm": (
            (x_0 - SIGMA_DATA**2 * s * x / variance) * np.sqrt(variance) / (sigma * SIGMA_DATA),
            SIGMA_DATA**2 * s * x / variance + sigma * SIGMA_DATA / np.sqrt(variance) * predicted,
        ),
    }[output]
    rho, error = sigma / s, (denoised - x_0) ** 2
    g2 = rate(sde, got["t"])[:, None, None, None]
    published = {
        "eps": ((x - s * denoised) / sigma - eps) ** 2,
        "likelihood": g2 * ((s * denoised - x) / sigma**2 - (s * x_0 - x) / sigma**2) ** 2,
        "min_snr": np.minimum(s**2 / sigma**2, 5.0) * error,
        "edm": (rho**2 + SIGMA_DATA**2) / (rho * SIGMA_DATA) ** 2 * error,
        "output": (predicted - truth) ** 2,
    }[weight]
    np.testing.assert_allclose(got["loss"], published.mean(), rtol=2e-5)


@pytest.mark.parametrize("weight", ["eps", "output"])
def test_the_loss_of_v_is_exact_where_noise_is_nearly_all(weight: str) -> None:
    """x_0 is 1/80 of x: errors of eps are of the size of its rounding, errors of the output are not."""
    got = seen(deis.edm(t_0=79.0, T=80.0), ObjectiveConfig(weight), predicted=X_0, output="x_0")
    assert 0 <= got["loss"] < 1e-9


@pytest.mark.parametrize("sde", [deis.vp_zero_snr(), deis.discrete_vp("cosine", num_times=100, zero_terminal_snr=True)])
@pytest.mark.parametrize("output", ["x_0", "v", "flow"])
def test_the_loss_from_pure_noise_is_the_published_one(output: str, sde: deis.SDE) -> None:
    """At all times up to T itself, where s = 0 and a network of v knows nothing of eps."""
    for weight in ("output", "eps", "min_snr"):
        got = seen(sde, ObjectiveConfig(weight, times="discrete", num_times=100), output=output)
        s, sigma = (value[:, None, None, None] for value in sde.marginal(got["t"]))
        assert s.min() < 1e-6
        eps = (got["x"] - s * X_0) / sigma
        truth = {"x_0": X_0, "v": s * eps - sigma * X_0, "flow": eps - X_0}[output]
        of_eps = {"x_0": s / sigma, "v": s / (s**2 + sigma**2), "flow": s / (s + sigma)}[output] ** 2
        with np.errstate(divide="ignore"):
            weights = {"output": 1.0, "eps": of_eps, "min_snr": np.minimum(1, 5 * (sigma / s) ** 2) * of_eps}[weight]
        np.testing.assert_allclose(got["loss"], (weights * (PREDICTED - truth) ** 2).mean(), rtol=2e-3)


GAUSSIAN_STD = 0.7


def best_eps(sde: deis.SDE) -> Network:
    """eps as one knows it best of normal data: E[eps | x] = sigma x / (s^2 std^2 + sigma^2), times `params`."""

    def apply(params: Any, x: Any, t: Any, label: Any, dropout_keys: Any) -> Any:
        s, sigma = sde.marginal(t)
        return params * (sigma / ((s * GAUSSIAN_STD) ** 2 + sigma**2))[:, None, None, None] * x

    return Network(apply, time="t", input="x", sigma_data=SIGMA_DATA)


def expected(sde: deis.SDE, weight: Any, t_of_u: Any) -> float:
    """The smallest loss of normal data: the mean over u of weight(t) times the variance of eps given x."""

    def integrand(u: float) -> float:
        s, sigma = sde.marginal(np.float64(t_of_u(u)))
        return weight(s, sigma, t_of_u(u)) * (s * GAUSSIAN_STD) ** 2 / ((s * GAUSSIAN_STD) ** 2 + sigma**2)

    return scipy.integrate.quad(integrand, 0, 1, limit=200)[0]


VP, VE = SDES["vp_linear"], SDES["ve"]
CLOSED_FORMS = {
    "eps, uniform": (VP, ObjectiveConfig(), lambda s, sigma, t: 1.0, lambda u: 1e-3 + 0.999 * u),
    "likelihood, importance": (
        VP,
        ObjectiveConfig("likelihood", times="importance"),
        lambda s, sigma, t: (0.1 + 19.9 * t) / sigma**2,
        lambda u: 1e-3 + 0.999 * u,
    ),
    "min-SNR, importance": (
        VP,
        ObjectiveConfig("min_snr", snr_gamma=2.0, times="importance"),
        lambda s, sigma, t: min(1.0, 2.0 * sigma**2 / s**2),
        lambda u: 1e-3 + 0.999 * u,
    ),
    "EDM, log-normal": (
        SDES["edm"],
        ObjectiveConfig("edm", times="log_normal"),
        lambda s, sigma, t: 1 + sigma**2 / SIGMA_DATA**2,
        lambda u: np.clip(np.exp(-1.2 + 1.2 * scipy.stats.norm.ppf(u)), 0.002, 80),
    ),
    "likelihood, uniform, VE": (
        VE,
        ObjectiveConfig("likelihood"),
        lambda s, sigma, t: 2 * np.log(5000),
        lambda u: u,
    ),
}


def losses_and_slopes(sde: deis.SDE, cfg: ObjectiveConfig) -> tuple[np.ndarray, np.ndarray]:
    """128 times the loss of the best network on fresh normal data, and its derivative by a gain on its output."""

    def loss(gain: Any, x_0: Any, key: Any) -> Any:
        return weighted_loss(best_eps(sde), sde, cfg, B, gain, BATCH._replace(images=x_0), key, train=False)[0]

    x_0 = np.random.default_rng(2).normal(0, GAUSSIAN_STD, (128, *X_0.shape)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), len(x_0))
    found, slope = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(1.0, x_0, keys)
    return np.asarray(found, np.float64), np.asarray(slope, np.float64)


def mean_and_error(x: np.ndarray) -> tuple[float, float]:
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5)


@pytest.mark.parametrize("case", CLOSED_FORMS.values(), ids=CLOSED_FORMS.keys())
def test_the_best_network_of_normal_data_has_the_loss_in_closed_form_and_no_slope(case: tuple) -> None:
    sde, cfg, weight, t_of_u = case
    found, slope = losses_and_slopes(sde, cfg)
    exact = expected(sde, weight, t_of_u)
    mean, error = mean_and_error(found)
    assert abs(mean - exact) < 4 * error < 0.05 * exact
    mean, error = mean_and_error(slope)
    assert abs(mean) < 4 * error < 0.05 * exact


@pytest.mark.parametrize("name", ["vp_linear", "discrete_vp"])
def test_importance_draws_estimate_the_same_loss_with_less_variance(name: str) -> None:
    uniform, importance = (
        losses_and_slopes(SDES[name], ObjectiveConfig("likelihood", times=times))[0]
        for times in ("uniform", "importance")
    )
    (mean, error), (mean_importance, error_importance) = mean_and_error(uniform), mean_and_error(importance)
    assert abs(mean - mean_importance) < 4 * np.hypot(error, error_importance)
    assert importance.var() < 0.25 * uniform.var()


@pytest.mark.parametrize("name", SDES)
def test_importance_draws_by_the_integral_of_the_likelihood_weight(name: str) -> None:
    """A quarter of the integral of g^2 / sigma^2, summed over small intervals, lies below the time of u = 1/4."""
    sde = SDES[name]
    u = np.linspace(0, 1, 5)
    t = TIME_DISTRIBUTIONS["importance"](ObjectiveConfig(), sde, jnp.asarray(u, jnp.float32))[0]
    edges = np.geomspace(sde.t_0 + 1e-4, sde.T + 1e-4, 200_001) - 1e-4
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(sde.diffusion(middle) ** 2 / sde.sigma(middle) ** 2 * np.diff(edges))
    np.testing.assert_allclose(np.interp(t, edges[1:], below / below[-1]), u, atol=1e-3)


@pytest.mark.parametrize("name", ["edm", "vp_linear", "discrete_vp"])
def test_log_normal_times_are_stratified_quantiles_cut_off_at_the_ends(name: str) -> None:
    """Image i of b has its ln rho between the quantiles i/b and (i + 1)/b of the normal distribution."""
    sde = SDES[name]
    t = seen(sde, ObjectiveConfig(times="log_normal"))["t"]
    quantiles = scipy.stats.norm.ppf(np.arange(B + 1) / B, -1.2, 1.2)
    wanted = quantiles.clip(*np.log(sde.rho(np.array([sde.t_0, sde.T]))))
    found = np.log(sde.rho(t))
    assert np.all((wanted[:-1] - 1e-3 < found) & (found < wanted[1:] + 1e-3))
    assert np.mean(np.diff(wanted) > 0) > 0.95


def test_uniform_times_are_stratified() -> None:
    np.testing.assert_array_equal(np.floor(B * seen(VE, ObjectiveConfig())["t"]), np.arange(B))


def test_discrete_times_are_the_integers_equally_often() -> None:
    t = seen(deis.discrete_vp(num_times=20), ObjectiveConfig(times="discrete", num_times=20))["t"]
    values, counts = np.unique(t, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(20))
    np.testing.assert_allclose(counts, B / 20, atol=1.5)


def test_discrete_times_of_a_continuous_sde_are_a_thousand_evenly_spaced_ones() -> None:
    t = TIME_DISTRIBUTIONS["discrete"](ObjectiveConfig(), VP, (jnp.arange(5000) + 0.5) / 5000)[0]
    np.testing.assert_allclose(np.unique(t), np.arange(1, 1001) / 1000, rtol=1e-6)


@pytest.mark.parametrize("times", TIME_DISTRIBUTIONS)
def test_every_time_lies_in_the_range_even_at_the_ends(times: str) -> None:
    for sde in SDES.values():
        t = TIME_DISTRIBUTIONS[times](ObjectiveConfig(), sde, jnp.array([0.0, 1e-7, 0.5, 1 - 1e-7, 1.0]))[0]
        assert np.all(np.diff(t) >= 0)
        np.testing.assert_allclose(np.clip(t, sde.t_0, sde.T), t, rtol=1e-4, atol=1e-4 * (sde.T - sde.t_0))


def test_an_image_s_random_numbers_follow_from_its_index() -> None:
    there = seen(VP, ObjectiveConfig(), Examples(BATCH.images, jnp.zeros(B, int), BATCH.indices))
    back = seen(VP, ObjectiveConfig(), Examples(BATCH.images[::-1], jnp.zeros(B, int), BATCH.indices[::-1]))
    for name in ("x", "t", "label"):
        np.testing.assert_array_equal(back[name], there[name][::-1])


def test_a_share_of_the_labels_is_dropped_in_training_only() -> None:
    label = np.arange(B) % 3
    cfg, batch = ObjectiveConfig(label_dropout=0.3), BATCH._replace(label=jnp.asarray(label))
    got = seen(VP, cfg, batch)
    dropped = np.asarray(got["label"]) == 3
    assert abs(dropped.mean() - 0.3) < 4 * (0.3 * 0.7 / B) ** 0.5
    np.testing.assert_array_equal(got["label"][~dropped], label[~dropped])
    assert abs(np.corrcoef(dropped, got["t"])[0, 1]) < 4 / B**0.5, "whatever the time"
    assert got["dropout_keys"] is not None

    got = seen(VP, cfg, batch, train=False)
    np.testing.assert_array_equal(got["label"], label)
    assert got["dropout_keys"] is None


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())
def test_the_error_by_noise_level_is_that_of_eps_whatever_the_weight(sde: deis.SDE) -> None:
    got = seen(sde, ObjectiveConfig("min_snr"), output="x_0")
    error = ((PREDICTED - X_0) ** 2).mean((1, 2, 3)) / sde.rho(got["t"]) ** 2
    edges = level_edges(sde)
    np.testing.assert_allclose(edges[[0, -1]], [sde.rho(sde.t_0), sde.rho(sde.T)])
    np.testing.assert_allclose(np.diff(np.log(edges)), np.log(edges[-1] / edges[0]) / 8)
    rho = sde.rho(got["t"])
    counts, _ = np.histogram(rho, edges)
    sums, _ = np.histogram(rho, edges, weights=error)
    np.testing.assert_array_equal(got["level_count"], counts)
    np.testing.assert_allclose(got["level_loss"], sums, rtol=1e-3)


def test_noise_levels_start_at_invisible_noise_where_there_is_none() -> None:
    np.testing.assert_allclose(level_edges(deis.vp_linear(t_0=0.0))[0], 1e-3)
