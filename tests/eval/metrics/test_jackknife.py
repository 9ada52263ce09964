"""The standard error of a Fréchet distance against the spread of many independent sets of samples."""

from functools import reduce

import numpy as np
import pytest
from scipy.stats import t as student

from eval.metrics.frechet import Statistics, empty_statistics, feature_statistics, frechet_distance, merge
from eval.metrics.jackknife import BLOCKS, distances_without, extend_blocks, standard_error

REFERENCE = Statistics(np.zeros(3), np.eye(3), 1000, "f@1", "reference")


def blocks_of(rows: np.ndarray, cut: int = 64) -> list[Statistics]:
    blocks = [empty_statistics("f@1", "rows")] * BLOCKS
    for first in range(0, len(rows), cut):
        blocks = extend_blocks(blocks, rows[first : first + cut])
    return blocks


def test_rows_go_to_the_blocks_in_turn() -> None:
    blocks = blocks_of(np.arange(23.0)[:, None], cut=8)
    assert [stats.n for stats in blocks] == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert [stats.mean[0] for stats in blocks[2:4]] == [12.0, 8.0]


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_blocks_are_the_same_however_the_rows_come(cut: int) -> None:
    rows = np.random.default_rng(0).normal(5.0, 2.0, (103, 3))
    blocks = blocks_of(rows, cut)
    assert sorted(stats.n for stats in blocks) == [10] * 7 + [11] * 3
    whole = reduce(merge, blocks)
    assert whole.n == 103
    np.testing.assert_allclose(whole.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole.cov, np.cov(rows, rowvar=False), rtol=1e-12)
    others = rows[np.arange(103) % 10 != 0]
    first = frechet_distance(feature_statistics([others], "f@1", "rows"), REFERENCE)
    assert distances_without(blocks, REFERENCE)[0] == pytest.approx(first, rel=1e-9)


def test_the_error_is_the_spread_of_independent_sets() -> None:
    """A distance has it, and so has the difference of two whose samples share their noise, where it is far smaller."""
    noise = np.random.default_rng(1).normal(size=(80, 400, 3))
    found: dict[str, list[tuple[float, float]]] = {"one": [], "difference": []}
    for z in noise:
        sets = [blocks_of(samples) for samples in (0.5 + 1.2 * z, 0.55 + 1.21 * z)]
        values = [frechet_distance(reduce(merge, blocks), REFERENCE) for blocks in sets]
        without = [np.array(distances_without(blocks, REFERENCE)) for blocks in sets]
        found["one"].append((values[0], standard_error(without[0])))
        found["difference"].append((values[1] - values[0], standard_error(without[1] - without[0])))
    spread = {}
    for name, pairs in found.items():
        values, errors = np.transpose(pairs)
        spread[name] = values.std(ddof=1)
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(spread[name], rel=0.2), name
    assert spread["difference"] < spread["one"] / 3


def test_it_covers_the_truth_as_often_as_student_says() -> None:
    """The samples are Gaussian; the truth is the expected distance of so many samples, here the mean of all sets.

    With ten blocks t has nine degrees of freedom: 1.96 errors cover 91.8 of 100, and 2.26 cover 95.
    """
    pulls: list[float] = []
    for seed, (shift, scale) in enumerate([(0.5, 1.2), (1.0, 0.8), (0.3, 1.5)]):
        sets = shift + scale * np.random.default_rng(seed).normal(size=(200, 300, 3))
        blocks = [extend_blocks([empty_statistics("f@1", "rows")] * BLOCKS, rows) for rows in sets]
        values = np.array([frechet_distance(reduce(merge, each), REFERENCE) for each in blocks])
        errors = np.array([standard_error(distances_without(each, REFERENCE)) for each in blocks])
        pulls += ((values - values.mean()) / errors).tolist()
    for width in (1.96, 2.26):
        expected = student.cdf(width, BLOCKS - 1) - student.cdf(-width, BLOCKS - 1)
        covered = np.mean(np.abs(pulls) < width)
        print(f"{width} errors cover {covered:.3f} of {len(pulls)} cases, expected {expected:.3f}")
        assert covered == pytest.approx(expected, abs=2 * np.sqrt(expected * (1 - expected) / len(pulls)))


def test_of_a_mean_it_is_the_textbooks() -> None:
    """The mean of n numbers has the standard error s / sqrt(n)."""
    x = np.random.default_rng(2).normal(size=BLOCKS)
    without = [float(np.delete(x, i).mean()) for i in range(BLOCKS)]
    assert standard_error(without) == pytest.approx(x.std(ddof=1) / np.sqrt(BLOCKS), rel=1e-12)
