"""Fréchet distance between feature statistics (Heusel et al. 2017, arXiv 1706.08500), all in float64."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg
from jaxtyping import Float

from formats.npz import read_npz, write_npz


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors, and where they come from.

    `extractor` identifies the feature extractor as NAME@HASH, `data` the images. `cov` is the unbiased
    estimate (divided by n - 1).
    """

    mean: Float[np.ndarray, "d"]
    cov: Float[np.ndarray, "d d"]
    n: int
    extractor: str
    data: str


def feature_statistics(batches: Iterable[Float[np.ndarray, "batch d"]], extractor: str, data: str) -> Statistics:
    """Statistics of all rows of `batches`, in one pass and without keeping them.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque (1983), so the result does not
    depend on how the rows are cut or ordered beyond float64 round-off.

    Raises:
        ValueError: fewer than two rows, or a feature that is not finite.
    """
    n, mean, scatter = 0, np.zeros(()), np.zeros(())
    for batch in batches:
        rows = np.asarray(batch, np.float64)
        if not np.isfinite(rows).all():
            bad = n + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise ValueError(f"features of image {bad} of {data} are not finite, so FID has no meaning")
        m = len(rows)
        if m == 0:
            continue
        batch_mean = rows.mean(axis=0)
        centred = rows - batch_mean
        delta = batch_mean - mean
        scatter = scatter + centred.T @ centred + np.outer(delta, delta) * (n * m / (n + m))
        mean = mean + delta * (m / (n + m))
        n += m
    if n < 2:
        raise ValueError(f"{data} has {n} image(s); FID needs at least 2")
    return Statistics(mean, scatter / (n - 1), n, extractor, data)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for covariances A and B.

    (A B)^(1/2) has the same trace as (A^(1/2) B A^(1/2))^(1/2), which is symmetric: its eigenvalues are real
    and no matrix square root of a non-symmetric product is needed. Round-off can leave a distance of
    identical sets slightly below zero; it is returned as it is.

    Raises:
        ValueError: the features come from different extractors.
    """
    if a.extractor != b.extractor:
        raise ValueError(
            f"{a.data} was measured with extractor {a.extractor} but {b.data} with {b.extractor}; "
            "distances need one extractor for both"
        )
    values, vectors = scipy.linalg.eigh(a.cov)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    product = root @ b.cov @ root
    trace_root = np.sqrt(scipy.linalg.eigvalsh((product + product.T) / 2).clip(min=0.0)).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.cov) + np.trace(b.cov) - 2.0 * trace_root)


def metric_name(stats: Statistics) -> str:
    """Name of the FID of a sample set, with extractor and size: 1,797 samples give "FID-digits-1.8k"."""
    count = f"{round(stats.n / 1000, 1):g}k" if stats.n >= 1000 else str(stats.n)
    return f"FID-{stats.extractor.partition('@')[0]}-{count}"


def rank_warning(stats: Statistics) -> str | None:
    """A sentence to show when there are too few images for a full-rank covariance, else None."""
    if stats.n > len(stats.mean):
        return None
    return (
        f"{stats.n} images of {stats.data} cannot fill a covariance of {len(stats.mean)} features; "
        f"{metric_name(stats)} is unreliable below {len(stats.mean) + 1} images"
    )


def save_statistics(path: Path, stats: Statistics) -> None:
    """Write `stats` to an .npz file, atomically."""
    write_npz(path, {name: np.asarray(value) for name, value in vars(stats).items()})


def load_statistics(path: Path) -> Statistics:
    """Read what `save_statistics` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else.
    """
    arrays = read_npz(path)
    if set(arrays) != set(Statistics.__dataclass_fields__):
        raise ValueError(f"{path} holds {sorted(arrays)}, not feature statistics")
    return Statistics(arrays["mean"], arrays["cov"], int(arrays["n"]), str(arrays["extractor"]), str(arrays["data"]))
