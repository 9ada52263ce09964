"""A paper's table computed: one compilation, records that outlive any stop, results that batches do not change."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import published_network
import pytest
from commands import ROOT, environment, run_here

import data
import deis
from deis import adaptive, tables
from eval.features.config import ExtractorConfig
from eval.features.pixels import pixels_extractor
from eval.metrics.frechet import feature_statistics, frechet_distance
from eval.metrics.precision_recall import precision_recall
from eval.metrics.reference import load_reference
from eval.paper.compute import Costs, Setup, compile_shared, eps_norm, measure_cell, samples
from eval.paper.plan import Adaptive, Analytic, Cell
from formats.files import read_npz
from models.sampling.build import build_sde
from models.sampling.draw import Trained, draw, load_trained, starts, trained
from models.sampling.options import EpsOptions, check_eps
from models.score import eps_fn

pytestmark = pytest.mark.slow

SEEDS = range(3, 13)


@pytest.fixture(scope="module")
def network() -> tuple[Trained, dict, data.config.DatasetConfig]:
    job = published_network.options("model.image_size=8", "model.image_channels=1")
    options = dict(job.sde)
    net = trained(job.model, build_sde(options), published_network.random_weights(job.model))
    return net, options, job.dataset


@pytest.fixture
def setup(network, tmp_path: Path) -> Setup:
    net, options, dataset = network
    extractor = pixels_extractor((8, 8, 1), ExtractorConfig(name="pixels", cache_dir=str(tmp_path / "features")))
    reference = load_reference(extractor, dataset).statistics
    counting, folder = (costs := Costs()).counting(net), tmp_path / "cells"
    return Setup(counting, options, extractor, reference, dataset, 4, "round", folder, costs)


def cell(solver, nfe_asked: int | None = 5, seeds: range = SEEDS) -> Cell:
    return Cell("row", 0, seeds, solver, nfe_asked, {"sampler": "name"})


def table(sde: deis.SDE, nfe: int, order: int = 2) -> deis.Table:
    return tables.t_ab(sde, deis.timesteps(sde, nfe), order)


def nothing(calls: int) -> None:
    """For measure's progress."""


def test_all_deterministic_solvers_share_one_compilation(setup: Setup) -> None:
    sde = setup.net.sde
    solvers = [table(sde, 3), table(sde, 50, 3), tables.rho_rk(sde, deis.timesteps(sde, 4), "4rk")]
    solvers.append(tables.unipc(sde, deis.timesteps(sde, 5, "log"), 3))
    planned = [cell(solver, i) for i, solver in enumerate(solvers)]
    compile_shared(setup, planned)
    for i, each in enumerate(planned):
        measure_cell(setup, each, f"cell{i}", nothing)
    assert setup.costs.compiled == ["deterministic samplers"]
    noisy = [cell(tables.ddim_eta(sde, deis.timesteps(sde, nfe), eta=1.0)) for nfe in (2, 6)]
    compile_shared(setup, [*planned, *noisy])
    for i, each in enumerate(noisy):
        measure_cell(setup, each, f"noisy{i}", nothing)
    assert setup.costs.compiled == ["deterministic samplers", "samplers that add noise"]
    assert "network compiled 2 time(s): deterministic samplers, samplers that add noise" in str(setup.costs)


def test_a_record_says_what_drawing_and_measuring_by_hand_give(setup: Setup) -> None:
    solver = table(setup.net.sde, 5)
    calls: list[int] = []
    record = measure_cell(setup, cell(solver), "one", calls.append)
    images = data.to_uint8(np.concatenate(list(draw(setup.net, solver, list(SEEDS), 10))), "round")
    expected = feature_statistics([setup.extractor.features(images)], setup.extractor.name, "by hand")
    assert record["fid"] == pytest.approx(frechet_distance(expected, setup.reference), rel=1e-4)
    assert record["fid_name"] == "FD-pixels-10"
    others = feature_statistics([setup.extractor.features(images[:-1])], setup.extractor.name, "by hand")
    assert record["fid_without_block"][-1] == pytest.approx(frechet_distance(others, setup.reference), rel=1e-4)
    spread = np.std(record["fid_without_block"])
    assert record["fid_standard_error"] == pytest.approx(3 * spread), "ten blocks: sqrt(9) times their spread"
    assert record["seeds"] == "3-12"
    assert calls == [5, 5, 5], "ten images in batches of four"
    assert json.loads((setup.folder / "one.json").read_text()) == json.loads(json.dumps(record))
    assert np.abs(read_npz(setup.folder / "one.npz")["images"].astype(int) - images[:4]).max() <= 1
    assert record["network_s"] > 0 < record["features_s"]


def test_a_cell_that_is_stopped_leaves_no_record(setup: Setup) -> None:
    def stop(calls: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_cell(setup, cell(table(setup.net.sde, 3)), "one", stop)
    assert not (setup.folder / "one.json").exists()


def test_samples_that_are_not_finite_are_an_error_and_not_a_record(setup: Setup) -> None:
    broken = replace(setup, net=setup.net._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, setup.net.params)))
    record = measure_cell(broken, cell(table(setup.net.sde, 3)), "one", nothing)
    assert "NaN or infinite samples at NFE 5" in record["error"]
    assert "fid" not in record
    assert not (setup.folder / "one.json").exists()


def test_adaptive_cells_are_dopri5_from_the_seeds_noise_and_count_its_calls(setup: Setup) -> None:
    sde, net = setup.net.sde, setup.net
    loose, tight = Adaptive(sde, "rho", 1e-1), Adaptive(sde, "rho", 1e-3)
    batches = list(samples(setup, cell(loose, None)))
    assert [len(x_0) for x_0, _ in batches] == [4, 4, 2]
    at = starts(net, [7, 8, 9, 10])
    x_0, calls = adaptive.sample(sde, eps_fn(net.network, sde, net.params), at.x_T, "rho", 1e-1, 1e-1)
    np.testing.assert_allclose(batches[1][0], x_0, rtol=1e-4, atol=1e-4)
    assert batches[1][1] == calls
    assert next(samples(setup, cell(tight, None)))[1] > batches[0][1]
    record = measure_cell(setup, cell(loose, None), "one", nothing)
    assert (record["tolerance"], record["nfe_asked"]) == (0.1, None)
    assert record["nfe"] == round(np.mean([calls for _, calls in batches]))
    assert setup.costs.compiled == [""], "the tolerance is an argument"


def test_analytic_ddims_statistic_is_that_of_the_network_and_estimated_once(setup: Setup) -> None:
    sde = setup.net.sde
    solver = Analytic(sde, deis.timesteps(sde, 3), 0.0, False)
    norm = eps_norm(setup, cell(solver))
    x_0 = data.to_float(data.load(setup.dataset, "train").images[:512])
    at = starts(setup.net, list(range(512)))
    network = jax.jit(eps_fn(setup.net.network, sde, setup.net.params, at.label))
    noise = np.asarray(at.x_T)
    t = solver.ts[1]
    e = np.asarray(network(float(sde.s(t)) * x_0 + float(sde.sigma(t)) * noise, np.float32(t)))
    assert norm.shape == (4,)
    assert norm[1] == pytest.approx(float((e**2).mean()), rel=0.05), "other noise, the same expectation"
    setup.costs.now = "again"
    np.testing.assert_array_equal(eps_norm(setup, cell(solver)), norm)
    assert "again" not in setup.costs.compiled
    moved = replace(setup, net=setup.net._replace(params=jax.tree.map(lambda leaf: leaf * 1.0001, setup.net.params)))
    eps_norm(moved, cell(solver))
    assert "again" in setup.costs.compiled, "other weights, another statistic"
    assert measure_cell(setup, cell(solver), "one", nothing)["fid"] > 0


def test_a_guided_cell_is_drawn_with_its_guidance_and_its_worse_network(setup: Setup, tmp_path: Path) -> None:
    """Precision and recall are measured where there are features of the training images to compare with."""
    away = EpsOptions(guidance=3.0, guidance_network=str(published_network.write(tmp_path / "worse")))
    worse = check_eps(away, {"model": {"image_size": 8, "image_channels": 1}, "sde": setup.sde})
    reference = load_reference(setup.extractor, setup.dataset, with_features=True)
    assert worse is not None
    assert reference.features is not None
    setup = replace(setup, worse={away.guidance_network: worse}, reference_features=reference.features)
    net, params = setup.net, setup.net.params
    setup = replace(setup, net=net._replace(params=jax.tree.map(lambda leaf: 1.1 * leaf, params)))
    solver = table(net.sde, 2)
    guided = replace(cell(solver), eps=away)
    assert setup.identity_of(cell(solver)) == setup.identity
    assert setup.identity_of(guided)["worse"]["sha256"] == worse.config["sha256"]
    net = setup.net._replace(worse=load_trained(worse.path, None))
    images = data.to_uint8(np.concatenate(list(draw(net, solver, list(SEEDS), 10, away))), "round")
    record = measure_cell(setup, guided, "one", nothing)
    expected = precision_recall(setup.extractor.features(images), reference.features)
    assert (record["precision"], record["recall"]) == (expected.precision, expected.recall)
    assert np.abs(read_npz(setup.folder / "one.npz")["images"].astype(int) - images[:4]).max() <= 1
    plain = measure_cell(setup, cell(solver), "two", nothing)
    assert plain["fid"] != record["fid"]


def test_identity_follows_weights_diffusion_images_and_features(setup: Setup, network) -> None:
    net, options, _ = network

    def identity(net=net, options=options, rounding="round"):
        return replace(setup, net=net, sde=options, batch_size=8, rounding=rounding).identity

    assert identity() == setup.identity
    others = [
        identity(net._replace(params=jax.tree.map(lambda leaf: leaf * 1.0001, net.params))),
        identity(options=options | {"beta_1": 19.0}),
        identity(rounding="floor"),
    ]
    assert all(other != setup.identity for other in others)


ARGUMENTS = [
    "checkpoint=network", "extractor=pixels", "logger=none", "batch_size=64", "num_samples=512", "run_dir=table",
    "paper.nfe=[5,10]",
]  # fmt: skip


def start(cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eval.table", "paper=cifar10_vp", *ARGUMENTS]
    env = environment() | {"JAX_COMPILATION_CACHE_DIR": str(cwd / "jax")}
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(folder: Path) -> dict[str, int]:
    """When each finished cell was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "table" / "cells").glob("*.json")}


def wait_for_cells(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while len(finished(folder)) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_stopped_and_killed_and_started_again_no_finished_cell_is_repeated(tmp_path: Path) -> None:
    published_network.write(tmp_path / "network")
    process = start(tmp_path)
    wait_for_cells(tmp_path, 2, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "the same command goes on from there" in said
    first = finished(tmp_path)
    assert 2 <= len(first) < 20
    assert json.loads((tmp_path / "table" / "status.json").read_text())["status"] == "stopped"

    process = start(tmp_path)
    wait_for_cells(tmp_path, len(first) + 2, process)
    process.kill()
    process.communicate()
    second = finished(tmp_path)
    assert len(second) < 20

    done = run_here("eval.table", "paper=cifar10_vp", *ARGUMENTS, cwd=tmp_path)
    output, said = done.stdout, done.stderr
    assert done.returncode == 0, said
    third = finished(tmp_path)
    assert len(third) == 20
    assert first.items() <= second.items() <= third.items()
    assert f"{len(second)} of 20 cells are done" in said
    assert "network compiled 1 time(s): deterministic samplers" in output
    check_outputs(tmp_path / "table", output)


def check_outputs(folder: Path, output: str) -> None:
    records = [json.loads(path.read_text()) for path in (folder / "cells").glob("*.json")]
    text = (folder / "table.md").read_text()
    assert all(f"{record['fid']:.2f}" in text for record in records)
    assert "| tAB3 | **15.37** | **4.17** |" in text.split("## Published")[1]
    assert "against the training images of digits" in text
    assert len((folder / "results.csv").read_text().splitlines()) == 21
    for name in ("fid_vs_nfe.png", "fid_vs_nfe.svg", "grid.png", "table.tex"):
        assert (folder / name).stat().st_size > 1000
    seconds = [float(word.split()[-2]) for word in output.splitlines()[-3].split(";")[0].split("(")[0].split(", ")]
    network, features, rest = seconds
    assert rest < 0.2 * (network + features), output  # a tiny network; each FID has ten others for its error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["paper=cifar11"], "unknown paper 'cifar11'; did you mean cifar10_v"),
        (["paper=seeds", "extractor=none"], "choose another extractor"),
        (["paper=seeds", "paper.precision_recall=true", "num_samples=3"], "metrics=pr needs at least 4 samples, got 3"),
        (["paper=seeds", "paper.first_seed=4294967000"], "seeds must be below 2^32; the paper's 4 set(s) of them end"),
        (["paper=seeds", "paper.methods.DDIM=['sampler=ddim','sampler.order=3']"], "row DDIM of the paper"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(arguments: list[str], said: str, tmp_path: Path) -> None:
    network = published_network.write(tmp_path / "network")
    result = run_here("eval.table", *arguments, f"checkpoint={network}", "logger=none", "output_root=out", cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_without_a_paper_nothing_is_computed_but_how_long_each_takes(tmp_path: Path) -> None:
    network = published_network.write(tmp_path / "network")
    result = run_here("eval.table", f"checkpoint={network}", "num_samples=1000", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Next: python -m eval.table paper=cifar10_vp" in result.stdout
    for path in (ROOT / "conf" / "paper").glob("*.yaml"):
        assert re.search(rf"^\| {path.stem} \|.*\| [\d.]+ (s|min|h|days)( and more)? \|$", result.stdout, re.MULTILINE)
    assert f"With the network in {network}, timed here: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["network"]


def test_help_names_every_paper(tmp_path: Path) -> None:
    result = run_here("eval.table", "--help", cwd=tmp_path)
    assert result.returncode == 0
    for path in (ROOT / "conf" / "paper").glob("*.yaml"):
        assert path.stem in result.stdout
