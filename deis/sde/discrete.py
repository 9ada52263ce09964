"""Discrete-time diffusions: an alpha_bar array as an SDE whose time is the index."""

from typing import Any

import numpy as np

from deis.errors import as_type, checked, choice, require
from deis.sde.kernel import SDE
from deis.sde.timefn import array_library


def DiscreteVPSDE(discrete_alpha: Any) -> SDE:
    """Variance preserving from the alpha_bar array of a discrete-time model (the published call).

    discrete_alpha: [N] decreasing alpha_bar_i in (0, 1), behind at least 2 of which the last may be 0 (zero terminal
        SNR). Time is the index, in [0, N - 1]; between the indices log rho is interpolated linearly, and 1 / rho where
        the last alpha_bar is 0, so that drift and diffusion jump at the indices (there, they are those of the interval
        above).
    Raises ValueError for any other array.
    """
    alpha_bar = as_type("discrete_alpha", discrete_alpha, np.ndarray)
    if (
        alpha_bar.ndim != 1
        or np.sum(alpha_bar > 0) < 2
        or not (np.all(np.diff(alpha_bar, prepend=1.0) < 0) and alpha_bar[-1] >= 0)
    ):
        raise ValueError(
            "discrete_alpha must be a decreasing array of at least 2 alpha_bar values between 0 and 1, behind which a "
            f"last one may be 0, got {alpha_bar}"
        )
    last = len(alpha_bar) - 1
    finite = np.arange(last + (alpha_bar[-1] > 0), dtype=np.float64)
    known = alpha_bar[: len(finite)]
    log_rho = 0.5 * np.log((1 - known) / known)

    def inverse_rho(t: Any) -> Any:
        xp = array_library(t)
        found = xp.exp(-_interpolate(t, finite, log_rho))
        return found if alpha_bar[-1] else xp.where(t.real > last - 1, np.exp(-log_rho[-1]) * (last - t), found)

    def s(t: Any) -> Any:
        inverse = inverse_rho(t)
        return inverse * (1 + inverse**2) ** -0.5

    def sigma(t: Any) -> Any:
        return (1 + inverse_rho(t) ** 2) ** -0.5

    def t_of_rho(rho: Any) -> Any:
        xp = array_library(rho)
        found = _interpolate(xp.log(rho), log_rho, finite)
        return found if alpha_bar[-1] else xp.where(found > last - 1, last - np.exp(log_rho[-1]) / rho, found)

    return SDE(s, sigma, t_of_rho, t_0=0.0, T=float(last), is_discrete=True)


@checked
def discrete_vp(
    schedule: str = "linear",
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    num_times: int = 1000,
    zero_terminal_snr: bool = False,
    betas: list[float] | None = None,
) -> SDE:
    """The DiscreteVPSDE of alpha_bar_i = prod_{j <= i} (1 - beta_j), i = 0 .. num_times - 1; by default DDPM's.

    schedule: of the beta_j. "linear", from beta_start to beta_end (Ho et al., arXiv 2006.11239, section 4);
        "scaled_linear", linear in sqrt(beta) (latent diffusion); or "cosine" (Nichol & Dhariwal, arXiv 2102.09672,
        eq. 17), which takes no note of beta_start and beta_end: its alpha_bar falls as a squared cosine, by at most
        the factor 1000 from one index to the next.
    betas: the beta_j themselves, instead of all of the above.
    zero_terminal_snr: sqrt(alpha_bar) shifted to 0 at the last time and scaled back at the first (Lin et al.,
        arXiv 2305.08891, algorithm 1).
    Raises ValueError for another schedule, fewer than 2 or more than 100,000 times, or a beta that is not between 0
    and 1; the last of `betas` may be 1.
    """
    choice("schedule", schedule, ("linear", "scaled_linear", "cosine"))
    num_times = num_times if betas is None else np.size(betas)
    require(num_times >= 2, f"num_times must be at least 2, got {num_times}")
    require(num_times <= 100_000, f"num_times must be at most 100,000, got {num_times:,}")
    if betas is not None:
        beta = as_type("betas", betas, np.ndarray)
        if not (np.all(beta > 0) and np.all(beta[:-1] < 1) and beta[-1] <= 1):
            raise ValueError(f"betas must lie between 0 and 1, got {min(beta):g} to {max(beta):g}")
    elif not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"beta_start and beta_end must lie between 0 and 1, got {beta_start:g} and {beta_end:g}")
    elif schedule == "linear":
        beta = np.linspace(beta_start, beta_end, num_times)
    elif schedule == "scaled_linear":
        beta = np.linspace(beta_start**0.5, beta_end**0.5, num_times) ** 2
    else:
        target = np.cos((np.linspace(0, 1, num_times + 1) + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - target[1:] / target[:-1], 0.999)
    alpha_bar = np.cumprod(1 - beta, axis=0)
    return DiscreteVPSDE(_to_zero(alpha_bar) if zero_terminal_snr else alpha_bar)


def _to_zero(alpha_bar: np.ndarray) -> np.ndarray:
    root = np.sqrt(alpha_bar)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def _interpolate(x: Any, xs: np.ndarray, ys: np.ndarray) -> Any:
    """Piecewise linear through the points (xs, ys), xs increasing; the end pieces go on beyond the ends."""
    xp, x = array_library(x), 1.0 * x
    place = {"device": x.device, "dtype": x.dtype} if xp.__name__ == "torch" else {}
    slopes = xp.asarray(np.diff(ys) / np.diff(xs), **place)
    xs, ys = xp.asarray(xs, **place), xp.asarray(ys, **place)
    piece = xp.clip(xp.searchsorted(xs, x.real, side="right") - 1, 0, len(slopes) - 1)
    return ys[piece] + slopes[piece] * (x - xs[piece])
