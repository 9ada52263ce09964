"""The continuous-time diffusions that are known by name."""

import math
from typing import Any

from deis.errors import checked, require
from deis.sde.kernel import SDE
from deis.sde.timefn import TimeFn, array_library


def vp_linear(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """Variance preserving, beta(t) linear from beta_0 to beta_1 over [0, 1] (score_sde, arXiv 2011.13456, eq. 32)."""
    s, log_alpha_bar, t_of_log_alpha_bar = _linear_beta(beta_0, beta_1)

    def sigma(t: Any) -> Any:
        xp = array_library(t)
        return xp.sqrt(-xp.expm1(log_alpha_bar(t)))

    def t_of_rho(rho: Any) -> Any:
        return t_of_log_alpha_bar(-array_library(rho).log1p(rho * rho))

    return SDE(s, sigma, t_of_rho, t_0, T)


def vp_zero_snr(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """vp_linear with zero terminal SNR: its s shifted to 0 at t = 1 and scaled back to 1 at t = 0.

    s = (s_lin(t) - s_lin(1)) / (1 - s_lin(1)) and sigma^2 = 1 - s^2 (Lin et al., arXiv 2305.08891, algorithm 1).
    """
    _, log_alpha_bar, t_of_log_alpha_bar = _linear_beta(beta_0, beta_1)
    log_s_1 = 0.5 * log_alpha_bar(1.0)
    lost = -math.expm1(log_s_1)  # 1 - s_lin(1)

    def s(t: Any) -> Any:  # exactly 0 at t = 1
        growth = 0.5 * (1 - t) * (beta_0 + 0.5 * (beta_1 - beta_0) * (1 + t))
        return math.exp(log_s_1) / lost * array_library(t).expm1(growth)

    def sigma(t: Any) -> Any:
        xp = array_library(t)
        lack = -xp.expm1(0.5 * log_alpha_bar(t)) / lost  # 1 - s without a difference
        return xp.sqrt(lack * (2 - lack))

    def t_of_rho(rho: Any) -> Any:
        xp = array_library(rho)
        root = xp.sqrt(1 + rho * rho)  # 1 / s
        return t_of_log_alpha_bar(2 * xp.log1p(-lost * (rho / root) * (rho / (1 + root))))

    return SDE(s, sigma, t_of_rho, t_0, T)


def sub_vp(beta_0: float = 0.1, beta_1: float = 20.0, t_0: float = 1e-3, T: float = 1.0) -> SDE:
    """sub-VP: s = sqrt(alpha_bar) and sigma = 1 - alpha_bar, linear beta (score_sde, arXiv 2011.13456, eq. 29).

    rho = alpha_bar^(-1/2) - alpha_bar^(1/2) = 2 sinh(-1/2 log alpha_bar), which gives the inverse.
    """
    s, log_alpha_bar, t_of_log_alpha_bar = _linear_beta(beta_0, beta_1)

    def sigma(t: Any) -> Any:
        return -array_library(t).expm1(log_alpha_bar(t))

    def t_of_rho(rho: Any) -> Any:
        return t_of_log_alpha_bar(-2 * array_library(rho).arcsinh(0.5 * rho))

    return SDE(s, sigma, t_of_rho, t_0, T)


@checked
def vp_cosine(offset: float = 0.008, t_0: float = 1e-3, T: float = 0.9946) -> SDE:
    """Variance preserving, alpha_bar = cos^2(b(t)) / cos^2(b(0)), b(t) = (t + offset) / (1 + offset) pi/2.

    Nichol & Dhariwal, arXiv 2102.09672, eq. 17. alpha_bar reaches 0 at t = 1. A network of eps starts below;
    0.9946 is the value of DPM-Solver, arXiv 2206.00927. With T = 1 it has zero terminal SNR.
    """
    require(0 <= offset < math.inf, f"offset must be 0 or more and finite, got {offset:g}")
    rate = 0.5 * math.pi / (1 + offset)
    a = offset * rate

    def s(t: Any) -> Any:
        return array_library(t).sin(rate * (1 - t)) / math.cos(a)  # cos b, which cancels less as a sine near t = 1

    def sigma(t: Any) -> Any:
        xp = array_library(t)  # cos^2 a - cos^2 b = sin(b - a) sin(b + a)
        return xp.sqrt(xp.sin(rate * t) * xp.sin(2 * a + rate * t)) / math.cos(a)

    def t_of_rho(rho: Any) -> Any:
        xp = array_library(rho)
        tangent = xp.sqrt(math.sin(a) ** 2 + rho * rho)  # cos a tan b; below, b - a without the difference
        numerator = math.cos(a) * rho * rho / (tangent + math.sin(a))
        return xp.arctan2(numerator, math.cos(a) ** 2 + math.sin(a) * tangent) / rate

    return SDE(s, sigma, t_of_rho, t_0, T)


@checked
def ve(sigma_min: float = 0.01, sigma_max: float = 50.0, t_0: float = 0.0, T: float = 1.0) -> SDE:
    """Variance exploding, sigma(t) = sigma_min (sigma_max / sigma_min)^t (score_sde, arXiv 2011.13456, eq. 30).

    Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be positive and below sigma_max, got {sigma_min:g} and {sigma_max:g}")
    growth = math.log(sigma_max / sigma_min)

    def sigma(t: Any) -> Any:
        return sigma_min * array_library(t).exp(growth * t)

    def t_of_rho(rho: Any) -> Any:
        return array_library(rho).log(rho / sigma_min) / growth

    return SDE(_one, sigma, t_of_rho, t_0, T, prior_is_sigma=True)


def edm(t_0: float = 0.002, T: float = 80.0) -> SDE:
    """Variance exploding with sigma as time: s = 1, sigma = t (EDM, arXiv 2206.00364, table 1)."""
    return SDE(_one, sigma=lambda t: 1.0 * t, t_of_rho=lambda rho: 1.0 * rho, t_0=t_0, T=T, prior_is_sigma=True)


@checked
def flow(shift: float = 1.0, t_0: float = 0.0, T: float = 1.0) -> SDE:
    """Flow matching, rectified flow: x_t = (1 - sigma) x_0 + sigma eps with sigma = shift t / (1 + (shift - 1) t).

    Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003. With shift = 1, sigma = t; above 1, times that are
    even in t lie closer at the noisy end (Esser et al., arXiv 2403.03206, eq. 23), so that the linear grid "t" is the
    shifted grid of others, and `deis.schedule.dynamic_shift` gives the shift of their dynamic one. Networks of others
    are told sigma(t), which is not t where shift is not 1. Raises ValueError unless shift is positive and finite.
    """
    require(0 < shift < math.inf, f"shift must be positive and finite, got {shift:g}")

    def s(t: Any) -> Any:  # exactly 0 at t = 1
        return (1 - t) / (1 + (shift - 1) * t)

    def sigma(t: Any) -> Any:
        return shift * t / (1 + (shift - 1) * t)

    return SDE(s, sigma, lambda rho: rho / (shift + rho), t_0, T, prior_is_sigma=True)


def _one(t: Any) -> Any:
    return 1.0 + 0.0 * t


@checked
def _linear_beta(beta_0: float, beta_1: float) -> tuple[TimeFn, TimeFn, TimeFn]:
    """sqrt(alpha_bar(t)), log alpha_bar(t) = -(integral of beta over [0, t]) and the inverse of the latter."""
    said = f"beta_0 and beta_1 must be 0 or more and finite, got {beta_0:g} and {beta_1:g}"
    require(min(beta_0, beta_1) >= 0 and max(beta_0, beta_1) < math.inf, said)
    slope = beta_1 - beta_0

    def s(t: Any) -> Any:
        return array_library(t).exp(0.5 * log_alpha_bar(t))

    def log_alpha_bar(t: Any) -> Any:
        return -t * (beta_0 + 0.5 * slope * t)

    def inverse(log_alpha_bar: Any) -> Any:  # the root without cancellation
        return -2 * log_alpha_bar / (beta_0 + array_library(log_alpha_bar).sqrt(beta_0**2 - 2 * slope * log_alpha_bar))

    return s, log_alpha_bar, inverse
