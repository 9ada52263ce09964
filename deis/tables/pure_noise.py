"""The first step where s(T) = 0: x_T is pure noise z, rho(T) is infinite, and v = x / s does not exist.

With y = x / sigma = v / rho and kappa = 1 / rho, which is 0 there, the probability-flow ODE is

    dy/dkappa = x_0(x, t)

So the first row is in the scale u = y = z, which its columns say by s = sigma(T) and rho = 1, as `SDE.evaluation` does,
and its history keeps x_0 = u - rho e. Its step leads to v = rho' y', and all that follows is finite and as ever: the
loop need not know of it. A constant x_0 gives v' = x_0 + rho' z exactly, the first step of most methods; one of several
stages is its Runge-Kutta method in kappa, of the same order. Polynomials of later steps know that eps was z at T where
T is a finite number to them, as in t; in rho and log rho a node at infinity drops out of them.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec

import numpy as np

from deis.errors import checked
from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table
from deis.tables.single_step import denoised, join
from deis.tables.tableaus import TABLEAUS, Tableau

Args = ParamSpec("Args")
First = Callable[..., dict[str, Any] | None]
"""A method's options -> those of `kappa_step` for its first step, or None where the method knows what to do."""


def from_noise(first: First = lambda **options: {}) -> Callable[[Callable[Args, Table]], Callable[Args, Table]]:
    """A decorator for functions of (sde, ts, ...): where s = 0 at the first node, steps in kappa, and then the method.

    A method of several stages goes on in kappa as long as noise dominates, rho >= 1: steps near T span the same
    factors of rho however many there are, so that in rho their error would be of order 2.
    """

    def decorate(method: Callable[Args, Table]) -> Callable[Args, Table]:
        @checked
        @wraps(method)
        def build(*args: Args.args, **kwargs: Args.kwargs) -> Table:
            bound = signature(method).bind(*args, **kwargs)
            bound.apply_defaults()
            (sde, ts, *_), names = bound.args, list(bound.arguments)
            options = dict(zip(names[2:], bound.args[2:], strict=False)) | bound.kwargs
            if not starts_at_noise(sde, ts) or (steps := first(**options)) is None:
                return method(*args, **kwargs)

            def rest(ts: np.ndarray) -> Table:
                return method(sde, ts, **options)  # type: ignore[arg-type]

            return _from_noise(sde, check_nodes(sde, ts), rest, options.get("denoise", False), steps)

        return build

    return decorate


def starts_at_noise(sde: SDE, ts: np.ndarray) -> bool:
    """Whether the first of the nodes ts is pure noise, s = 0."""
    return sde.starts_at_noise and bool(np.any(sde.s(np.ravel(ts)[:1]) == 0))


def _from_noise(
    sde: SDE, ts: np.ndarray, rest: Callable[[np.ndarray], Table], denoise: bool, steps: dict[str, Any]
) -> Table:
    num = 1
    if "rk" in steps and steps["rk"].stages > 1:
        num = max(1, int(np.sum(sde.rho(ts) >= 1)) - 1)
    is_all = len(ts) == num + 1
    last = rest(np.array([ts[-2:].mean(), ts[-1]]) if is_all else ts[num:])  # which also checks the options
    parts = [kappa_step(sde, *ts[i : i + 2], **steps) for i in range(num)]
    if not is_all:
        return join(last.name, [*parts, last])
    if steps.get("large") and not denoise:  # the last step has none of that noise
        parts = [replace(part, g=0 * part.g) for part in parts]
    whole = join(last.name, parts)
    return denoised(whole) if denoise else whole


def kappa_step(
    sde: SDE, start: float, end: float, rk: Tableau = TABLEAUS["1euler"], eta: float = 0.0, large: bool = False
) -> Table:
    """The table of one step of `rk` in kappa between two times, or of Euler's to sigma = 0.

    eta: of methods of one stage that add noise, the posterior's share of DDIM(eta): from pure noise on, where
        gamma = eta rho', v' = x_0 + sqrt(1 - eta^2) rho' z + eta rho' z'.
    large: with eta = 1, the noise of DDPM's large variance, sigma(T) / s'.
    """
    rho_start, rho_end = sde.rho(np.array([start, end]))
    if rho_end == 0:
        rk = TABLEAUS["1euler"]
    c, share = np.append(rk.c, 1.0), rho_end / rho_start
    on_start, on_end = c == 0, c == 1
    length = np.where(on_end, 1.0, share + c * (1 - share))  # kappa / kappa', with which rho = rho' / length
    rho = np.where(on_start, sde.evaluation(start)[1], rho_end / np.where(on_start, 1.0, length))
    t = np.where(on_start, start, np.where(on_end, end, sde.t_of_rho(rho)))
    P = np.zeros((rk.stages, rk.stages))
    for i, row in enumerate((*rk.rows, rk.b)):  # u = rho (y + (kappa' - kappa) sum_j a_ij x_0j)
        scale = rho[i + 1] / rho_end if on_start[i + 1] else 1 / length[i + 1]
        P[i, : i + 1] = np.array(row[::-1]) * scale * (1 - share)
    p, is_last = rho[1:] / rho[0], np.arange(rk.stages) == rk.stages - 1
    p[-1] *= np.sqrt(1 - eta**2)
    g = sde.sigma(start) / sde.s(end) if large else eta * rho_end
    q, Q = np.where(is_last, p, 1.0), np.where(is_last[:, None], P, 0.0)
    a, b = np.ones(rk.stages), -rho[:-1]
    return Table("", t, sde.evaluation(t)[0], rho, a, b, p, q, P, Q, g=np.where(is_last, g, 0.0))


def begin_multistep(table: Table, prediction: str, corrector: bool, knows_T: bool) -> Table:
    """A multistep table whose rows over the step from infinity are still to be written.

    The first step takes x_0 as constant. Where the second call corrects it, x_0 is linear in kappa:
    v_1 = rho_1 z + (x_0(T) + x_0(t_1)) / 2, which is rho_1 (z - eps_1) / 2 more.
    prediction, knows_T: as of `deis.tables.multistep.multistep`.
    """
    a, b, p, q, P, Q = (getattr(table, name).copy() for name in ("a", "b", "p", "q", "P", "Q"))
    rho = table.rho
    of_z = np.zeros((2, len(p)))
    if prediction == "eps":
        of_z = np.stack([_taken_of_first(P), _taken_of_first(Q)])
    a[0], b[0], p[0], P[0, 0] = 1.0, -1.0, rho[1], 1.0
    if not corrector:
        q[0], Q[0] = p[0], P[0]
        if knows_T and table.lags > 1 and len(p) > 1:
            P[1, 0], Q[1, 0], of_z[:, 1] = P[1, 0] - rho[1] / 2, Q[1, 0] - rho[1] / 2, of_z[:, 1] + rho[1] / 2
    elif len(p) > 1:
        decay = rho[2] / rho[1] if prediction == "x_0" else 1.0
        of_v, of_m = (rho[1], [0.5, 0.5]) if prediction == "x_0" else (1.5 * rho[1], [-0.5 * rho[1], 1.0])
        q[0], q[1], Q[1, :2] = 1.0, decay * of_v, decay * np.array(of_m)
        p[1], P[1] = q[1], P[1] + Q[1]
    return with_first_eps(replace(table, a=a, b=b, p=p, q=q, P=P, Q=Q), *of_z)


def with_first_step(table: Table, first: Table) -> Table:
    """An eps table with the rows of `first` in place of its own; its later weights of evaluation 0 are those of z."""
    columns = {name: getattr(table, name).copy() for name in ("a", "b", "p", "q", "P", "Q")}
    of_u, of_v = _taken_of_first(columns["P"]), _taken_of_first(columns["Q"])
    for name, column in columns.items():
        own = getattr(first, name)
        column[tuple(map(slice, own.shape))] = own
    return with_first_eps(replace(table, **columns), of_u, of_v)


def with_first_eps(table: Table, of_u: np.ndarray, of_v: np.ndarray) -> Table:
    """`table`, with the weights of eps = z at pure noise added to the rows, of evaluation points and accepted states.

    of_u, of_v: [nfe]. No history has z, but every accepted state is v = alpha z + W h, which gives it.
    """
    p, q, P, Q = (getattr(table, name).copy() for name in ("p", "q", "P", "Q"))
    alpha, W = 1.0, np.zeros(table.lags)
    for i in range(min(table.nfe, table.lags)):
        W = np.append(0.0, W[:-1])  # evaluation i enters the history
        for scale, weights, of_z in ((p, P, of_u), (q, Q, of_v)):
            scale[i] += of_z[i] / alpha
            weights[i] -= of_z[i] / alpha * W
        alpha, W = q[i] * alpha, q[i] * W + Q[i]
    return replace(table, p=p, q=q, P=P, Q=Q)


def _taken_of_first(weights: np.ndarray) -> np.ndarray:
    """The weights [nfe] of the first evaluation, which are 0 in `weights` afterwards."""
    taken = np.zeros(len(weights))
    i = np.arange(min(weights.shape))
    taken[i], weights[i, i] = weights[i, i], 0.0
    return taken
