"""PNDM (arXiv 2202.09778): pseudo Runge-Kutta first steps, then the DDIM step with eps extrapolated.

The steps are those of the original, which is for discrete time: stages stand at the average of the step's indices,
and x goes to each by a DDIM step from the step's start. Any SDE may be used; there the average is one of times. A
step to sigma = 0, if it is among the first, is DDIM's.
"""

from collections.abc import Sequence

import numpy as np

from deis.errors import checked
from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table, eps_table
from deis.tables.adams_bashforth import AB_WEIGHTS
from deis.tables.pure_noise import kappa_step, with_first_step
from deis.tables.tableaus import TABLEAUS

PseudoStep = tuple[Sequence[float], Sequence[float]]
"""Where the stages of a step from t to t' stand between them, and the weights of their eps in it."""

_EULER: PseudoStep = ((0.0,), (1.0,))
_HEUN: PseudoStep = ((0.0, 1.0), (1 / 2, 1 / 2))
_RUNGE_KUTTA: PseudoStep = ((0.0, 1 / 2, 1 / 2, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
_IN_KAPPA = {2: TABLEAUS["2heun"], 4: TABLEAUS["4rk"]}  # the same, from pure noise on, where s(T) = 0


def s_pndm(sde: SDE, ts: np.ndarray) -> Table:
    """S-PNDM: one pseudo improved Euler step of 2 NFE, then (3 eps_0 - eps_1) / 2. N + 1 NFE for N steps.

    ts: [N+1] decreasing nodes, for a discrete-time model whole numbers. The order of convergence is 2.
    Raises ValueError for bad nodes.
    """
    return _pndm("S-PNDM", sde, ts, [_HEUN], order=2)


def f_pndm(sde: SDE, ts: np.ndarray) -> Table:
    """F-PNDM: three pseudo Runge-Kutta steps of 4 NFE, then 4 evaluations extrapolated. N + 9 NFE, 4 N for N < 3.

    ts: as of `s_pndm`. The order of convergence is 4 on grids uniform in rho and 2 on others: constant weights.
    """
    return _pndm("F-PNDM", sde, ts, [_RUNGE_KUTTA] * 3, order=4)


def plms(sde: SDE, ts: np.ndarray) -> Table:
    """F-PNDM with S-PNDM's start, and orders 2, 3, 4 from there (diffusers' skip_prk_steps). N + 1 NFE.

    ts: as of `s_pndm`. The order of convergence is F-PNDM's but for the start's own error, of order 3.
    """
    return _pndm("PLMS", sde, ts, [_HEUN], order=4)


@checked
def _pndm(name: str, sde: SDE, ts: np.ndarray, first_steps: list[PseudoStep], order: int) -> Table:
    ts = check_nodes(sde, ts)
    rho = sde.rho(ts)
    times: list[float] = []  # of the evaluations
    at_nodes: list[int] = []  # those that the extrapolation uses
    rows: list[dict[int, float]] = []  # {evaluation: weight}, from the start of the step
    ends_step: list[bool] = []
    for n, step in enumerate(np.diff(rho)):
        first = len(times)
        at_nodes.append(first)
        if np.isinf(rho[n]):
            from_infinity = kappa_step(sde, ts[0], ts[1], _IN_KAPPA[len(first_steps[0][0])])
            times += from_infinity.t[:-1].tolist()
            rows += [{first: 0.0}] * from_infinity.nfe
            ends_step += [False] * (from_infinity.nfe - 1) + [True]
            continue
        if n < len(first_steps):
            # the network is not asked at sigma = 0
            fractions, weights = first_steps[n] if rho[n + 1] > 0 else _EULER
            used = list(range(first, first + len(weights)))
        else:
            fractions, weights = (0.0,), AB_WEIGHTS[min(n, order - 1)].tolist()
            used = at_nodes[: -len(weights) - 1 : -1]
        stages = [(1 - f) * ts[n] + f * ts[n + 1] for f in fractions]
        times += stages
        rows += [{first + j: sde.rho(t) - rho[n]} for j, t in enumerate(stages[1:])]
        rows += [{i: step * weight for i, weight in zip(used, weights, strict=True)}]
        ends_step += [False] * (len(stages) - 1) + [True]

    P = np.zeros((len(rows), max(i - min(row) for i, row in enumerate(rows)) + 1))
    for i, row in enumerate(rows):
        for evaluation, weight in row.items():
            P[i, i - evaluation] = weight
    t = np.array([*times, ts[-1]])
    table = eps_table(name, t, *sde.evaluation(t), P, P * np.array(ends_step)[:, None])
    return table if np.isfinite(rho[0]) else with_first_step(table, from_infinity)
