"""Metrics from given features against torch-fidelity's."""

import sys
from unittest.mock import MagicMock

import numpy as np
import pytest

from eval.metrics.frechet import feature_statistics, frechet_distance
from eval.metrics.inception_score import inception_score
from eval.metrics.kid import kernel_distance
from eval.metrics.precision_recall import precision_recall

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")


@pytest.fixture(scope="module")
def peer():
    """torch_fidelity; it imports torchvision for data sets and networks that no metric here needs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("torchvision", "torchvision.datasets", "torchvision.transforms.functional"):
            patch.setitem(sys.modules, name, MagicMock())
        yield pytest.importorskip("torch_fidelity", reason="make test-peers installs torch-fidelity")


@pytest.fixture
def same_draws(monkeypatch):
    """torch-fidelity draws its subsets and shuffles with NumPy's generator of today instead of its old one."""

    class Today(np.random.RandomState):
        def __new__(cls, seed: int):
            return np.random.default_rng(seed)

    monkeypatch.setattr(np.random, "RandomState", Today)


def features(n: int, d: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """Positive and correlated, as a network's are."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).normal(size=(d, d)) / np.sqrt(d)
    return np.maximum(rng.normal(size=(n, d)) @ mix + 0.1 * seed, 0).astype(dtype)


@pytest.mark.parametrize("n", [2000, 300, 80], ids=["n > d", "n about d", "n < d"])
def test_fid(peer, n: int) -> None:
    a, b = features(n, 256, 1), features(n + 30, 256, 2)
    statistics = [peer.metric_fid.fid_features_to_statistics(torch.from_numpy(rows)) for rows in (a, b)]
    theirs = peer.metric_fid.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(*(feature_statistics(np.array_split(rows, 7), "peer@1", "rows") for rows in (a, b)))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_kid(peer, same_draws) -> None:
    a, b = features(500, 64, 1), features(700, 64, 2)
    theirs = peer.metric_kid.kid_features_to_metric(
        torch.from_numpy(a), torch.from_numpy(b), kid_subsets=10, kid_subset_size=200, rng_seed=0, verbose=False
    )
    expected = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert kernel_distance(a, b, subsets=10, subset_size=200) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [1000, 1007])
def test_inception_score(peer, same_draws, n: int) -> None:
    logits = np.random.default_rng(0).normal(size=(n, 100)) * 3
    theirs = peer.metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, rng_seed=0)
    expected = theirs["inception_score_mean"], theirs["inception_score_std"]
    assert inception_score(logits) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("save_cpu_ram", [True, False])
def test_precision_recall(peer, dtype: type, save_cpu_ram: bool) -> None:
    a, b = features(400, 64, 1, dtype), features(600, 64, 2, dtype)
    theirs = peer.metric_prc.prc_features_to_metric(
        torch.from_numpy(a),
        torch.from_numpy(b),
        prc_neighborhood=3,
        prc_batch_size=150,
        save_cpu_ram=save_cpu_ram,
        verbose=False,
    )
    ours = precision_recall(a, b)
    assert (ours.precision, ours.recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)
    assert 0.05 < min(ours.precision, ours.recall) < max(ours.precision, ours.recall) < 0.95
