"""Multistep tables: one builder for every method that evaluates the network once a step, at the nodes.

Such a method integrates a polynomial through its last evaluations over the next step. In v = x / s and rho, what
is integrated is eps, or the predicted x_0 = v - rho eps (DPM-Solver++, arXiv 2211.01095, proposition 4.1):

    v' = v + sum_j w_j eps_j,                w_j = integral of L_j drho over the step
    v' = (rho' / rho) v + sum_j w_j x_0j,    w_j = rho' times the integral of L_j d(1 / rho)

Methods differ in their weights w_j, and share the options below.
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np

from deis.errors import choice, require
from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table
from deis.tables.pure_noise import begin_multistep

Weights = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(nodes, start, end) -> weights [steps, k] of the evaluations at nodes [steps, k], newest first, over the steps
from start [steps] to end [steps]; all in rho."""

Noise = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""rho at the nodes [N+1] -> (p, g) [N] of a reverse SDE's steps v' = p v + sum_j w_j x_0j + g z."""

# Gauss-Legendre on [0, 1]; 64 nodes leave rounding errors only
_LEGENDRE_X, _LEGENDRE_W = np.polynomial.legendre.leggauss(64)
_GAUSS_X, _GAUSS_W = 0.5 + 0.5 * _LEGENDRE_X, 0.5 * _LEGENDRE_W


class Options(TypedDict, total=False):
    """What every multistep table can be asked for; off unless the method says otherwise.

    lower_order_final: the last step uses 1 evaluation, the one before it 2, and so on: steadier at 10 steps and
        fewer, but the last step's error bounds the order of convergence by 2.
    corrector: each evaluation first corrects the step that led to it: the accepted state is integrated again over
        that step, through the new evaluation as well (UniC, arXiv 2302.04867, algorithm 1). One order more at the
        same NFE; the last step, which no evaluation follows, is not corrected.
    denoise: one more row, which evaluates at the last node and steps to sigma = 0 by order 1: the result is the
        predicted x_0. The NFE is one more than the steps.
    """

    lower_order_final: bool
    corrector: bool
    denoise: bool


def multistep(
    name: str,
    sde: SDE,
    ts: np.ndarray,
    degree: int,
    predict: Weights,
    correct: Weights,
    prediction: str = "eps",
    *,
    noise: Noise | None = None,
    correct_degree: int | None = None,
    finite_at_zero: bool = False,
    knows_T: bool = False,
    lower_order_final: bool = False,
    corrector: bool = False,
    denoise: bool = False,
) -> Table:
    """The table of a multistep method whose polynomials have degree 0, 1, 2, ... up to `degree`; 1 NFE a step.

    ts: [N+1] decreasing nodes.
    predict, correct: weights over the step after the newest evaluation and, for the corrector, before it.
    prediction: what the history keeps and the weights are for, "eps" or "x_0".
    noise: of a stochastic method of predicted x_0, whose weights are for its `p`.
    correct_degree: the corrector's highest degree, if not degree + 1.
    finite_at_zero: `predict` has finite weights over a step to sigma = 0; if not, such a step is of degree 0.
    knows_T: the polynomials have a node at T where s(T) = 0 too, in a variable that is finite there. Then the second
        call corrects the first step, as the error of that would bound the order by 2.
    lower_order_final, corrector, denoise: the `Options`.
    Raises ValueError for bad nodes, an unknown prediction, or `denoise` after nodes that end at sigma = 0.
    """
    choice("prediction", prediction, ("eps", "x_0"))
    t, s, rho = extended_nodes(sde, ts, denoise)
    step = np.arange(len(t) - 1)
    degrees = rising(degree, len(step), lower_order_final, denoise or (rho[-1] == 0 and not finite_at_zero))

    one, zero = np.ones(len(step)), np.zeros(len(step))
    a, b, p, g = zero, one, one, zero
    if prediction == "x_0":
        a, b, p = one, np.where(np.isinf(rho[:-1]), 0.0, -rho[:-1]), rho[1:] / rho[:-1]
    if noise:
        p, g = noise(rho)
    p = p.astype(np.float64)
    P = Q = _rows(predict, rho, step, step, degrees)
    if corrector and len(step) > 1:  # row n corrects v, which holds the noise of the step before, and moves it on
        limit = degree + 1 if correct_degree is None else correct_degree
        correct_degrees = np.minimum(degrees[:-1] + 1, limit)
        Q = np.zeros((len(step), correct_degrees.max() + 1))
        Q[1:] = p[1:, None] * _rows(correct, rho, step[:-1], step[1:], correct_degrees)
        lags = max(P.shape[1], Q.shape[1])
        P, Q = (np.pad(rows, [(0, 0), (0, lags - rows.shape[1])]) for rows in (P, Q))
        P = P + Q
    if np.isfinite(rho[0]):
        return Table(name, t, s, rho, a, b, p, p, P, Q, g)
    s[0], rho[0] = sde.evaluation(t[0])
    return begin_multistep(Table(name, t, s, rho, a, b, p, p, P, Q, g), prediction, corrector, knows_T)


def with_options(name: str, options: Options) -> str:
    """The table's name in tables and figures: "tAB3+C" with the corrector."""
    return f"{name}+C" if options.get("corrector") else name


def extended_nodes(sde: SDE, ts: np.ndarray, denoise: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, s, rho) at the nodes; rho in extended precision, for the differences that long schedules take of it.

    rho[0] is infinite where s(T) = 0.

    denoise: also sigma = 0, where x is x_0. No time need belong to it; t repeats the last node's.
    """
    t = check_nodes(sde, ts)
    s, rho = sde.s(t), np.asarray(sde.rho(t.astype(np.longdouble)), np.longdouble)
    if not denoise:
        return t, s, rho
    require(rho[-1] > 0, f"the timesteps already end at sigma = 0, at t={t[-1]:g}; give denoise=False")
    return np.append(t, t[-1]), np.append(s, 1.0), np.append(rho, 0)


def check_order(order: int, low: int, high: int, what: str = "order") -> None:
    """Raise ValueError, which begins with `what`, unless `order` lies between low and high."""
    require(low <= order <= high, f"{what} must be {low}{' (DDIM)' * (low == 0)} to {high}, got {order}")


def rising(degree: int, num_row: int, lower_order_final: bool, last_is_0: bool) -> np.ndarray:
    """[num_row] degrees of the polynomials: rising at the start to `degree`, and where asked falling at the end."""
    degrees = np.minimum(degree, np.arange(num_row))
    if lower_order_final:
        degrees = np.minimum(degrees, np.arange(num_row)[::-1])
    if last_is_0:
        degrees[-1] = 0
    return degrees


def _rows(weights: Weights, rho: np.ndarray, step: np.ndarray, newest: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Row i: the weights over step[i] of the degrees[i] + 1 evaluations up to the one at node newest[i].

    A step from infinity is left out, with weights of 0.
    """
    rows = np.zeros((len(step), degrees.max() + 1))
    for degree in set(degrees.tolist()):
        i = np.flatnonzero((degrees == degree) & np.isfinite(rho[step]))
        used = rho[newest[i, None] - np.arange(degree + 1)]
        with np.errstate(divide="ignore", invalid="ignore"):  # of a node at infinity; tables are finite or refused
            rows[i, : degree + 1] = weights(used, rho[step[i]], rho[step[i] + 1])
    return rows


def lagrange(variable: Callable[[np.ndarray], np.ndarray], prediction: str = "eps") -> Weights:
    """Weights that integrate the polynomial in `variable(rho)` exactly."""

    def weights(nodes: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        if nodes.shape[1] == 1:
            return (end - start if prediction == "eps" else (start - end) / start)[:, None]
        rho, drho = quadrature(start, end)
        measure = drho if prediction == "eps" else -end[:, None] / rho**2 * drho
        return lagrange_integrals(variable(nodes), variable(rho), measure)

    return weights


def quadrature(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points rho and weights for integrals drho over each [start, end]: [steps, 64] both.

    The rule is Gauss-Legendre in rho^(1/6), where polynomials in t, rho and log rho are all smooth, down to rho = 0.
    """
    start, end = np.cbrt(np.sqrt(start))[:, None], np.cbrt(np.sqrt(end))[:, None]
    root = start + (end - start) * _GAUSS_X
    root_5 = root * np.square(np.square(root))
    return root * root_5, 6 * root_5 * (end - start) * _GAUSS_W


def lagrange_integrals(nodes: np.ndarray, x: np.ndarray, measure: np.ndarray) -> np.ndarray:
    """Integrals of the Lagrange basis through nodes [steps, k] over points x [steps, 64]: [steps, k].

    Only the differences need the extended precision that they are given in. A node at infinity has the weight 0, which
    is the limit: the others have the polynomial through them alone.
    """
    k, is_far = nodes.shape[1], np.isinf(nodes)
    factor = np.where(is_far[:, :, None], 1.0, x[:, None, :] - nodes[:, :, None]).astype(np.float64)
    apart = np.where(is_far[:, None, :], 1.0, nodes[:, :, None] - nodes[:, None, :]).astype(np.float64)
    measure = measure.astype(np.float64)
    integrals = np.empty((len(nodes), k))
    for j in range(k):
        others = [i for i in range(k) if i != j]
        basis = np.prod(factor[:, others], axis=1) / np.prod(apart[:, j, others], axis=1)[:, None]
        integrals[:, j] = np.sum(basis * measure, axis=1)
    return integrals
