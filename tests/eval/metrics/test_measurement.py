"""Measuring samples in batches, and the reference they are measured against."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deis
from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor
from eval.features.pixels import pixels_extractor
from eval.metrics.frechet import feature_statistics, frechet_distance, save_statistics
from eval.metrics.jackknife import distances_without, standard_error
from eval.metrics.kid import kernel_distance
from eval.metrics.measurement import METRICS, VALUES, Measurement, MetricConfig, lines, validate_metrics
from eval.metrics.precision_recall import precision_recall
from eval.metrics.reference import Reference, foreign_statistics, reference_of
from eval.paper import compute
from eval.paper.compute import Costs, Setup
from eval.paper.plan import Cell

SHAPE = (4, 4, 1)
ALL = MetricConfig(tuple(METRICS), kid_subsets=5, kid_subset_size=100)


def images(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200 + 10 * seed, (n, *SHAPE), np.uint8)


def with_logits(folder: Path) -> Extractor:
    """Pixels as features, in batches of 32, and the first 5 of them as logits."""
    pixels = pixels_extractor(SHAPE, ExtractorConfig("pixels", cache_dir=str(folder)))

    def embed(images):
        features = pixels.embed(np.concatenate([images] * 8))[0][:32]
        return features, 9 * features[:, :5]

    return dataclasses.replace(pixels, batch_size=32, embed=embed, accuracy=0.9)


def few(extractor: Extractor) -> Reference:
    return reference_of(extractor, images(300, 1), "few-train", with_features=True)


def labels_of(samples: np.ndarray) -> np.ndarray:
    """Classes that `with_logits` finds in the samples, but for the first 300, where they are others."""
    right = samples.reshape(len(samples), 16)[:, :5].argmax(axis=1)
    return np.where(np.arange(len(samples)) < 300, (right + 1) % 5, right)


def measured(extractor: Extractor, metrics: MetricConfig, samples: np.ndarray, cut: int) -> dict:
    measurement, labels = Measurement(extractor, few(extractor), metrics), labels_of(samples)
    for first in range(0, len(samples), cut):
        measurement.add(samples[first : first + cut], labels[first : first + cut])
    return measurement.result()


def test_every_metric_is_that_of_all_features_however_the_samples_come(tmp_path):
    extractor, samples = with_logits(tmp_path), images(1500, 2)
    found = measured(extractor, ALL, samples, cut=1500)
    mine, theirs = samples.reshape(1500, 16) / np.float32(255), images(300, 1).reshape(300, 16) / np.float32(255)
    statistics = [feature_statistics([rows], "p@1", "rows") for rows in (mine, theirs)]
    assert found["fid"] == pytest.approx(frechet_distance(*statistics), rel=1e-12)
    assert (found["kid"], found["kid_std"]) == pytest.approx(kernel_distance(mine, theirs, 5, 100), rel=1e-12)
    assert [found[name] for name in VALUES[4:8]] == list(precision_recall(mine, theirs))
    assert 1.0 < found["is"] < 5.0
    assert found["right_class"] == 1200 / 1500
    blocks = [feature_statistics([mine[i::10]], "p@1", "rows") for i in range(10)]
    assert found["fid_standard_error"] == pytest.approx(
        standard_error(distances_without(blocks, statistics[1])), rel=1e-9
    )
    for cut in (1, 70):
        again = measured(extractor, ALL, samples, cut)
        assert again.keys() == found.keys()
        for name in VALUES:
            assert again[name] == pytest.approx(found[name], rel=1e-9)
    assert lines(found)[0] == f"FD-pixels-1.5k {found['fid']:.4g} ± {found['fid_standard_error']:.2g}"
    assert [line.split()[0] for line in lines(found)] == [
        "FD-pixels-1.5k",
        "KD-pixels-1.5k",
        "IS-pixels-1.5k",
        "PR-pixels-1.5k",
        "classes-pixels-1.5k",
    ]


def test_a_number_says_what_it_was_measured_with_and_against(tmp_path):
    extractor = with_logits(tmp_path)
    found = measured(dataclasses.replace(extractor, distance="FID"), ALL, images(200, 2), 200)
    assert (found["fid_name"], found["kid_name"]) == ("FID-pixels-200", "KID-pixels-200")
    assert found["extractor"] == extractor.name
    assert found["reference"].startswith("few-train@")
    assert (found["reference_n"], found["kid_subsets"], found["kid_subset_size"]) == (300, 5, 100)


def test_fid_alone_keeps_no_features_and_warns_of_too_few_samples(tmp_path, caplog):
    extractor = with_logits(tmp_path)
    reference = few(extractor)._replace(features=None)
    measurement = Measurement(extractor, reference, MetricConfig())
    measurement.add(images(16, 2))
    found = measurement.result()
    assert 0 < found["fid_standard_error"] < found["fid"]
    assert "16 images of samples cannot fill a covariance of 16 features" in caplog.text
    assert not measurement._features
    assert not measurement._logits


def test_a_cell_of_a_table_has_the_fid_and_the_standard_error_of_sample_py(tmp_path, monkeypatch):
    extractor, samples = with_logits(tmp_path), images(103, 2)
    reference = few(extractor).statistics
    net: Any = SimpleNamespace(image_shape=SHAPE)
    setup = Setup(net, {}, extractor, reference, DatasetConfig(), 8, "round", tmp_path, Costs())
    drawn = samples / np.float32(127.5) - 1
    monkeypatch.setattr(compute, "samples", lambda *_: ((drawn[i : i + 8], 5) for i in range(0, 103, 8)))
    table = deis.tables.ddim(deis.vp_linear(), np.array([1.0, 1e-3]))
    record = compute.measure_cell(setup, Cell("DDIM", 0, range(103), table, 5, {}), "cell", lambda _: None)
    found = measured(extractor, MetricConfig(), samples, 103)
    for name in ("fid", "fid_standard_error"):
        assert record[name] == pytest.approx(found[name], rel=1e-6)


def test_fewer_samples_than_blocks_have_no_standard_error(tmp_path):
    extractor = with_logits(tmp_path)
    measurement = Measurement(extractor, few(extractor), MetricConfig())
    measurement.add(images(9, 2))
    found = measurement.result()
    assert "fid_standard_error" not in found
    assert lines(found) == [f"FD-pixels-9 {found['fid']:.4g}"]


def test_what_cannot_be_measured_is_refused(tmp_path):
    extractor = pixels_extractor(SHAPE, ExtractorConfig("pixels", cache_dir=str(tmp_path)))
    reference = few(extractor)
    with pytest.raises(ValueError, match="metrics=is needs class scores, and extractor pixels@"):
        measured(extractor, MetricConfig(["is"]), images(2000, 2), 2000)
    with pytest.raises(ValueError, match="metrics=classes needs the data set's own classes, which extractor pixels@"):
        Measurement(extractor, reference, MetricConfig(["classes"]))
    with pytest.raises(ValueError, match="metrics=classes needs the class that each sample was asked for"):
        Measurement(with_logits(tmp_path), reference, MetricConfig(["classes"])).add(images(4, 2))
    with pytest.raises(ValueError, match="kid_subset_size=301 is more than the 300 images of few-train"):
        Measurement(extractor, reference, MetricConfig(["kid"], kid_subset_size=301))
    with pytest.raises(ValueError, match="mean and a covariance only"):
        Measurement(extractor, reference._replace(features=None), MetricConfig(["kid"]))
    measurement = Measurement(extractor, reference, MetricConfig())
    for wrong in (
        np.zeros((3, 8, 8, 1), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((3, *SHAPE), np.float32),
    ):
        with pytest.raises(ValueError, match=r"samples are .*, but the images of few-train are uint8 \[4, 4, 1\]"):
            measurement.add(wrong)
    with pytest.raises(ValueError, match="needs at least 2 samples, got 0"):
        measurement.result()


@pytest.mark.parametrize(
    ("metrics", "num_samples", "said"),
    [
        (MetricConfig(["fid", "FID"]), 100, "metrics must be some of fid, kid, is, pr, classes, got FID"),
        (MetricConfig([]), 100, "got none"),
        (MetricConfig(["kid"]), 999, "metrics=kid needs at least 1000 samples, got 999"),
        (MetricConfig(["is"]), 9, "metrics=is needs at least 10"),
        (MetricConfig(["kid"], kid_subset_size=1), 999, "kid_subset_size at least 2"),
        (MetricConfig(["kid"], kid_subsets=0), None, "kid_subsets must be at least 1"),
    ],
)
def test_metrics_are_refused_before_anything_is_drawn(metrics, num_samples, said):
    with pytest.raises(ValueError, match=said):
        validate_metrics(metrics, num_samples)


def test_the_reference_is_computed_once(tmp_path):
    extractor = with_logits(tmp_path)
    first = few(extractor)
    once = dataclasses.replace(extractor, embed=lambda _: pytest.fail("computed again"))
    again = few(once)
    np.testing.assert_array_equal(again.statistics.cov, first.statistics.cov)
    np.testing.assert_array_equal(again.features, first.features)
    assert isinstance(again.features, np.memmap)
    with pytest.raises(pytest.fail.Exception):
        reference_of(once, images(300, 2), "few-train")  # other images of the same name
    assert len(list(tmp_path.iterdir())) == 2, "no unfinished file is left"


def test_features_that_were_cut_short_are_not_used(tmp_path):
    extractor = with_logits(tmp_path)
    few(extractor)
    [path] = tmp_path.glob("features_*.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="delete it"):
        few(extractor)


def test_given_statistics_must_be_of_this_extractor(tmp_path):
    extractor = with_logits(tmp_path)
    stats = few(extractor).statistics
    save_statistics(tmp_path / "ours.npz", stats)
    np.testing.assert_array_equal(foreign_statistics(tmp_path / "ours.npz", extractor).cov, stats.cov)
    save_statistics(tmp_path / "others.npz", dataclasses.replace(stats, extractor="inception-tf1@12"))
    with pytest.raises(ValueError, match=r"inception-tf1@12.*pixels@"):
        foreign_statistics(tmp_path / "others.npz", extractor)
    np.savez(tmp_path / "small.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match=r"has 3 features, but extractor pixels@.* has 16"):
        foreign_statistics(tmp_path / "small.npz", extractor)
