"""Kernel distance and Inception Score against sums written out, closed forms and known limits."""

import numpy as np
import pytest

from eval.metrics.inception_score import inception_score
from eval.metrics.kid import kernel_distance, squared_mmd


def test_squared_mmd_is_the_sum_over_pairs():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)) + 0.5

    def k(a, b):
        return (sum(a * b) / 4 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6)]
    within = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs if i != j) / (6 * 5)
    assert squared_mmd(x, y) == pytest.approx(within - 2 * sum(k(x[i], y[j]) for i, j in pairs) / 36, rel=1e-12)


def test_it_is_unbiased_unlike_the_frechet_distance():
    """Between subsets of one distribution the mean is 0 within its standard error, however small the subsets are."""
    rng = np.random.default_rng(1)
    found = np.array([squared_mmd(*rng.normal(size=(2, 20, 3))) for _ in range(4000)])
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(len(found))


def test_closed_form_of_a_shift_in_one_dimension():
    """For N(0, 1) and N(a, 1) the kernel's mean embeddings differ by 3 a^2 + 3 a^2 (a)^2 + (3 a + a^3)^2."""
    rng, a = np.random.default_rng(2), 0.7
    x, y = rng.normal(size=(20_000, 1)), rng.normal(size=(20_000, 1)) + a
    mean, std = kernel_distance(x, y, subsets=40, subset_size=1000)
    # (xy + 1)^3 = 1 + 3 xy + 3 x^2 y^2 + x^3 y^3: moments 1, m1, m2, m3 of weight 1, 3, 3, 1
    expected = 3 * a**2 + 3 * (a**2) ** 2 + (3 * a + a**3) ** 2
    assert mean == pytest.approx(expected, abs=4 * std / np.sqrt(40) + 0.02 * expected)


def test_same_seed_same_subsets_and_float32_is_enough():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(300, 16)).astype(np.float32), rng.normal(size=(400, 16)).astype(np.float32) * 1.1
    first = kernel_distance(x, y, subsets=5, subset_size=100)
    assert kernel_distance(x, y, subsets=5, subset_size=100) == first
    assert kernel_distance(x, y, subsets=5, subset_size=100, seed=1) != first
    np.testing.assert_allclose(
        first, kernel_distance(x.astype(float), y.astype(float), subsets=5, subset_size=100), rtol=1e-12
    )


@pytest.mark.parametrize(("n", "m", "said"), [(50, 500, "from 2 to 50"), (500, 99, "99")])
def test_sets_that_are_too_small_are_refused(n, m, said):
    with pytest.raises(ValueError, match=said):
        kernel_distance(np.zeros((n, 4)), np.zeros((m, 4)), subset_size=100)


def test_a_sure_and_varied_classifier_scores_the_number_of_classes():
    sure = np.repeat(np.eye(10) * 100, 50, axis=0)
    mean, std = inception_score(sure, splits=1)
    assert mean == pytest.approx(10.0, rel=1e-12)
    assert std == 0.0
    assert inception_score(np.ones((500, 10)))[0] == pytest.approx(1.0, rel=1e-12)
    assert inception_score(sure[:50])[0] == pytest.approx(1.0, rel=1e-12), "one class only"


def test_the_score_of_ordered_images_does_not_suffer():
    """Images sorted by class would leave each part one class, and a score of 1, were they not shuffled."""
    mean, std = inception_score(np.repeat(np.eye(10) * 100, 100, axis=0))
    assert 9.0 < mean < 10.0
    assert 0 < std < 0.5


def test_probabilities_that_underflow_leave_the_score_finite():
    logits = np.zeros((40, 3), np.float32)
    logits[:, 0] = 3000.0
    assert inception_score(logits) == (1.0, 0.0)


def test_too_few_samples_for_the_parts_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        inception_score(np.zeros((9, 5)))
