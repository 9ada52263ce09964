"""Fréchet distance between feature statistics (Heusel et al. 2017, arXiv 1706.08500), all in float64."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import scipy.linalg
from jaxtyping import Float

from formats.files import read_npz, write_npz

UNKNOWN = "unknown"  # the extractor of statistics whose file does not name it


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors, and where they come from.

    `extractor` identifies the feature extractor as NAME@HASH, `data` the images. `cov` is the unbiased estimate
    (divided by n - 1); zeros for n = 1. A file of pytorch-fid says neither: `n` is then 0 and `extractor` UNKNOWN.
    """

    mean: Float[np.ndarray, "d"]
    cov: Float[np.ndarray, "d d"]
    n: int
    extractor: str
    data: str

    @cached_property
    def root(self) -> Float[np.ndarray, "d d"]:
        """The symmetric square root of the covariance."""
        values, vectors = scipy.linalg.eigh(self.cov)
        return (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T


def empty_statistics(extractor: str, data: str) -> Statistics:
    """Statistics of an empty set, to be extended."""
    return Statistics(np.zeros(()), np.zeros(()), 0, extractor, data)


def extend(stats: Statistics, batch: Float[np.ndarray, "batch d"]) -> Statistics:
    """`stats` with the rows of one more batch, which may be empty. Raises ValueError if a feature is not finite."""
    if len(batch) == 0:
        return stats
    rows = np.asarray(batch, np.float64)
    if not np.isfinite(rows).all():
        bad = stats.n + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"features of image {bad} of {stats.data} are not finite, so FID has no meaning")
    mean = rows.mean(axis=0)
    centred = rows - mean
    return merge(stats, replace(stats, mean=mean, cov=centred.T @ centred / max(len(rows) - 1, 1), n=len(rows)))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of all images of both, with the origin of `a`; `b` holds one image at least.

    By the pairwise update of Chan, Golub and LeVeque (1983), so that the result does not depend on how rows were cut or
    ordered beyond float64 round-off.
    """
    delta, n = b.mean - a.mean, a.n + b.n
    scatter = a.cov * max(a.n - 1, 0) + b.cov * (b.n - 1) + np.outer(delta, delta) * (a.n * b.n / n)
    return replace(a, mean=a.mean + delta * (b.n / n), cov=scatter / max(n - 1, 1), n=n)


def feature_statistics(batches: Iterable[Float[np.ndarray, "batch d"]], extractor: str, data: str) -> Statistics:
    """Statistics of all rows of `batches`, in one pass and without keeping them.

    Raises ValueError for fewer than two rows, or a feature that is not finite.
    """
    stats = reduce(extend, batches, empty_statistics(extractor, data))
    if stats.n < 2:
        raise ValueError(f"{data} has {stats.n} image(s); FID needs at least 2")
    return stats


def frechet_distance(a: Statistics, b: Statistics, *, quickly: bool = False) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for covariances A and B.

    The trace of (A B)^(1/2) is the sum of the singular values of A^(1/2) B^(1/2), which needs no square root of a small
    difference: equal sets are at distance 0 to round-off, also where they are too few for a covariance of full rank.
    Round-off can leave it slightly below zero; it is returned as it is.

    quickly: take it as the sum of the roots of the eigenvalues of B^(1/2) A B^(1/2), which is several times as fast
        for many distances to one `b`, with errors up to 1e-6 of tr(A).

    Raises ValueError if the features come from different extractors, as far as both are known, or differ in number.
    """
    differ = a.extractor != b.extractor and UNKNOWN not in (a.extractor, b.extractor)
    if differ or a.mean.shape != b.mean.shape:
        raise ValueError(
            f"{a.data} has {a.mean.size} features of extractor {a.extractor}, but {b.data} has {b.mean.size} of "
            f"{b.extractor}; distances need one extractor for both"
        )
    if quickly:
        trace_root = np.sqrt(scipy.linalg.eigvalsh(b.root @ a.cov @ b.root).clip(min=0.0)).sum()
    else:
        trace_root = scipy.linalg.svdvals(a.root @ b.root).sum()
    return float(((a.mean - b.mean) ** 2).sum() + np.trace(a.cov) + np.trace(b.cov) - 2.0 * trace_root)


def metric_name(stats: Statistics, metric: str, split: str = "train") -> str:
    """The name of a metric of a sample set, with extractor and size: 1,797 samples give "FID-digits-1.8k".

    metric: the word that the name begins with; for a Fréchet distance the `distance` of its extractor.
    split: of the images measured against, the name's end where they are not the usual ones: "FID-digits-1.8k-test".
    """
    count = f"{round(stats.n / 1000, 1):g}k" if stats.n >= 1000 else str(stats.n)
    return f"{metric}-{stats.extractor.partition('@')[0]}-{count}" + ("" if split == "train" else f"-{split}")


def rank_warning(*sets: Statistics) -> str | None:
    """A sentence to show when a set has too few images for a covariance of full rank, as far as it is known."""
    for stats in sets:
        if 0 < stats.n <= len(stats.mean):
            return (
                f"{stats.n} images of {stats.data} cannot fill a covariance of {len(stats.mean)} features; "
                f"a Fréchet distance is unreliable below {len(stats.mean) + 1} images"
            )
    return None


def save_statistics(path: Path, stats: Statistics) -> None:
    """Write `stats` to an .npz file, atomically: pytorch-fid's `mu` and `sigma`, their origin, and a checksum."""
    about = {"n": np.asarray(stats.n), "extractor": np.asarray(stats.extractor), "data": np.asarray(stats.data)}
    write_npz(path, {"mu": stats.mean, "sigma": stats.cov, **about, "sha256": np.asarray(_checksum(stats))})


def load_statistics(path: Path, spatial: bool = False) -> Statistics:
    """Read what `save_statistics` wrote, or `mu` and `sigma` of a file of pytorch-fid or a reference batch of others.

    Further arrays of such a file, as images, are not read.
    spatial: take the `mu_s` and `sigma_s` of guided-diffusion's reference batches, which are those of sFID, if there
        are any.
    Raises FileNotFoundError if there is no such file; ValueError if the file is damaged, was changed, or holds
    something else.
    """
    ours = {"n", "extractor", "data", "sha256"}
    arrays = read_npz(path, {"mu", "sigma", "mu_s", "sigma_s"} | ours)
    if spatial:
        arrays |= {name: arrays[f"{name}_s"] for name in ("mu", "sigma") if f"{name}_s" in arrays}
    if lacking := [name for name in ("mu", "sigma") if name not in arrays]:
        raise ValueError(f"{path} has no {lacking[0]}, so it is not feature statistics (mu, sigma)")
    mean, cov = arrays["mu"], arrays["sigma"]
    fit = {mean.dtype.kind, cov.dtype.kind} <= set("fiu") and mean.ndim == 1 and cov.shape == 2 * mean.shape
    if not (fit and np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise ValueError(
            f"{path} holds mu {mean.dtype} {list(mean.shape)} and sigma {cov.dtype} {list(cov.shape)}; statistics of "
            "d features are finite numbers of shapes [d] and [d, d]"
        )
    mean, cov = mean.astype(np.float64), cov.astype(np.float64)
    if np.abs(cov - cov.T).max(initial=0.0) > 1e-4 * np.abs(cov).max(initial=0.0) or (cov.diagonal() < 0).any():
        raise ValueError(f"sigma in {path} is no covariance: it is not symmetric, or a variance in it is negative")
    if not ours <= arrays.keys():
        return Statistics(mean, cov, 0, UNKNOWN, path.name)
    stats = Statistics(mean, cov, int(arrays["n"]), str(arrays["extractor"]), str(arrays["data"]))
    if _checksum(stats) != str(arrays["sha256"]):
        raise ValueError(f"{path} was changed after it was written (its checksum differs); delete it")
    return stats


def _checksum(stats: Statistics) -> str:
    about = f"{stats.n} {stats.extractor} {stats.data}".encode()
    return hashlib.sha256(about + stats.mean.tobytes() + stats.cov.tobytes()).hexdigest()
