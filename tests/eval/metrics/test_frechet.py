"""FID statistics and distance against NumPy, SciPy's matrix square root and closed forms."""

import numpy as np
import pytest
import scipy.linalg

from eval.metrics.frechet import (
    UNKNOWN,
    Statistics,
    feature_statistics,
    frechet_distance,
    load_statistics,
    metric_name,
    rank_warning,
    save_statistics,
)


def gaussian(mean, cov, extractor="digits@1", n=10_000):
    return Statistics(np.asarray(mean, float), np.asarray(cov, float), n, extractor, "samples")


def random_covariance(rng, d, scale=1.0):
    factor = rng.normal(size=(d, 2 * d))
    return scale * factor @ factor.T / (2 * d)


@pytest.mark.parametrize("sizes", [[1000], [1] * 1000, [7, 0, 500, 493], [999, 1]])
def test_streaming_equals_numpy_however_cut(sizes):
    rng = np.random.default_rng(0)
    rows = 1e3 + rng.normal(size=(1000, 12)) * np.logspace(-3, 3, 12)  # a large mean hides cancellation
    chunks = np.split(rng.permutation(rows), np.cumsum(sizes)[:-1])
    stats = feature_statistics(chunks, "digits@1", "rows")
    cov = np.cov(rows, rowvar=False)
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert stats.n == 1000
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(stats.cov / scale, cov / scale, rtol=0, atol=1e-10)


def test_float32_features_are_summed_in_float64():
    rows = np.full((4096, 2), 0.1, np.float32)
    rows[::2] += 1e-3
    stats = feature_statistics(np.split(rows, 64), "digits@1", "rows")
    np.testing.assert_allclose(stats.cov, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-10)


def test_closed_form_in_one_dimension():
    a, b = gaussian([1.0], [[4.0]]), gaussian([-2.0], [[0.25]])
    assert frechet_distance(a, b) == pytest.approx(3.0**2 + (2.0 - 0.5) ** 2, rel=1e-12)


def test_closed_form_of_commuting_covariances():
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    p, q = rng.uniform(0.1, 5, 20), rng.uniform(0.1, 5, 20)
    a, b = gaussian(np.zeros(20), (axes * p) @ axes.T), gaussian(np.ones(20), (axes * q) @ axes.T)
    expected = 20 + ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_agrees_with_the_matrix_square_root_and_is_symmetric():
    rng = np.random.default_rng(2)
    a = gaussian(rng.normal(size=64), random_covariance(rng, 64))
    b = gaussian(rng.normal(size=64), random_covariance(rng, 64, scale=3.0))
    root = scipy.linalg.sqrtm(a.cov @ b.cov)
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.cov + b.cov - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-12)


def test_identical_sets_are_at_distance_zero_even_when_rank_deficient():
    rng = np.random.default_rng(3)
    full = gaussian(rng.normal(size=64), random_covariance(rng, 64))
    assert abs(frechet_distance(full, full)) < 1e-9
    few = feature_statistics([rng.normal(size=(100, 256))], "digits@1", "few")
    assert abs(frechet_distance(few, few)) < 1e-9


@pytest.mark.parametrize("n", [300, 10], ids=["full rank", "rank deficient"])
def test_quickly_it_is_the_same_distance(n):
    rows = np.random.default_rng(4).normal(size=(2, n, 40)) * np.logspace(-2, 2, 40)
    a, b = (feature_statistics([each], "digits@1", "rows") for each in rows)
    for other in (b, a):
        exact, quick = frechet_distance(a, other), frechet_distance(a, other, quickly=True)
        assert quick == pytest.approx(exact, rel=1e-7, abs=1e-6 * np.trace(a.cov))


def test_rotation_and_shift_of_both_sets_change_nothing():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(500, 8)), rng.normal(size=(400, 8)) * 1.5 + 0.3
    turn, shift = np.linalg.qr(rng.normal(size=(8, 8)))[0], rng.normal(size=8)

    def distance(x, y):
        return frechet_distance(*(feature_statistics([rows], "digits@1", "rows") for rows in (x, y)))

    assert distance(x @ turn + shift, y @ turn + shift) == pytest.approx(distance(x, y), rel=1e-10)


def test_different_extractors_are_refused_by_name():
    with pytest.raises(ValueError, match=r"digits@1.*mnist@2"):
        frechet_distance(gaussian([0.0], [[1.0]]), gaussian([0.0], [[1.0]], extractor="mnist@2"))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_refused_with_its_image(bad):
    rows = np.zeros((10, 3))
    rows[7, 1] = bad
    with pytest.raises(ValueError, match="image 7 of generated"):
        feature_statistics(np.split(rows, [4]), "digits@1", "generated")


@pytest.mark.parametrize("rows", [[], [np.zeros((1, 3))]])
def test_fewer_than_two_images_are_refused(rows):
    with pytest.raises(ValueError, match="at least 2"):
        feature_statistics(rows, "digits@1", "generated")


@pytest.mark.parametrize(
    ("n", "name"),
    [(64, "64"), (999, "999"), (1000, "1k"), (1797, "1.8k"), (10_000, "10k"), (49_999, "50k"), (50_000, "50k")],
)
def test_metric_is_named_with_extractor_and_count(n, name):
    assert metric_name(gaussian([0.0], [[1.0]], extractor="digits@0123abcd", n=n), "FID") == f"FID-digits-{name}"


def test_warns_exactly_when_the_covariance_cannot_have_full_rank():
    few, enough, unknown = (gaussian(np.zeros(8), np.eye(8), n=n) for n in (8, 9, 0))
    assert "8 images" in str(rank_warning(few, enough))
    assert "8 images" in str(rank_warning(enough, few))
    assert rank_warning(enough, unknown) is None


def test_saved_statistics_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(5)
    stats = gaussian(rng.normal(size=5), random_covariance(rng, 5))
    save_statistics(tmp_path / "deep" / "stats.npz", stats)
    loaded = load_statistics(tmp_path / "deep" / "stats.npz")
    assert (loaded.n, loaded.extractor, loaded.data) == (stats.n, stats.extractor, stats.data)
    np.testing.assert_array_equal(loaded.mean, stats.mean)
    np.testing.assert_array_equal(loaded.cov, stats.cov)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["stats.npz"]


def test_one_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "stats.npz"
    save_statistics(path, gaussian(np.zeros(50), np.eye(50)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="delete it"):
        load_statistics(path)


class _Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_pickled_content_is_refused_and_never_run(tmp_path):
    path, target = tmp_path / "stats.npz", tmp_path / "ran"
    np.savez(path, mu=np.array([_Payload(target)], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        load_statistics(path)
    assert not target.exists()


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_statistics(tmp_path / "none.npz")
    np.savez(tmp_path / "images.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="not feature statistics"):
        load_statistics(tmp_path / "images.npz")


def test_samples_of_gaussians_approach_the_closed_form():
    """The error falls as 1/sqrt(n) or faster: 64 times the samples leave less than a quarter of it."""
    rng = np.random.default_rng(8)
    means, covs = rng.normal(size=(2, 6)), [random_covariance(rng, 6), random_covariance(rng, 6, scale=2.0)]
    exact = frechet_distance(*(gaussian(m, c) for m, c in zip(means, covs, strict=True)))
    errors = []
    for n in (500, 32_000):
        draws = [rng.multivariate_normal(m, c, size=(8, n)) for m, c in zip(means, covs, strict=True)]
        pairs = [[feature_statistics([rows], "digits@1", "rows") for rows in pair] for pair in zip(*draws, strict=True)]
        errors.append(np.mean([abs(frechet_distance(*pair) - exact) for pair in pairs]))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02 * exact


def test_files_of_pytorch_fid_are_read_and_ours_are_such_files(tmp_path):
    stats = gaussian(np.arange(4), np.eye(4))
    save_statistics(tmp_path / "ours.npz", stats)
    with np.load(tmp_path / "ours.npz") as file:
        further = {
            "mu_s": np.zeros(7),
            "sigma_s": np.eye(7),
            "arr_0": np.zeros((3, 2, 2, 3), np.uint8),
            "n": np.array(3),
        }
        np.savez(tmp_path / "theirs.npz", mu=file["mu"], sigma=file["sigma"], **further)  # type: ignore[arg-type]
    theirs = load_statistics(tmp_path / "theirs.npz")
    assert (theirs.n, theirs.extractor, theirs.data) == (0, UNKNOWN, "theirs.npz")
    assert frechet_distance(stats, theirs) == pytest.approx(0, abs=1e-12)
    assert load_statistics(tmp_path / "theirs.npz", spatial=True).mean.size == 7
    np.testing.assert_array_equal(load_statistics(tmp_path / "ours.npz", spatial=True).mean, stats.mean)
    with pytest.raises(ValueError, match="3 features of extractor digits@1, but theirs"):
        frechet_distance(gaussian(np.zeros(3), np.eye(3)), theirs)


def test_a_changed_identity_or_covariance_is_noticed(tmp_path):
    save_statistics(tmp_path / "stats.npz", gaussian(np.zeros(4), np.eye(4)))
    content = dict(np.load(tmp_path / "stats.npz"))
    for change in ({"extractor": np.array("inception@9")}, {"sigma": 2 * np.eye(4)}, {"n": np.array(50_000)}):
        np.savez(tmp_path / "changed.npz", **content | change)
        with pytest.raises(ValueError, match="was changed"):
            load_statistics(tmp_path / "changed.npz")


@pytest.mark.parametrize(
    ("mu", "sigma", "said"),
    [
        (np.zeros(3), np.eye(4), "finite numbers of shapes"),
        (np.zeros((3, 3)), np.eye(3), "finite numbers of shapes"),
        (np.full(3, np.nan), np.eye(3), "finite numbers of shapes"),
        (np.array(["a"]), np.eye(1), "holds mu <U1"),
        (np.zeros(2), 1j * np.eye(2), "sigma complex128"),
        (np.zeros(2), np.array([[1.0, 5.0], [0.0, 1.0]]), "no covariance"),
        (np.zeros(2), -np.eye(2), "no covariance"),
    ],
)
def test_statistics_that_do_not_fit_together_are_refused(mu, sigma, said, tmp_path):
    np.savez(tmp_path / "bad.npz", mu=mu, sigma=sigma)
    with pytest.raises(ValueError, match=said):
        load_statistics(tmp_path / "bad.npz")
