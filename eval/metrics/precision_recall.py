"""Do samples lie where the data lies, and everywhere it lies? Judged by balls around every image's features.

Improved precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991. Density and coverage: Naeem et al. 2020,
arXiv 2002.09797.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BLOCK_BYTES = 128 * 2**20  # of a block of distances, of which two may be held at once
COLUMNS = 4096  # rows of the other set that are taken from the centre at a time


class PrecisionRecall(NamedTuple):
    """precision: share of samples within a ball of the reference. recall: share of the reference within a ball of the
    samples. density: balls of the reference that a sample lies in, on average, divided by k; may exceed 1.
    coverage: share of the reference's balls with a sample in them.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def precision_recall(
    samples: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d"],
    k: int = 3,
    k_density: int = 5,
    radii: Float[np.ndarray, "2 m"] | None = None,
) -> PrecisionRecall:
    """All four from three passes over blocks of the distances, in the precision of the features.

    A ball reaches to the k-th nearest neighbour in its own set (the k_density-th for density and coverage), the
    boundary included. Values depend on n and m: compare only with the same numbers. `reference` may be a memory map.
    radii: `reference_radii` of the same reference and neighbours, which take longest; None: they are computed.

    Raises ValueError if a set has too few rows for its neighbours.
    """
    centre = reference.mean(axis=0)
    [radius] = _neighbour_distances(samples, centre, [k], "samples")
    radius_of_reference, radius_for_density = reference_radii(reference, k, k_density) if radii is None else radii

    inside, balls = 0, 0
    recalled, covered = np.zeros(len(reference), bool), np.zeros(len(reference), bool)
    for first, distances in _squared_distances(samples, reference, centre):
        inside += int((distances <= radius_of_reference).any(axis=1).sum())
        recalled |= (distances <= radius[first : first + len(distances), None]).any(axis=0)
        in_ball = distances <= radius_for_density
        balls += int(in_ball.sum())
        covered |= in_ball.any(axis=0)
    return PrecisionRecall(
        precision=inside / len(samples),
        recall=float(recalled.mean()),
        density=balls / (k_density * len(samples)),
        coverage=float(covered.mean()),
    )


def reference_radii(reference: Float[np.ndarray, "m d"], k: int = 3, k_density: int = 5) -> Float[np.ndarray, "2 m"]:
    """The squared radii of the reference's balls, which several sets of samples can be judged by.

    Raises ValueError if it has too few rows for its neighbours.
    """
    return _neighbour_distances(reference, reference.mean(axis=0), [k, k_density], "reference images")


def nearest(
    samples: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d"], k: int
) -> tuple[Int[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """(the numbers of the k rows of the reference nearest to each sample, their distances), the nearest first.

    Raises ValueError for fewer than k rows.
    """
    if not 1 <= k <= len(reference):
        raise ValueError(f"neighbours must be from 1 to {len(reference)}, the number of reference images, got {k}")
    numbers, found = [], []
    for _, distances in _squared_distances(samples, reference, reference.mean(axis=0)):
        numbers.append(np.argsort(distances, axis=1, kind="stable")[:, :k])
        found.append(np.sqrt(np.take_along_axis(distances, numbers[-1], axis=1)))
    return np.concatenate(numbers), np.concatenate(found)


def _neighbour_distances(
    rows: Float[np.ndarray, "n d"], centre: Float[np.ndarray, " d"], ks: list[int], name: str
) -> Float[np.ndarray, "ks n"]:
    """Squared distance of every row to its k-th nearest other row, for each k. Raises ValueError for too few rows."""
    if not 1 <= min(ks) <= max(ks) < len(rows):
        raise ValueError(
            f"precision and recall by neighbours {ks}, counted from 1, need more than {max(ks)} {name}, got {len(rows)}"
        )
    found = np.empty((len(ks), len(rows)), rows.dtype)
    for first, distances in _squared_distances(rows, rows, centre):
        own = np.arange(len(distances))
        distances[own, first + own] = 0.0  # exactly, so that a row is its own 0-th neighbour
        distances.partition(ks, axis=1)
        found[:, first : first + len(distances)] = distances[:, ks].T
    return found


def _squared_distances(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], centre: Float[np.ndarray, " d"]
) -> Iterator[tuple[int, Float[np.ndarray, "block m"]]]:
    """(index of the first row, its block of squared distances from rows of x to all of y).

    They are differences of squares, which lose fewer digits where the squares are small: all is taken from `centre`.
    """
    block = max(1, BLOCK_BYTES // (len(y) * y.itemsize))
    for first in range(0, len(x), block):
        rows = x[first : first + block] - centre
        distances = np.empty((len(rows), len(y)), y.dtype)
        for start in range(0, len(y), COLUMNS):
            columns = y[start : start + COLUMNS] - centre
            part = distances[:, start : start + len(columns)]
            np.matmul(rows, columns.T, out=part)
            part *= -2.0
            part += np.einsum("md,md->m", columns, columns)
        distances += np.einsum("nd,nd->n", rows, rows)[:, None]
        yield first, distances.clip(min=0.0, out=distances)
