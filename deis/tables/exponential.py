"""Exponential Runge-Kutta methods in log rho: the single-step DPM-Solvers, RES, ETD-RK and SEEDS as tableaus.

A step is of length h in lambda = -log rho. The weights of its evaluations are made of (Hochbruck & Ostermann, Acta
Numerica 2010) phi_1(z) = (e^z - 1) / z and phi_k+1(z) = (phi_k(z) - 1 / k!) / z. For eps, z = h; for the predicted
x_0, z = -(1 + eta) h, with the noise of the reverse SDE, eta = lambda^2 of `deis.tables.stochastic`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deis.errors import choice
from deis.sde import SDE
from deis.table import Table
from deis.tables.multistep import Noise, Weights, extended_nodes
from deis.tables.pure_noise import from_noise
from deis.tables.single_step import Stages, single_step
from deis.tables.tableaus import MIDPOINT, TABLEAUS

Phi = Callable[..., Any]
"""(k, c) -> phi_k(c z), c = 1 where left out."""
Rows = Callable[..., list[list[Any]]]
"""(phi, c_2, c_3, ...) -> for each next state, the weights over h of the evaluations after the first."""

_LEGENDRE_X, _LEGENDRE_W = np.polynomial.legendre.leggauss(64)


def phi(k: int, z: np.ndarray) -> np.ndarray:
    """phi_k(z), k >= 1: the integral of e^((1 - x) z) x^(k - 1) / (k - 1)! over [0, 1]."""
    x = 0.5 + 0.5 * _LEGENDRE_X
    return np.exp(np.multiply.outer(z, 1 - x)) @ (0.5 * _LEGENDRE_W * x ** (k - 1)) / math.factorial(k - 1)


def midpoint(phi: Phi, c: Any, end: Any = 1.0) -> list[Any]:
    """The weight of an evaluation at c in a step to `end`: its slope's term to first order in h."""
    return [end**2 * phi(1, end) / (2 * c)]


def slope(phi: Phi, c: Any, end: Any = 1.0) -> list[Any]:
    """The weight of an evaluation at c in a step to `end`: its slope's term, the line in lambda integrated exactly."""
    return [end**2 * phi(2, end) / c]


_IN_KAPPA = {"2s": MIDPOINT, "res_2s": MIDPOINT, "heun": TABLEAUS["2heun"], "3s": TABLEAUS["3heun"]}
_IN_KAPPA |= {"res_3s": TABLEAUS["3kutta"], "etd_rk4": TABLEAUS["4rk"]}  # from pure noise on, where s(T) = 0

EXPONENTIAL: dict[str, tuple[tuple[float, ...], Rows]] = {
    "2s": ((1 / 2,), lambda phi, c: [[], midpoint(phi, c)]),
    "3s": ((1 / 3, 2 / 3), lambda phi, c_2, c_3: [[], slope(phi, c_2, c_3), [0.0, phi(2) / c_3]]),
    "heun": ((1.0,), lambda phi, c: [[], slope(phi, c)]),
    "res_2s": ((1 / 2,), lambda phi, c: [[], slope(phi, c)]),
    "res_3s": ((1 / 2, 1.0), lambda phi, c_2, c_3: [[], [2 * phi(2, c_2) + 2 * phi(2)], [4 / 3 * phi(2), phi(2) / 3]]),
    "etd_rk4": (
        (1 / 2, 1 / 2, 1.0),
        lambda phi, *c: [[], [phi(2, c[1])], [0.0, 2 * phi(2)], [2 * phi(2) - 4 * phi(3)] * 2 + [4 * phi(3) - phi(2)]],
    ),
}
"""Where the evaluations after the first stand, c, as shares of the step in lambda, and their weights. The first
evaluation has what is left of c phi_1(c z).

"2s", "3s": DPM-Solver-2, -3 (arXiv 2206.00927), DPM-Solver++(2S) and its 3S (2211.01095), SEEDS-2, -3 (2305.14267);
"heun": exponential Heun; "res_2s", "res_3s": RES (2308.02157), gamma = 4; "etd_rk4": Krogstad, J. Comput. Phys. 2005.
"""


def exponential(c: Sequence[Any], rows: Rows, prediction: str = "x_0", eta: float = 0.0) -> Stages:
    """The stages of a tableau as in EXPONENTIAL; the shares c may be arrays [steps]."""

    def stages(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        h = np.log(start / end).astype(np.float64)
        z = h if prediction == "eps" else -(1 + eta) * h
        ends = [*c, 1.0]
        levels = [start, *(np.where(np.equal(share, 1), end, start * np.exp(-share * h)) for share in ends[:-1]), end]
        weights = np.zeros((len(h), len(ends), len(ends)))
        for j, row in enumerate(rows(lambda k, share=1.0: phi(k, share * z), *c)):
            scale = -z * (levels[j + 1] if prediction == "eps" else 1.0)
            for i, weight in enumerate(row, 1):
                weights[:, j, i] = scale * weight
            weights[:, j, 0] = scale * ends[j] * phi(1, ends[j] * z) - weights[:, j, 1:].sum(axis=1)
        return np.stack(levels[:-1], axis=1), weights

    return stages


def interpolate(place: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Weights [steps, k] of the evaluations at `place` [steps, k] that give its powers the moments [steps, k].

    An oldest place at infinity has the weight 0, and the others are weighed without it.
    """
    far = np.isinf(place[:, -1])
    if far.any():
        weights = np.zeros(place.shape)
        weights[far, :-1] = interpolate(place[far, :-1], moments[far, :-1])
        weights[~far] = interpolate(place[~far], moments[~far])
        return weights
    powers = place[:, None, :] ** np.arange(place.shape[1])[:, None]
    return np.linalg.solve(powers.astype(np.float64), moments.astype(np.float64)[:, :, None])[:, :, 0]


def log_weights(
    prediction: str = "x_0",
    slope: str = "exact",
    eta: float | Callable[[np.ndarray], np.ndarray] = 0.0,
    curvature: float = 1.0,
) -> Weights:
    """Multistep weights by the polynomial in lambda through the evaluations.

    slope: what a line's slope counts for: "exact"; "midpoint" or "B2", to first order in h; "B1", to first order and
        with the step's length for phi_1 (UniPC's B(h)). Polynomials of higher degree are integrated exactly, but
        for `curvature`, the share of a parabola's last term that is taken.
    eta: of the reverse SDE, for "x_0": a number, or a function of rho where steps start.
    """

    def weights(nodes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        theta, k = 1 + (eta(start) if callable(eta) else eta), nodes.shape[1]
        total = end - start if prediction == "eps" else 1 - (end / start) ** theta
        if k == 1:
            return total[:, None]
        h = np.log(start / end)
        z, scale = (h, -end * h) if prediction == "eps" else (-theta * h, theta * h)
        moments = np.stack([total, *(math.factorial(j) * scale * phi(j + 1, z) for j in range(1, k))], axis=1)
        if k == 2 and slope != "exact":
            moments[:, 1] = (scale if slope == "B1" else total) / 2
        if k == 3:
            moments[:, 2] *= curvature
        place = np.log(start[:, None] / nodes) / h[:, None]
        return interpolate(place, moments)

    return weights


def sde_noise(eta: float | Callable[[np.ndarray], np.ndarray]) -> Noise:
    """The noise of the reverse SDE that is left at the end of each step; eta as of `log_weights`."""

    def noise(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        power, ratio = eta(rho[:-1]) if callable(eta) else eta, rho[1:] / rho[:-1]
        return ratio ** (1 + power), rho[1:] * np.sqrt(1 - ratio ** (2 * power))

    return noise


def _from_noise(rk_method: str, eta: float, **options: Any) -> dict[str, Any]:
    return (
        {"eta": min(eta, 1.0) if options["ancestral"] else 1.0} if eta else {"rk": _IN_KAPPA.get(rk_method, MIDPOINT)}
    )


@from_noise(_from_noise)
def exponential_rk(
    sde: SDE,
    ts: np.ndarray,
    rk_method: str = "res_2s",
    *,
    prediction: str = "x_0",
    eta: float = 0.0,
    ancestral: bool = False,
    s_noise: float = 1.0,
    denoise: bool = False,
) -> Table:
    """An exponential Runge-Kutta method in log rho over each step; as many NFE a step as it has stages.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation.
    rk_method: a name in EXPONENTIAL. "2s", "heun", "res_2s" are of order 2, "3s", "res_3s" of 3, "etd_rk4" of 4.
    prediction: what they integrate, predicted "x_0" or "eps".
    eta: noise of the reverse SDE, 1 is the usual one, for "x_0". "2s" and "3s" are then SEEDS-2 and SEEDS-3, and "2s"
        is the DPM++ SDE of k-diffusion, but for the noise at trial points, which here follows the SDE exactly.
    ancestral: the step ends below the next node, and noise leads up to it; eta is DDIM's, 0 to 1. "2s" is then the
        DPM++ 2S ancestral of k-diffusion, and for "eps" its DPM-2 ancestral.
    s_noise: how much the noise is inflated. denoise: one more step, of 1 NFE, to sigma = 0.
    Raises ValueError for an unknown name or prediction, an eta that does not go with it, or bad nodes.
    """
    choice("rk_method", rk_method, EXPONENTIAL)
    if not 0 <= eta < np.inf or (ancestral and eta > 1) or (eta and prediction == "eps" and not ancestral):
        raise ValueError(f"eta must be 0 (deterministic) or more, 1 at most if ancestral, else 0 for eps, got {eta:g}")
    nodes, end, name = extended_nodes(sde, ts, denoise), None, f"expRK-{rk_method}"
    if ancestral:
        rho, name, gamma = nodes[2], f"{name} ancestral(eta={eta:g})", eta
        end, eta = rho[1:] * np.sqrt(1 - gamma**2 * (1 - (rho[1:] / rho[:-1]) ** 2)) if gamma else None, 0.0
    elif eta:
        name = f"{name} SDE(eta={eta:g})"
    stages = exponential(*EXPONENTIAL[rk_method], prediction, eta)
    return single_step(name, sde, nodes, stages, prediction, end=end, eta=eta, s_noise=s_noise)
