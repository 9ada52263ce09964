"""Adams-Bashforth coefficients to 30 digits with mpmath, by the SDEs' textbook formulas.

The integral of a Lagrange basis is a combination of moments of the polynomial's variable y,

    M_k = integral of (y - y_n)^k drho over [rho_n, rho_n+1],

so that one row needs one quadrature a power, whatever its order.
"""

from collections.abc import Callable
from dataclasses import dataclass

import mpmath as mp
import numpy as np

mp.mp.dps = 30

MpFn = Callable[[mp.mpf], mp.mpf]

_BETA_0, _SLOPE = mp.mpf("0.1"), mp.mpf("19.9")
_OFFSET = mp.mpf("0.008")


@dataclass(frozen=True)
class Ratio:
    """rho(t) of an SDE and its inverse, at mpmath's precision."""

    rho: MpFn
    t_of_rho: MpFn


def _linear_rho(t: mp.mpf) -> mp.mpf:
    return mp.sqrt(mp.expm1(_BETA_0 * t + _SLOPE * t**2 / 2))


def _linear_t(rho: mp.mpf) -> mp.mpf:
    return (mp.sqrt(_BETA_0**2 + 2 * _SLOPE * mp.log1p(rho**2)) - _BETA_0) / _SLOPE


def _cosine_rho(t: mp.mpf) -> mp.mpf:
    alpha_bar = (mp.cos(_angle(t)) / mp.cos(_angle(mp.mpf(0)))) ** 2
    return mp.sqrt((1 - alpha_bar) / alpha_bar)


def _cosine_t(rho: mp.mpf) -> mp.mpf:
    b = mp.acos(mp.cos(_angle(mp.mpf(0))) / mp.sqrt(1 + rho**2))
    return 2 / mp.pi * (1 + _OFFSET) * b - _OFFSET


def _angle(t: mp.mpf) -> mp.mpf:
    return (t + _OFFSET) / (1 + _OFFSET) * mp.pi / 2


RATIOS = {
    "vp_linear": Ratio(_linear_rho, _linear_t),
    "vp_cosine": Ratio(_cosine_rho, _cosine_t),
    "ve": Ratio(lambda t: mp.mpf(5000) ** t / 100, lambda rho: mp.log(100 * rho) / mp.log(5000)),
}

VARIABLES = ("t_ab", "rho_ab", "log_rho_ab")


def rows(ratio: Ratio, variable: str, ts: np.ndarray, numbers: list[int]) -> dict[int, list[list[mp.mpf]]]:
    """For each row number n: coefficients of the orders 0 to min(3, n), newest evaluation first."""
    return {n: _row(ratio, variable, [mp.mpf(float(t)) for t in ts[max(0, n - 3) : n + 2]][::-1]) for n in numbers}


def _row(ratio: Ratio, variable: str, ts: list[mp.mpf]) -> list[list[mp.mpf]]:
    """ts: t_n+1, t_n, t_n-1, ... (rising)."""
    y = {"t_ab": lambda rho: ratio.t_of_rho(rho), "rho_ab": lambda rho: rho, "log_rho_ab": mp.log}[variable]
    end, *rho = (ratio.rho(t) for t in ts)
    nodes = ts[1:] if variable == "t_ab" else [y(r) for r in rho]
    offsets = [node - nodes[0] for node in nodes]
    moments = _moments(lambda r: y(r) - nodes[0], rho[0], end, len(nodes))
    return [
        [_combine(_lagrange(offsets[: order + 1], j), moments) for j in range(order + 1)] for order in range(len(nodes))
    ]


def _moments(y: MpFn, start: mp.mpf, end: mp.mpf, count: int) -> list[mp.mpf]:
    """Integrals of y^k drho, k < count, from start to end. In rho^(1/6) a step may end at rho = 0."""
    kept: dict[mp.mpf, mp.mpf] = {}

    def integrand(w: mp.mpf, k: int) -> mp.mpf:
        if w not in kept:
            kept[w] = y(w**6)
        return kept[w] ** k * 6 * w**5

    sixth = mp.mpf(1) / 6
    pieces = mp.linspace(start**sixth, end**sixth, 3)
    rule = "gauss-legendre" if end else "tanh-sinh"  # log rho is singular at 0
    return [end - start] + [mp.quad(lambda w, k=k: integrand(w, k), pieces, method=rule) for k in range(1, count)]


def _lagrange(nodes: list[mp.mpf], j: int) -> list[mp.mpf]:
    """Monomial coefficients of L_j, lowest power first."""
    poly = [mp.mpf(1)]
    for k, node in enumerate(nodes):
        if k != j:
            shifted, same = [mp.mpf(0), *poly], [*poly, mp.mpf(0)]
            poly = [(a - node * b) / (nodes[j] - node) for a, b in zip(shifted, same, strict=True)]
    return poly


def _combine(poly: list[mp.mpf], moments: list[mp.mpf]) -> mp.mpf:
    return sum((c * m for c, m in zip(poly, moments, strict=False)), mp.mpf(0))
