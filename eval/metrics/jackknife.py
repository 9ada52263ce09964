"""The standard error of a Fréchet distance: each of some blocks of samples is left out in turn (the jackknife).

B. Efron and C. Stein, The jackknife estimate of variance, Annals of Statistics 9, 1981. The distance of a block by
itself says less, since it grows as the number of samples falls.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float

from eval.metrics.frechet import Statistics, extend, frechet_distance, merge

BLOCKS = 10


def extend_blocks(blocks: Sequence[Statistics], batch: Float[np.ndarray, "batch d"]) -> list[Statistics]:
    """The blocks with the rows of one more batch, which go to the blocks in turn. Raises ValueError as `extend`."""
    first = sum(stats.n for stats in blocks)
    return [extend(stats, batch[(i - first) % len(blocks) :: len(blocks)]) for i, stats in enumerate(blocks)]


def distances_without(blocks: Sequence[Statistics], reference: Statistics) -> list[float]:
    """The Fréchet distance of all samples but those of one block, for each block."""
    others = [[*blocks[:i], *blocks[i + 1 :]] for i in range(len(blocks))]
    return [frechet_distance(reduce(merge, kept), reference, quickly=True) for kept in others]


def standard_error(without: Sequence[float] | Float[np.ndarray, " blocks"]) -> float:
    """The standard error of a number, from its values when each block is left out in turn.

    It is an estimate itself: with ten blocks, the number is within 1.96 errors of its expectation in 92 of 100 cases,
    and within 2.26 in 95 (Student's t with nine degrees of freedom).
    Of a difference of two numbers it is that of the differences; samples of the same seeds then cancel what they share.
    """
    return float(np.sqrt((len(without) - 1) * np.var(without)))
