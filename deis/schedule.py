"""Timestep schedules: the nodes between T and t_0 at which a solver's steps begin and end."""

import math

import numpy as np
from jaxtyping import Float64
from scipy.special import betaincinv

from deis.errors import as_type, checked, choice, require
from deis.sde import SDE

PHASES = ("t", "rho", "log", "edm", "beta", "ays_sd", "ays_sdxl", "ays_svd")
INTEGER_PHASES = ("uniform", "quadratic", "leading", "trailing")

AYS = {
    "ays_sd": (14.6146, 6.4746, 3.8637, 2.6946, 1.8842, 1.3944, 0.96426, 0.65237, 0.39775, 0.15152, 0.029167),
    "ays_sdxl": (14.6146, 6.3184, 3.7682, 2.1811, 1.3405, 0.86207, 0.55507, 0.37985, 0.23324, 0.11142, 0.029167),
    "ays_svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""rho of the eleven nodes of Align Your Steps (arXiv 2404.14507): Stable Diffusion 1.5, its XL and video models."""

Nodes = Float64[np.ndarray, " num_step+1"]


@checked
def timesteps(sde: SDE, num_step: int, phase: str = "t", order: float = 2.0) -> Nodes:
    """Decreasing nodes t[0] > ... > t[num_step] = t_0, in units of the SDE; t[0] = T but for "quadratic" and "leading".

    phase: "t", linear in t^(1/order) (order 1 is linear, 2 quadratic; DEIS, arXiv 2204.13902, appendix H);
        "rho", linear in rho^(1/order); "log", linear in log rho; "edm", linear in rho^(1/7) (arXiv 2206.00364, eq. 5);
        "beta", t at the quantiles of the Beta(0.6, 0.6) distribution (arXiv 2407.12173); and the nodes of `AYS`, for
        other numbers of steps linear between them in log rho, all but the ends.
        For discrete-time models, whose times are integers: "uniform", "quadratic", "leading" and "trailing", of
        `integer_timesteps`.
    order: the power above; the phases that have none ignore it.
    Where s(T) = 0, the phases "rho", "log" and "edm" do not exist.
    Raises ValueError for num_step < 1, an unknown phase or one that does not exist, order <= 0, "log" to rho = 0, nodes
    of `AYS` beyond the SDE's noise levels, or fewer integers than nodes.
    """
    choice("ts_phase", phase, (*PHASES, *INTEGER_PHASES))
    require(num_step >= 1, f"num_step must be at least 1, got {num_step}")
    require(0 < order < math.inf, f"ts_order must be positive and finite, got {order:g}")
    if phase in INTEGER_PHASES:
        return integer_timesteps(sde, num_step, phase)
    rho_T, rho_0 = sde.rho(np.array([sde.T, sde.t_0]))
    if phase == "t" and order != 1 and sde.t_0 < 0:
        raise ValueError(f'phase "t" takes roots of the times, so t_0 must not be negative, got {sde.t_0:g}')
    if phase in ("rho", "log", "edm") and sde.starts_at_noise:
        raise ValueError(
            f'phase "{phase}" divides the range of sigma/s, which is infinite at T={sde.T:g}, where s = 0: use "t"'
        )
    if phase == "log" and rho_0 == 0:
        raise ValueError(f'phase "log" needs sigma(t_0) > 0, but it is 0 at t_0={sde.t_0:g}; raise t_0')
    match phase:
        case "t":
            ts = spaced(sde.T, sde.t_0, num_step, "power", order)
        case "rho" | "edm":
            ts = sde.t_of_rho(spaced(rho_T, rho_0, num_step, "power", 7.0 if phase == "edm" else order))
        case "log":
            ts = sde.t_of_rho(spaced(rho_T, rho_0, num_step, "log"))
        case "beta":
            ts = spaced(sde.T, sde.t_0, num_step, "beta")
        case _:
            even = np.linspace(0, 1, num_step + 1), np.linspace(0, 1, len(AYS[phase]))
            rho = np.exp(np.interp(*even, np.log(AYS[phase])))[1:-1]
            if np.any((rho <= rho_0) | (rho >= rho_T)):
                raise ValueError(
                    f'phase "{phase}" has noise levels sigma/s from {rho[0]:.3g} down to {rho[-1]:.3g}, beyond the '
                    f"SDE's, {rho_T:.3g} and {rho_0:.3g}: use another phase"
                )
            ts = np.concatenate([[sde.T], sde.t_of_rho(rho), [sde.t_0]])
    ts[0], ts[-1] = sde.T, sde.t_0
    return check_nodes(sde, ts)


def spaced(start: float, stop: float, num_step: int, kind: str, order: float = 1.0) -> Nodes:
    """Numbers [num_step+1] from start to stop: linear in their "power" 1/order, in their "log", or "beta".

    "beta" are quantiles of the Beta(0.6, 0.6) distribution over the interval (arXiv 2407.12173).
    """
    weight = np.linspace(0.0, 1.0, num_step + 1)
    match kind:
        case "power":
            return (start ** (1 / order) * (1 - weight) + stop ** (1 / order) * weight) ** order
        case "log":
            return np.exp((1 - weight) * np.log(start) + weight * np.log(stop))
        case _:
            return stop + (start - stop) * betaincinv(0.6, 0.6, 1 - weight)


@checked
def dynamic_shift(num_tokens: int) -> float:
    """The `shift` of `deis.flow` that others derive from the image's size: e^mu, with mu linear in the tokens.

    mu = 0.5 at 256 tokens and 1.15 at 4096 (FLUX; the use_dynamic_shifting of diffusers, whose formula
    e^mu / (e^mu + 1/sigma - 1) is the shift by e^mu).
    """
    return math.exp(0.5 + (1.15 - 0.5) / (4096 - 256) * (num_tokens - 256))


def integer_timesteps(sde: SDE, num_step: int, spacing: str) -> Nodes:
    """Distinct whole numbers, decreasing to t_0 = 0, for a discrete-time model of the times 0 to T = N - 1.

    spacing: "uniform", evenly from N - 1 to 0; "quadratic", DDIM's "quad", from 0.8 N to 0 (arXiv 2010.02502,
        appendix D.2); "leading", the multiples of N // (num_step + 1), which is DDIM's "uniform"; "trailing",
        the multiples of N / num_step less 1, rounded to the nearest, and then 0 (the last two: arXiv 2305.08891,
        table 2). The others are rounded down, and equal neighbours moved apart.
    The papers count evaluations, the last of which leads to sigma = 0: S of theirs are all the nodes of
    num_step = S - 1, or for "trailing" the nodes of num_step = S without the 0.
    Raises ValueError if the SDE has other times, or fewer of them than nodes.
    """
    last, i = int(sde.T), np.arange(num_step, -1, -1)
    if not sde.is_discrete:
        order = 2 if spacing == "quadratic" else 1
        raise ValueError(
            f'ts_phase "{spacing}" needs a discrete-time SDE, whose times are whole numbers; the like for times from '
            f'{sde.t_0:g} to {sde.T:g} is ts_phase "t" with ts_order {order}'
        )
    if (sde.t_0, sde.T) != (0, last) or num_step > last:
        raise ValueError(
            f'ts_phase "{spacing}" needs times from 0 to a whole number, of at least num_step + 1 = {num_step + 1} '
            f"whole times, got times from {sde.t_0:g} to {sde.T:g}"
        )
    num = last + 1
    ts: np.ndarray
    match spacing:
        case "uniform":
            ts = i * last // num_step
        case "quadratic":
            ts = np.linspace(0.0, np.sqrt(0.8 * num), num_step + 1)[::-1] ** 2
        case "leading":
            ts = i * (num // (num_step + 1))
        case "trailing":
            ts = np.append(np.round(np.arange(num, 0, -num / num_step)[:num_step]) - 1, 0)
        case _:
            raise ValueError(f"spacing must be one of {', '.join(INTEGER_PHASES)}, got {spacing!r}")
    return round_down(ts, last)


def known_times(sde: SDE, ts: np.ndarray) -> Float64[np.ndarray, " nodes"]:
    """Decreasing nodes, as times that the network knows: those of `round_down` for a discrete-time model."""
    return round_down(ts, int(sde.T)) if sde.is_discrete else ts


def round_down(ts: np.ndarray, last: int) -> Float64[np.ndarray, " nodes"]:
    """Decreasing nodes as distinct whole numbers between 0 and `last`: rounded down, equal neighbours moved apart.

    Raises ValueError if there are more nodes than whole numbers.
    """
    require(len(ts) <= last + 1, f"{len(ts)} nodes cannot be distinct whole numbers from 0 to {last}; take fewer steps")
    i = np.arange(len(ts))
    rising = np.floor(np.asarray(ts, np.float64)[::-1])
    rising = np.maximum.accumulate(rising - i) + i
    return np.minimum(rising, last + 1 - len(ts) + i)[::-1].copy()


def check_nodes(sde: SDE, ts: np.ndarray) -> Float64[np.ndarray, " nodes"]:
    """`ts` as float64 if it is a strictly decreasing vector of at least 2 nodes within [t_0, T], else ValueError."""
    sde, ts = as_type("sde", sde, SDE), as_type("the timesteps", ts, np.ndarray)
    if ts.ndim != 1 or len(ts) < 2:
        raise ValueError(
            f"the timesteps must be a vector of at least 2 nodes, from T down to t_0, got shape {ts.shape}"
        )
    if not np.all(np.isfinite(ts)):
        raise ValueError(f"the timesteps must be finite, got {ts[~np.isfinite(ts)][0]} among them")
    if not np.all(np.diff(ts) < 0):
        i = int(np.argmax(np.diff(ts) >= 0))
        raise ValueError(f"the timesteps must decrease strictly, but {ts[i]:g} is followed by {ts[i + 1]:g}")
    rounding = 1e-6 * (sde.T - sde.t_0)  # nodes may come from float32
    if ts[0] > sde.T + rounding or ts[-1] < sde.t_0 - rounding:
        outside = ts[0] if ts[0] > sde.T + rounding else ts[-1]
        raise ValueError(
            f"the timesteps must lie between the SDE's t_0={sde.t_0:g} and T={sde.T:g}, got {outside:g}; "
            "an SDE of other ends is dataclasses.replace(sde, t_0=..., T=...)"
        )
    return ts
