"""What leads to DEIS in the paper's ablation (arXiv 2204.13902, section 3.1): one ingredient after the other.

Euler's method on the probability-flow ODE; the exponential integrator (EI) with the score held constant over a step
(ingredient 1); the same with eps held constant (ingredient 2), which is `deis.tables.ddim`; polynomials of higher
degree (ingredient 3) make it `deis.tables.t_ab`. The first three are of order 1, 1 NFE a step. Where s(T) = 0, the
first step is DDIM's, as a constant score says nothing of x_0.
"""

from dataclasses import replace

import numpy as np

from deis.schedule import check_nodes
from deis.sde import SDE
from deis.table import Table, eps_table
from deis.tables.multistep import extended_nodes, quadrature
from deis.tables.pure_noise import from_noise


@from_noise()
def euler(sde: SDE, ts: np.ndarray) -> Table:
    """Euler's method in t: x' = x + (t' - t) (f x + g^2 / (2 sigma) eps), f and g the SDE's drift and diffusion.

    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation. Raises ValueError for bad nodes, or where the SDE has
    no derivatives.
    """
    ts = check_nodes(sde, ts)
    t, dt, s = ts[:-1], np.diff(ts), sde.s(ts)
    P = dt * sde.diffusion(t) ** 2 / (2 * sde.sigma(t)) / s[1:]
    p = (1 + dt * sde.drift(1.0, t)) * s[:-1] / s[1:]
    return replace(eps_table("Euler", ts, s, sde.rho(ts), P[:, None]), p=p, q=p)


@from_noise()
def ei_score(sde: SDE, ts: np.ndarray) -> Table:
    """The exponential integrator on the score, -eps / sigma, held constant over a step; worse than Euler's method.

    A constant score is an eps in proportion to sigma: v' = v + eps_n times the integral of sigma / sigma_n drho.
    ts: [N+1] decreasing nodes, sigma > 0 at every evaluation. Raises ValueError for bad nodes.
    """
    t, s, rho = extended_nodes(sde, ts)
    points, drho = quadrature(rho[:-1], rho[1:])
    P = np.sum(sde.sigma(sde.t_of_rho(points)) * drho, axis=1) / sde.sigma(t[:-1])
    return eps_table("EI-score", t, s, rho, P[:, None])
