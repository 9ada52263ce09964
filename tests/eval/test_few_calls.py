"""eval.choose, eval.learn and sampler=learned: on a small network with classes, from files to images."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import published_network
import pytest
from commands import run_here
from jobs import composed
from omegaconf import OmegaConf

import deis
from deis.learn import choosing
from eval.choose import row_of
from eval.features import efficientnet_lite0
from eval.features.efficientnet_lite0 import features_of_samples
from eval.few_calls.finalists import grid_of, spread
from models.sampling import build
from models.sampling.build import build_table
from models.sampling.draw import conditional_eps, load_trained
from models.sampling.options import EpsOptions

pytestmark = pytest.mark.slow

QUICK = ["reference_nfe=12", "nfe=3", "micro_batch=4", "trajectories=16", "batch_size=8", "num_samples=8", "steps=3"]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    return published_network.write(folder, "model.num_classes=10", "model.null_class=true")


def command(name: str, network: Path, *options: str, cwd: Path):
    return run_here(name, f"checkpoint={network}", *options, cwd=cwd)


def test_every_number_of_calls_has_its_ranking_and_its_table(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "SOLVERS", choosing.SOLVERS[::14])  # test_every_candidate_can_be_typed has them all
    monkeypatch.setattr(choosing, "OPTIMIZED", [])
    few = ["nfe=[2,3]", "reference_nfe=12", "trajectories=8", "run_dir=chosen"]
    fid = ["finalists=2", "extractor=pixels", "num_samples=40", "batch_size=10"]
    done = command("eval.choose", network, *few, *fid, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "chosen" / "choices.csv").read_text().splitlines()))
    errors = [float(row["rms"]) for row in rows if (row["nfe"], row["trajectories"]) == ("3", "8")]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1]
    finalists = {row["fid_rank"]: row for row in rows if row["nfe"] == "3" and row["fid_rank"]}
    assert float(finalists["1"]["fid"]) <= float(finalists["2"]["fid"])
    assert f"| 3 | 1 | {float(finalists['1']['fid']):.2f} ± " in done.stdout
    for picture in ("choices.png", "fid_vs_nfe.png"):
        assert (tmp_path / "chosen" / picture).stat().st_size > 1000
    assert done.stdout.endswith("\nchosen: nfe_002.safetensors, nfe_003.safetensors\n")
    options = f"sampler=learned sampler.table=chosen/nfe_002.safetensors checkpoint={network}"
    assert done.stderr.endswith(f"\nNext: python sample.py {options}\n")
    table = deis.Table.load(tmp_path / "chosen" / "nfe_003.safetensors", deis.vp_linear())
    assert (table.nfe, table.name) == (3, finalists["1"]["sampler"])
    assert table.about["chosen_by"].startswith(f"FD-pixels-40 of {float(finalists['1']['fid']):.4g} ± ")
    how = ["sampler=learned", "sampler.table=chosen/nfe_003.safetensors", "extractor=pixels", "num_samples=40"]
    drawn = command("sample.py", network, *how, "batch_size=10", "logger=none", "run_dir=drawn", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    result = json.loads((tmp_path / "drawn" / "result.json").read_text())
    assert (result["nfe"], result["fid"]) == (3, pytest.approx(float(finalists["1"]["fid"]), rel=1e-6))


def test_finalists_are_of_different_methods_and_grids() -> None:
    """By rounds over the grids, in each the nearest of a method that its grid has not had yet."""
    sde = deis.vp_linear()
    table = deis.tables.ddim(sde, deis.timesteps(sde, 2))

    def choice(error: float, method: str, phase: str, **about: str) -> deis.learn.Choice:
        return deis.learn.Choice(error, replace(table, about={"method": method, "ts_phase": phase} | about), 8)

    linear, quadratic = ({"ts_order": order} for order in ("1.0", "2.0"))
    ranked = [
        choice(0.1, "ipndm", "t", **linear),
        choice(0.2, "ipndm", "t", lower_order_final="True", **linear),
        choice(0.3, "t_ab", "t", **linear),
        choice(0.4, "ipndm", "t", **quadratic),
        choice(0.5, "t_ab", "optimized"),
        choice(0.6, "t_ab", "t", **quadratic),
    ]
    assert [one.error for one in spread(ranked, 4)] == [0.1, 0.4, 0.5, 0.3]
    assert [one.error for one in spread(ranked, 9)] == [0.1, 0.4, 0.5, 0.3, 0.6]
    assert [grid_of(one) for one in spread(ranked, 3)] == ["t 1", "t 2", "optimized"]


def test_a_learned_table_is_nearer_and_a_second_call_changes_nothing(network: Path, tmp_path: Path) -> None:
    options = [*QUICK, "guidance=1.5", "sampler=ddim", "run_dir=learned"]
    done = command("eval.learn", network, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "learned"
    base, learned, fine = json.loads((folder / "result.json").read_text())["solvers"]
    assert [base["table"], learned["table"], fine["nfe"]] == ["DDIM", "learned DDIM", 12]
    assert learned["rms"] < base["rms"]
    assert fine["rms"] == 0
    assert len((folder / "curve.csv").read_text().splitlines()) == 1 + 1 + 3
    assert (folder / "samples.png").is_file()
    assert f" sampler.table=learned/learned.safetensors checkpoint={network}\n" in done.stderr
    before = deis.Table.load(folder / "learned.safetensors")
    again = command("eval.learn", network, *options, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    after = deis.Table.load(folder / "learned.safetensors")
    for column in before.shapes():
        np.testing.assert_array_equal(getattr(after, column), getattr(before, column))
    other = published_network.write(tmp_path / "other", "model.num_classes=10", "model.null_class=true")
    for net, changed, said in (
        (network, "guidance=2", "guidance: 1.5 -> 2.0"),
        (network, "sampler=euler", "sampler.method: ddim -> euler"),
        (other, "num_samples=9", f"network.checkpoint: {network} -> {other}"),
    ):
        refused = command("eval.learn", net, *options, changed, cwd=tmp_path)
        assert refused.returncode == 2
        assert f"learned holds a run of another configuration: {said}" in refused.stderr


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("eval.choose", ["nfe=[5,70]"], "reference_nfe must be above every nfe, got 64 and 70"),
        ("eval.choose", ["trajectories=30"], "trajectories must be a multiple of micro_batch=4, got 30"),
        ("eval.choose", ["finalists=1"], "finalists must be 0, for no FID, or at least 2, got 1"),
        ("eval.choose", ["extractor=pixels"], "there are none: add finalists=8"),
        ("eval.choose", ["finalists=8", "extractor=none"], "choose another extractor than none"),
        ("eval.choose", ["finalists=8", "num_samples=9"], "num_samples must be at least 40 for the FID of finalists"),
        ("eval.choose", ["label=11"], "label must be 0 to 9"),
        ("eval.learn", ["trajectories=20"], "trajectories must be at least two micro_batch of 16, got 20"),
        ("eval.learn", ["sampler=rho2heun", "nfe=63"], "reference_nfe must be above nfe=64, got 64"),
        ("eval.learn", ["sampler=ddim", "sampler.nfe=8"], "the number of calls is nfe= here, with every solver"),
        ("eval.learn", ["loss=psnr"], "loss must be one of mse, log_mse, l1, huber, got 'psnr'"),
        ("eval.learn", ["learn=[nodes]"], "learn must be a tuple of some of grid, time, coefficients, got nodes"),
        ("eval.learn", ["sampler=ddpm"], "DDPM adds noise"),
        ("eval.learn", ["extractor=pixels", "num_samples=1"], "metrics=fid needs at least 2 samples, got 1"),
        ("eval.learn", ["extractor=none", "dataset=digits"], "dataset= is for FID, which nothing measures: add"),
        ("eval.learn", ["features=vgg"], "features must be null or efficientnet_lite0, got 'vgg'"),
        (
            "eval.learn",
            ["features=efficientnet_lite0", "extractor=efficientnet_lite0"],
            "FID is not to be measured by what is learned from",
        ),
        ("eval.learn", ["sampler=learned", "sampler.table=a"], "calls and times are those of the file sampler.table"),
        ("eval.likelihood", ["sampler=learned", "sampler.table=a"], "sampler=learned has times of its own"),
        ("eval.likelihood", ["sampler=recommended"], "sampler=recommended has times of its own"),
        ("sample.py", ["sampler=learned"], "sampler.table has no value: write sampler.table=VALUE"),
        ("sample.py", ["sampler=learned", "sampler.table=null"], "sampler=learned needs sampler.table=FILE"),
        ("sample.py", ["sampler=learned", "sampler.table=none.safetensors"], "there is no table none.safetensors"),
        ("sample.py", ["sampler=learned", "sampler.table=a", "+sampler.nfe=5"], "learned has no sampler.nfe"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_drawn(
    network: Path, tmp_path: Path, name: str, options: list[str], message: str
) -> None:
    done = command(name, network, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_features_can_be_learned_from(network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out is a table, and the curve is in features, for which others stand here that compile in no time.

    A solver of two calls a step makes two where one is asked for, which is said."""
    monkeypatch.setattr(efficientnet_lite0, "features_of_samples", squares)
    few = ["nfe=1", "reference_nfe=12", "micro_batch=1", "trajectories=2", "batch_size=2", "num_samples=2", "steps=1"]
    options = ["sampler=rho2heun", "extractor=none", "features=efficientnet_lite0", "run_dir=f"]
    done = command("eval.learn", network, *few, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads((tmp_path / "f" / "status.json").read_text())
    assert (status["nfe"], status["nfe_asked"]) == (2, 1)
    assert "| learned rho2Heun | 2 (1 asked) |" in done.stdout
    first = (tmp_path / "f" / "curve.csv").read_text().splitlines()[1]
    kept = {name: found[1:] for name, found in np.load(tmp_path / "f" / "trajectories.npz").items()}
    net = load_trained(network, None)
    table = deis.tables.rho_rk(net.sde, deis.timesteps(net.sde, 1), "2heun")
    eps_fn = conditional_eps(net, EpsOptions())
    drawn = deis.sample(table, lambda x, t: eps_fn(x, t, kept["label"]), kept["x_T"])
    apart = squares(drawn) - squares(jnp.asarray(kept["x_0"]))
    assert float(first.split(",")[1]) == pytest.approx(float(jnp.sqrt(jnp.mean(apart**2))), rel=1e-3)


def test_the_features_have_a_derivative() -> None:
    """By tracing alone: one image's features, and how they change with it."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    features, change = jax.eval_shape(lambda x: jax.jvp(features_of_samples, (x,), (x,)), image)
    assert features.shape == change.shape
    assert features.shape[0] == 1


def squares(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1) ** 2


def test_every_candidate_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options that a ranking names build the same table: every solver on one grid, and every grid."""
    monkeypatch.setattr(build, "KEPT", tmp_path)
    monkeypatch.setattr(choosing, "OPTIMIZED", choosing.OPTIMIZED[:1])  # its grid; the solvers are among the others
    sde = deis.vp_linear()
    seen: set[tuple] = set()
    for table in deis.learn.untrained(sde, 6):
        about = dict(table.about)
        grid, solver = (about.pop("ts_phase"), about.pop("ts_order", None)), tuple(about.items())
        if {grid, solver} <= seen:
            continue
        seen |= {grid, solver}
        method, *words = row_of(6, 1, deis.learn.Choice(0.0, table, 8))["options"].split()
        typed = composed(method.replace("=", "/"), *words).sampler  # the group alone
        built = build_table(OmegaConf.to_container(typed), sde)  # type: ignore[arg-type]
        for column in table.shapes():
            np.testing.assert_array_equal(getattr(built, column), getattr(table, column), err_msg=" ".join(words))
