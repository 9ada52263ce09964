"""Problems whose exact answer is known: a Gaussian mixture as the data, under a diffusion model of 1,000 times.

The network is the mixture's exact eps, so that a solver's error is all there is. In v = x / s the probability-flow ODE
depends on the SDE through the range of rho alone: all grids, of the model's whole times or of a continuous SDE, run
over one range, from one noise, and have one exact result.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from reference.mixture import MIXTURE, Mixture

import deis
from deis import SDE

NUM_TIMES = 1000


@dataclass(frozen=True, eq=False)
class Problem:
    """data: the mixture; discrete: the model's SDE, of times 0 to 999; continuous: an SDE over the same rho.

    batch: how many trajectories the error is taken over.
    """

    name: str
    data: Mixture
    discrete: SDE
    continuous: SDE
    batch: int = 64

    @cached_property
    def noise(self) -> np.ndarray:
        """[batch, dim] standard normal; in v, the trajectories begin at rho times it."""
        return np.random.default_rng(0).standard_normal((self.batch, self.data.mean.shape[1]))

    @cached_property
    def exact(self) -> np.ndarray:
        """[batch, dim] v at the last time, by DOP853 with a tolerance of 1e-12."""
        ends = np.array([self.discrete.T, self.discrete.t_0])
        x = self.data.flow(self.discrete, self.discrete.sigma(ends[0]) * self.noise, ends)[-1]
        return x / self.discrete.s(ends[1])

    def error(self, v: np.ndarray) -> float:
        """Root mean square of v - exact over trajectories and dimensions, in units of the data."""
        return float(np.sqrt(np.mean((v - self.exact) ** 2)))


def problem(model: str, data: str) -> Problem:
    """The mixture DATA[data] under MODELS[model]."""
    alpha_bar, sde = MODELS[model]
    discrete = deis.DiscreteVPSDE(alpha_bar)
    t_T, t_0 = sde.t_of_rho(discrete.rho(np.array([discrete.T, discrete.t_0])))
    continuous = replace(sde, t_0=max(float(t_0), 0.0), T=float(t_T))
    batch = 64 if DATA[data].mean.shape[1] < 64 else 16  # each of the latter is 64 numbers
    return Problem(f"{model}, {data}", DATA[data], discrete, continuous, batch)


def _random_mixture(dim: int, components: int, std: float) -> Mixture:
    """Means uniform in [-1, 1], where pixels are; random weights."""
    rng = np.random.default_rng(dim)
    weight, mean = rng.dirichlet(np.full(components, 5.0)), rng.uniform(-1, 1, (components, dim))
    return Mixture(weight, mean, np.full(components, std))


def _with_ratios_of(sde: SDE) -> np.ndarray:
    """[1000] alpha_bar of the VP model with the noise-to-signal ratios of `sde` at equidistant times."""
    return 1 / (1 + sde.rho(np.linspace(sde.t_0, sde.T, NUM_TIMES)) ** 2)


MODELS: dict[str, tuple[np.ndarray, SDE]] = {
    "VP linear": (np.cumprod(1 - np.linspace(1e-4, 0.02, NUM_TIMES)), deis.vp_linear()),  # DDPM, arXiv 2006.11239
    "VP cosine": (_with_ratios_of(deis.vp_cosine()), deis.vp_cosine()),
    "VE": (_with_ratios_of(deis.ve()), deis.ve()),
}
"""alpha_bar of the discrete model, and the SDE that it discretises."""

DATA: dict[str, Mixture] = {
    "2-d, 3 wide": MIXTURE,
    "2-d, 8 narrow": _random_mixture(2, 8, 0.05),
    "8-d, 10": _random_mixture(8, 10, 0.2),
    "64-d, 20": _random_mixture(64, 20, 0.25),
}
"""Dimension and number of components."""
