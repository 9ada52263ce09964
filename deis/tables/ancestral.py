"""Ancestral tables: DDIM(eta), DDPM and Analytic-DDIM, which step by the posterior of x_t' given x_t and x_0.

With v = x / s, rho = sigma / s and the predicted x_0 = v - rho eps, each of them is

    v' = x_0 + sqrt(rho'^2 - gamma^2) eps + g z,                 rho' < rho

DDIM's family of posteriors (arXiv 2010.02502, eq. 7) divided by s', and so valid for any SDE. gamma = g is the noise
of that posterior; DDPM and Analytic-DDIM choose another g for the same mean. One NFE a step.

Each function takes `denoise`, one more row that evaluates at the last node and steps to sigma = 0, as in
`deis.tables.multistep.Options`. The papers' schedules end there, and their last step adds no noise.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

from deis.errors import checked, choice, require
from deis.schedule import check_nodes
from deis.sde import SDE
from deis.sde.timefn import array_library, wide
from deis.table import Table, eps_table
from deis.tables.multistep import extended_nodes
from deis.tables.pure_noise import from_noise, starts_at_noise


@from_noise(lambda eta, **options: {"eta": eta})
def ddim_eta(sde: SDE, ts: np.ndarray, eta: float = 1.0, *, denoise: bool = False) -> Table:
    """Stochastic DDIM (arXiv 2010.02502, eq. 12 and 16).

    ts: [N+1] decreasing nodes.
    eta: from 0, deterministic, to 1, DDPM's posterior; the noise is g = eta rho' sqrt(1 - rho'^2 / rho^2), none at
        sigma = 0. Raises ValueError for another eta or bad nodes.
    """
    t, s, rho = extended_nodes(sde, ts, denoise)
    gamma = _gamma(rho, eta)
    return _ancestral(f"DDIM(eta={eta:g})", t, s, rho, gamma, gamma)


@from_noise(lambda variance, **options: {"eta": 1.0, "large": variance == "large"})
def ddpm(sde: SDE, ts: np.ndarray, *, variance: str = "small", denoise: bool = False) -> Table:
    """DDPM's ancestral sampling (arXiv 2006.11239, algorithm 2), which is DDIM with eta = 1.

    variance: of the noise (section 3.2), "small", the posterior's, or "large", the forward transition's beta. With
        "large", the last step adds none, wherever it ends. Raises ValueError for any other.
    """
    t, s, rho = extended_nodes(sde, ts, denoise)
    gamma = _gamma(rho, 1.0)
    choice("variance", variance, ("small", "large"))
    if variance == "small":
        return _ancestral("DDPM", t, s, rho, gamma, gamma)
    g = s[:-1] / s[1:] * np.sqrt(rho[:-1] ** 2 - rho[1:] ** 2)
    return _ancestral("DDPM-large", t, s, rho, gamma, np.append(g[:-1], 0.0))


@from_noise(lambda **options: {"eta": 1.0})
def lcm(sde: SDE, ts: np.ndarray, *, denoise: bool = True) -> Table:
    """Consistency-model steps, as LCM's (arXiv 2303.01469, algorithm 1; 2310.04378): predicted x_0, then new noise.

    ts: [N+1] decreasing nodes. denoise: end with the x_0 that is predicted at the last node, as the sources do.
    """
    t, s, rho = extended_nodes(sde, ts, denoise)
    return _ancestral("LCM", t, s, rho, rho[1:], rho[1:])


@checked
def analytic_ddim(
    sde: SDE,
    ts: np.ndarray,
    eps_norm: np.ndarray,
    eta: float = 0.0,
    *,
    half_range: float | None = None,
    denoise: bool = False,
) -> Table:
    """Analytic-DDIM (eta = 0) and Analytic-DDPM (eta = 1): the mean of DDIM(eta) with the optimal reverse variance.

    g^2 = gamma^2 + (rho - sqrt(rho'^2 - gamma^2))^2 (1 - E|eps_theta|^2 / d) (Bao et al., arXiv 2201.06503, theorem 1).
    No noise is added by a step to sigma = 0, as in the source. A Gaussian with equal variances is sampled exactly.

    eps_norm: [N+1] E|eps_theta|^2 / d at the nodes, of `estimate_eps_norm`; below 1 but for the estimate's error,
        which is cut.
    half_range: half the width of the interval that the data lie in, 1 for images in [-1, 1]; bounds the variance
        by what can remain of such data (theorem 2).
    Raises ValueError for an eta outside [0, 1], another number of values than nodes, or nodes from s(T) = 0 on.
    """
    if starts_at_noise(sde, ts):
        raise ValueError(
            f"Analytic-DDIM takes the variance of x_0 from that of eps, which says nothing of it at T={sde.T:g}, where "
            "s = 0; use nodes that begin below, or ddim_eta"
        )
    t, s, rho = extended_nodes(sde, ts, denoise)
    eps_norm = np.asarray(eps_norm, np.float64)
    if eps_norm.shape != np.shape(ts):
        raise ValueError(f"eps_norm must hold one value for each of the {len(ts)} nodes, got shape {eps_norm.shape}")
    gamma = _gamma(rho, eta)
    tail = np.sqrt(rho[1:] ** 2 - gamma**2)
    excess = (rho[:-1] - tail) ** 2 * np.clip(1 - eps_norm[: len(tail)], 0.0, 1.0)
    if half_range is not None:
        excess = np.minimum(excess, (1 - tail / rho[:-1]) ** 2 * half_range**2)
    g = np.where(rho[1:] > 0, np.sqrt(gamma**2 + excess), 0.0)
    return _ancestral(f"Analytic-DDIM(eta={eta:g})", t, s, rho, gamma, g)


@checked
def estimate_eps_norm(
    sde: SDE, ts: np.ndarray, eps_fn: Callable[[Any, Any], Any], x_0: Any, z: Any
) -> Float64[np.ndarray, " nodes"]:
    """E|eps_theta(x_t, t)|^2 / d at every node of `ts`, by the mean over data x_0 noised with z.

    eps_fn(x, t): the network's eps prediction; with JAX, pass it jitted, as it is called once a node.
    x_0, z: [batch, ...] data and standard normal noise, in NumPy, JAX or torch. Some hundred images are enough for
        two digits; of larger sets, average the results of equal batches.
    """
    ts = check_nodes(sde, ts)
    xp = array_library(x_0)
    means = []
    for t, s, sigma in zip(ts, *sde.marginal(ts), strict=True):
        e = eps_fn(float(s) * x_0 + float(sigma) * z, xp.asarray(t, dtype=wide(x_0).dtype, device=x_0.device))
        means.append(float((wide(e) ** 2).mean()))
    return np.array(means)


def _gamma(rho: np.ndarray, eta: float) -> np.ndarray:
    require(0 <= eta <= 1, f"eta must be between 0 (deterministic) and 1 (DDPM), got {eta:g}")
    return eta * rho[1:] * np.sqrt(1 - (rho[1:] / rho[:-1]) ** 2)


def _ancestral(name: str, t: np.ndarray, s: np.ndarray, rho: np.ndarray, gamma: np.ndarray, g: np.ndarray) -> Table:
    """Rows v' = v + (sqrt(rho'^2 - gamma^2) - rho) eps + g z."""
    P = np.sqrt(rho[1:] ** 2 - gamma**2) - rho[:-1]
    return eps_table(name, t, s, rho, P[:, None], g=g)
