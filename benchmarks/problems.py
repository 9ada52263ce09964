"""Problems whose exact answer is known: a Gaussian mixture as the data, under a model of 1,000 times.

The network is the mixture's exact eps, so that a solver's error is all there is. In v = x / s the probability-flow ODE
depends on the SDE through the range of rho alone; every grid, of whole times or of a continuous SDE, runs over the
same range, from the same x_T, and has the same exact result.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from reference.mixture import MIXTURE, Mixture

import deis
from deis import SDE

NUM_TIMES = 1000


@dataclass(frozen=True, eq=False)
class Problem:
    """data: the mixture; alpha_bar: [1000] of the model; continuous: an SDE over the same rho; x_T: [batch, dim]."""

    name: str
    data: Mixture
    alpha_bar: np.ndarray
    continuous: SDE
    batch: int = 64

    @cached_property
    def discrete(self) -> SDE:
        return deis.DiscreteVPSDE(self.alpha_bar)

    @cached_property
    def noise(self) -> np.ndarray:
        """[batch, dim] in units of v = x / s, at the largest rho."""
        rho_T = self.discrete.rho(np.array(self.discrete.T))
        return rho_T * np.random.default_rng(0).standard_normal((self.batch, self.data.mean.shape[1]))

    @cached_property
    def exact(self) -> np.ndarray:
        """[batch, dim], v at the smallest rho, by DOP853 with tolerance 1e-12."""
        sde = self.discrete
        s_T, s_0 = sde.s(np.array([sde.T, sde.t_0]))
        return self.data.flow(sde, s_T * self.noise, np.array([sde.T, sde.t_0]))[-1] / s_0

    def error(self, v: np.ndarray) -> float:
        """Root mean square, over samples and dimensions."""
        return float(np.sqrt(np.mean((np.asarray(v, np.float64) - self.exact) ** 2)))


def random_mixture(dim: int, components: int, std: float) -> Mixture:
    """Means uniform in [-1, 1], as pixels are; equal standard deviations and random weights."""
    rng = np.random.default_rng(dim)
    return Mixture(
        rng.dirichlet(np.full(components, 5.0)), rng.uniform(-1, 1, (components, dim)), np.full(components, std)
    )


def _problem(name: str, data: Mixture, alpha_bar: np.ndarray, sde: SDE) -> Problem:
    t_T, t_0 = sde.t_of_rho(np.sqrt(1 / alpha_bar[[-1, 0]] - 1))
    return Problem(name, data, alpha_bar, replace(sde, t_0=float(t_0), T=float(t_T)))


def _sampled(sde: SDE) -> np.ndarray:
    """[1000] alpha_bar of the VP model with the noise-to-signal ratios of `sde`."""
    return 1 / (1 + sde.rho(np.linspace(sde.t_0, sde.T, NUM_TIMES)) ** 2)


MODELS: dict[str, tuple[np.ndarray, SDE]] = {
    "VP linear": (np.cumprod(1 - np.linspace(1e-4, 0.02, NUM_TIMES)), deis.vp_linear()),  # DDPM's
    "VP cosine": (_sampled(deis.vp_cosine()), deis.vp_cosine()),
    "VE": (_sampled(deis.ve()), deis.ve()),
}

DATA: dict[str, Mixture] = {
    "2-d, 3 wide": MIXTURE,
    "2-d, 8 narrow": random_mixture(2, 8, 0.05),
    "8-d, 10": random_mixture(8, 10, 0.2),
    "64-d, 20": random_mixture(64, 20, 0.25),
}

PROBLEMS = [_problem(f"{model}, {data}", DATA[data], *MODELS[model]) for model in MODELS for data in DATA]
