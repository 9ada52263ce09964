"""The pseudo numerical methods (arXiv 2202.09778) as plain loops in x and alpha_bar."""

import itertools
from collections.abc import Callable
from math import sqrt

import numpy as np

EpsFn = Callable[[np.ndarray, float], np.ndarray]
TimeFn = Callable[[float], float]


def sample(alpha_bar: TimeFn, eps: EpsFn, x: np.ndarray, ts: np.ndarray, kind: str) -> np.ndarray:
    """S-PNDM, F-PNDM (arXiv 2202.09778) or PLMS, the latter's multistep part with the former's start.

    alpha_bar: of the VP diffusion, by index.
    """
    past: list[np.ndarray] = []
    for n, (t, t_next) in enumerate(itertools.pairwise(ts)):
        e_1 = eps(x, t)
        past = [e_1, *past]
        if kind == "F-PNDM" and n < 3:
            mid = (t + t_next) / 2
            e_2 = eps(_transfer(alpha_bar, x, t, mid, e_1), mid)
            e_3 = eps(_transfer(alpha_bar, x, t, mid, e_2), mid)
            e_4 = eps(_transfer(alpha_bar, x, t, t_next, e_3), t_next)
            e = (e_1 + 2 * e_2 + 2 * e_3 + e_4) / 6
        elif n == 0:
            e = (e_1 + eps(_transfer(alpha_bar, x, t, t_next, e_1), t_next)) / 2
        elif n == 1 or kind == "S-PNDM":
            e = (3 * past[0] - past[1]) / 2
        elif n == 2:
            e = (23 * past[0] - 16 * past[1] + 5 * past[2]) / 12
        else:
            e = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
        x = _transfer(alpha_bar, x, t, t_next, e)
    return x


def _transfer(alpha_bar: TimeFn, x: np.ndarray, t: float, t_next: float, e: np.ndarray) -> np.ndarray:
    """phi(x, e, t, t'), in the paper's form."""
    a, b = float(alpha_bar(t)), float(alpha_bar(t_next))
    denominator = sqrt(a) * (sqrt((1 - b) * a) + sqrt((1 - a) * b))
    return x + (b - a) * (x / (sqrt(a) * (sqrt(b) + sqrt(a))) - e / denominator)
