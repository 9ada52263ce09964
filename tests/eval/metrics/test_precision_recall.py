"""Precision, recall, density and coverage against loops over pairs, known limits, and each other."""

import numpy as np
import pytest

from eval.features.extractor import Extractor
from eval.metrics import precision_recall as module
from eval.metrics import reference as cache
from eval.metrics.precision_recall import precision_recall, reference_radii
from eval.metrics.reference import kept_radii


def by_hand(samples, reference, k, k_density):
    """The definitions, a pair at a time."""

    def radii(rows, k):
        return [sorted(np.linalg.norm(a - b) for j, b in enumerate(rows) if j != i)[k - 1] for i, a in enumerate(rows)]

    of_samples, of_reference, for_density = radii(samples, k), radii(reference, k), radii(reference, k_density)
    distance = [[np.linalg.norm(s - r) for r in reference] for s in samples]
    rows, columns = range(len(samples)), range(len(reference))
    return (
        np.mean([any(distance[i][j] <= of_reference[j] for j in columns) for i in rows]),
        np.mean([any(distance[i][j] <= of_samples[i] for i in rows) for j in columns]),
        np.mean([sum(distance[i][j] <= for_density[j] for j in columns) for i in rows]) / k_density,
        np.mean([any(distance[i][j] <= for_density[j] for i in rows) for j in columns]),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_bytes", [1, 2**20], ids=["in pieces", "at once"])
@pytest.mark.parametrize(("k", "k_density"), [(3, 5), (1, 1), (4, 2)])
def test_definitions(k, k_density, block_bytes, dtype, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(module, "COLUMNS", 7 if block_bytes == 1 else 4096)
    rng = np.random.default_rng(0)
    samples, reference = (rng.normal(size=(40, 3)) * 1.3 + 0.8).astype(dtype), rng.normal(size=(60, 3)).astype(dtype)
    found = precision_recall(samples, reference, k, k_density)
    np.testing.assert_allclose(found, by_hand(samples, reference, k, k_density), rtol=1e-12)
    assert 0.1 < min(found) < max(found) < 1.5, "a case where every value says something"


def test_the_same_distribution_scores_near_one_and_a_far_one_zero():
    rng = np.random.default_rng(1)
    reference, samples = rng.normal(size=(2, 500, 2))
    assert min(precision_recall(samples, reference)) > 0.85
    assert max(precision_recall(samples + 100, reference)) == 0.0


def test_a_mode_left_out_costs_recall_and_coverage_but_no_precision():
    rng = np.random.default_rng(2)
    reference = np.concatenate([rng.normal(size=(300, 2)), rng.normal(size=(300, 2)) + 50])
    found = precision_recall(rng.normal(size=(600, 2)), reference)
    assert found.precision > 0.9
    assert found.density > 0.8
    assert 0.4 < found.recall < 0.51
    assert 0.4 < found.coverage < 0.51


def test_an_outlier_of_the_reference_fools_precision_but_not_density():
    """Naeem's case: the ball around a far outlier reaches over everything that lies between."""
    rng = np.random.default_rng(3)
    reference = np.concatenate([rng.normal(size=(500, 2)), [[40.0, 0.0]]])
    between = rng.normal(size=(200, 2)) * 0.1 + [20.0, 0.0]
    found = precision_recall(between, reference)
    assert found.precision == 1.0
    assert found.density <= 1 / 5 + 1e-12


def test_a_large_common_offset_does_not_cost_digits():
    rng = np.random.default_rng(4)
    samples, reference = rng.integers(-64, 64, (2, 200, 8)) / 64
    near = precision_recall(samples.astype(np.float32), reference.astype(np.float32))
    far = precision_recall((samples + 1024).astype(np.float32), (reference + 1024).astype(np.float32))
    np.testing.assert_allclose(far, near, atol=0.011)


@pytest.mark.parametrize(
    ("n", "m", "k", "said"),
    [
        (3, 50, 3, r"neighbours \[3\], counted from 1, need more than 3 samples, got 3"),
        (50, 5, 3, r"neighbours \[3, 5\], counted from 1, need more than 5 reference images, got 5"),
        (50, 50, 0, r"neighbours \[0\], counted from 1"),
    ],
)
def test_sets_that_are_too_small_are_refused(n, m, k, said):
    with pytest.raises(ValueError, match=said):
        precision_recall(np.zeros((n, 2)), np.zeros((m, 2)), k)
    assert precision_recall(np.zeros((4, 2)), np.zeros((6, 2))).precision == 1.0


def test_the_balls_of_the_reference_are_computed_once(tmp_path, monkeypatch):
    features = np.random.default_rng(5).normal(size=(40, 3)).astype(np.float32)
    extractor = Extractor("p@1", "FD", 3, 8, tmp_path, lambda images: (images, None))
    expected = reference_radii(features)
    np.testing.assert_array_equal(kept_radii(extractor, "few@2", features), expected)
    monkeypatch.setattr(cache, "reference_radii", None)  # it is not called again
    np.testing.assert_array_equal(kept_radii(extractor, "few@2", features), expected)


def test_nearest_rows_are_those_of_all_distances(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 7 * 40 * 8)  # several blocks
    samples, reference = (np.random.default_rng(seed).normal(size=(n, 5)) for seed, n in ((0, 25), (1, 40)))
    numbers, distances = module.nearest(samples, reference, 3)
    every = np.linalg.norm(samples[:, None] - reference, axis=-1)
    np.testing.assert_array_equal(numbers, every.argsort(axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :3], rtol=1e-9)
    with pytest.raises(ValueError, match="neighbours must be from 1 to 40"):
        module.nearest(samples, reference, 41)
