"""The analysis: its toy network, its tables and figures, and the command as a user runs it."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import published_network
import pytest
from commands import run_here
from flax import nnx
from matplotlib.colors import to_rgb

import deis
from eval.exact import toy_network as toy
from eval.exact.mixture import IN_1D
from eval.exact.study import extrapolation_figure, means_table, pixel_difference_figure
from eval.figures import BASELINE_COLOUR, FAMILY_COLOUR
from formats.tables import write_csv

pytestmark = pytest.mark.slow

SDE = deis.vp_linear()
NAMES = ("relative_change", "holding", "extrapolation", "pixel_difference")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def fitted() -> nnx.Sequential:
    return toy.fit(SDE, IN_1D, jax.random.key(0), steps=400)


def test_fitting_brings_the_network_to_the_exact_eps(fitted):
    """Far closer than it was, but least where t is small, and the score suffers most there."""
    ts = [0.02, 0.2, 0.6]
    rows = toy.error_by_time(fitted, SDE, IN_1D, ts, jax.random.key(1))
    start = toy.error_by_time(toy.init(jax.random.key(0), 1), SDE, IN_1D, ts, jax.random.key(1))
    assert [row["t"] for row in rows] == ts
    assert all(
        after["eps_error"] < 0.3 * before["eps_error"] for after, before in zip(rows[1:], start[1:], strict=True)
    )
    for after in rows:
        sigma = float(SDE.sigma(np.array(after["t"])))
        assert after["score_error"] == pytest.approx(after["eps_error"] / sigma, rel=1e-5)
    assert rows[2]["eps_error"] < 0.1
    assert rows[0]["eps_error"] > 3 * rows[2]["eps_error"]


def test_the_error_is_that_of_predict_against_the_mixture(fitted):
    x, t = jnp.array([[-0.5], [0.2], [1.4]]), jnp.array([0.1, 0.4, 0.9])
    exact = np.concatenate([IN_1D.eps_fn(SDE)(x[i : i + 1], t[i]) for i in range(3)])
    expected = np.abs(np.asarray(toy.predict(fitted, SDE, x, t)) - exact)[:, 0]
    np.testing.assert_allclose(toy.error_at(fitted, SDE, IN_1D, x, t), expected, rtol=1e-3, atol=1e-5)


def test_the_map_finds_the_error_outside_the_data(fitted):
    rows = toy.error_map(fitted, SDE, IN_1D, np.linspace(-2.5, 2.5, 21), [0.02, 0.3])
    assert len(rows) == 42
    early = [row for row in rows if row["t"] == pytest.approx(0.02)]
    outside, inside = ([r["eps_error"] for r in early if (r["log_density"] < -20) == far] for far in (True, False))
    assert np.mean(outside) > 3 * np.mean(inside)
    at = next(row for row in rows if row["t"] == pytest.approx(0.3) and row["x"] == 0.0)
    s, sigma = SDE.marginal(np.array(0.3))
    assert at["log_density"] == pytest.approx(float(IN_1D.log_density(jnp.zeros((1, 1)), s, sigma)[0]), rel=1e-4)


def test_records(tmp_path):
    rows = [
        {"sampler": "DDIM", "nfe": 5, "error": 0.5},
        {"sampler": "DDIM", "nfe": 5, "error": 0.7},
        {"sampler": "DDIM", "nfe": 10, "error": 0.25},
        {"sampler": "tAB3", "nfe": 10, "error": 0.0125},
    ]
    assert means_table(rows, "sampler", "nfe", "error") == (
        "| sampler | nfe 5 | nfe 10 |\n|---|---:|---:|\n| DDIM | 0.6 | 0.25 |\n| tAB3 | - | 0.0125 |\n"
    )
    assert means_table([{"t": 0.123456, "held": "eps", "e": 1.0}], "t", "held", "e").splitlines()[2] == "| 0.1235 | 1 |"
    write_csv(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv")[3] == {"sampler": "tAB3", "nfe": "10", "error": "0.0125"}
    with pytest.raises(ValueError, match="there are no rows to write"):
        write_csv(tmp_path / "none.csv", [])


def test_figures_draw_their_rows():
    """Every line is the rows' numbers."""
    rows = [
        {"sampler": name, "nfe_asked": nfe, "nfe": nfe, "pixel_difference": value / nfe}
        for name, value in (("DDIM", 1.0), ("tAB1", 0.5), ("tAB3", 0.1))
        for nfe in (5, 10)
    ]
    axes = pixel_difference_figure(rows).axes[0]
    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == ["DDIM", "tAB1", "tAB3"]
    np.testing.assert_allclose(np.array(drawn["tAB1"].get_data()).T, [[5, 0.1], [10, 0.05]])
    assert drawn["tAB3"].get_color() == pytest.approx(to_rgb(FAMILY_COLOUR["t_ab"]))
    assert drawn["DDIM"].get_color() == pytest.approx(to_rgb(BASELINE_COLOUR))

    rows = [
        {"nfe": nfe, "order": order, "t": t, "eps_error": t / nfe ** (order + 1)}
        for nfe in (10, 20)
        for order in range(4)
        for t in (1.0, 0.5)
    ]
    over_time, over_nfe = extrapolation_figure(rows).axes
    np.testing.assert_allclose(np.array(over_time.lines[1].get_data()).T, [[1.0, 0.01], [0.5, 0.005]])
    np.testing.assert_allclose(np.array(over_nfe.lines[1].get_data()).T, [[10, 0.0075], [20, 0.001875]])


def test_the_command_on_the_mixture(tmp_path):
    """All figures and numbers; the score as the paper has it: it changes more, and holding it is worse than eps."""
    arguments = ["problem=mixture", "num_samples=32", "nfe=[10,20]", "fit_steps=20", "run_dir=found"]
    result = run_here("eval.analysis", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = tmp_path / "found"
    for name in (*NAMES, "fitting"):
        for suffix in (".png", ".svg", ".csv", ".md"):
            assert (found / f"{name}{suffix}").stat().st_size > 100
    change = read(found / "relative_change.csv")
    eps, score = ([float(r["relative_change"]) for r in change if r["quantity"] == name] for name in ("eps", "score"))
    assert np.mean(np.array(score) > np.array(eps)) > 0.7
    errors = {
        (r["sampler"], int(r["nfe_asked"])): float(r["pixel_difference"]) for r in read(found / f"{NAMES[3]}.csv")
    }
    assert errors["EI-score", 10] > 1.5 * errors["DDIM", 10] > 1.5 * errors["tAB3", 10]
    assert errors["EI-score", 10] > errors["Euler", 10]
    assert all(errors[sampler, 20] < errors[sampler, 10] for sampler, _ in errors)
    assert result.stdout.startswith("Mean |x - exact solution| of coordinates, by solver and network calls at most:\n")
    assert "| tAB3 |" in result.stdout


def test_the_command_on_a_network(tmp_path):
    published_network.write(tmp_path / "net")
    result = run_here("eval.analysis", "checkpoint=net", "num_samples=2", "nfe=[6]", "run_dir=found", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Mean |x - exact solution| of pixels from -1 to 1, by solver and network calls")
    assert {path.stem for path in (tmp_path / "found").glob("*.png")} == set(NAMES)
    assert len(read(tmp_path / "found" / "pixel_difference.csv")) == 13


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["problem=images"], "problem must be one of checkpoint, mixture, got 'images'"),
        (["problem=mixture", "nfe=[]"], "nfe must be a list of numbers of at least 1"),
        (["problem=mixture", "num_samples=0"], "num_samples must be at least 1, got 0"),
        (["problem=mixture", "ts_phase=sigma"], "ts_phase must be one of"),
        (["problem=mixture", "checkpoint=nowhere"], "problem=mixture has no network; leave out checkpoint"),
        (["checkpoint=nowhere"], "no checkpoint in nowhere/checkpoints"),
    ],
)
def test_refusals(arguments, said, tmp_path):
    result = run_here("eval.analysis", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_diffusions_that_cannot_be_followed_are_refused(tmp_path):
    """Those of pure noise, and discrete ones on grids of whole times, of which there are less than 1,001."""
    published_network.write(tmp_path / "flow", "sde=flow", "model.output=flow", "objective=flow")
    published_network.write(tmp_path / "discrete", "sde=discrete_vp")
    for said, *words in (
        ("the network's diffusion is pure noise at T=1, where nothing can", "eval.analysis", "checkpoint=flow"),
        ("the network's diffusion is pure noise at T=1, where nothing can", "eval.likelihood", "checkpoint=flow"),
        ('ts_phase "uniform" needs times from 0', "eval.analysis", "checkpoint=discrete", "ts_phase=uniform"),
    ):
        result = run_here(*words, cwd=tmp_path)
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {said}")
    assert {path.name for path in tmp_path.iterdir()} == {"flow", "discrete"}
