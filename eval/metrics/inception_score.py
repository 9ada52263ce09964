"""Inception Score (Salimans et al. 2016, arXiv 1606.03498): are images recognised, and as how many classes."""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax, logsumexp


def inception_score(logits: Float[np.ndarray, "n classes"], splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation) over `splits` parts of exp(mean KL(p(y|x) || p(y))), between 1 and `classes`.

    The rows are shuffled first, since images are often ordered by class. The part's own mean is taken for p(y).

    Raises ValueError for fewer rows than parts.
    """
    n = len(logits)
    if not 1 <= splits <= n:
        raise ValueError(f"the Inception Score cannot cut {n} samples into {splits} parts; draw at least {splits}")
    order = np.random.default_rng(seed).permutation(n)
    scores = []
    for i in range(splits):
        rows = order[i * n // splits : (i + 1) * n // splits]
        log_p = log_softmax(logits[rows].astype(np.float64), axis=1)
        log_marginal = logsumexp(log_p, axis=0) - np.log(len(rows))
        scores.append(np.exp((np.exp(log_p) * (log_p - log_marginal)).sum(axis=1).mean()))
    return float(np.mean(scores)), float(np.std(scores))
