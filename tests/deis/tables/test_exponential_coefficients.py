"""Weights of exponential methods and of stochastic multistep methods, against mpmath's at 50 digits."""

import mpmath as mp
import numpy as np
import pytest
from reference import samplers

import deis
from deis import tables
from deis.tables.exponential import EXPONENTIAL, exponential, log_weights, phi

RATIOS = [1.001, 1.1, 2.0, 30.0, 4e4]
etas = pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])


def exact_phi(k: int, z: float) -> mp.mpf:
    with mp.workdps(50):
        z = mp.mpf(z)
        return (mp.exp(z) - sum(z**j / mp.factorial(j) for j in range(k))) / z**k


def basis_integral(H: mp.mpf, own: mp.mpf, others: list[mp.mpf]) -> float:
    """The integral over [0, 1] of H e^(-H (1 - u)) times the Lagrange polynomial: 1 at `own`, 0 at the others."""

    def integrand(u: mp.mpf) -> mp.mpf:
        return H * mp.exp(-H * (1 - u)) * mp.fprod([(u - a) / (own - a) for a in others])

    return float(mp.quad(integrand, [0, 1]))


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_phi(k):
    for z in (-25.0, -3.0, -0.7, -1e-2, -1e-3, 1e-3, 0.3, 2.0, 11.0):
        assert float(phi(k, np.array([z]))[0] / exact_phi(k, z)) == pytest.approx(1, rel=1e-12)


@etas
@pytest.mark.parametrize("rk_method", EXPONENTIAL)
def test_exponential_weights(rk_method, eta, monkeypatch):
    """The tableaus of the textbook loop, with phi at 50 digits."""
    monkeypatch.setattr(samplers, "phi", exact_phi)
    stages = exponential(*EXPONENTIAL[rk_method], "x_0", eta)
    for ratio in RATIOS:
        start, end = np.array([3.0]), np.array([3.0 / ratio])
        z = -(1 + eta) * float(np.log(start / end)[0])
        weights = stages(start, end)[1][0]
        for i, row in enumerate(weights, 1):
            exact = np.array([float(-z * w) for w in samplers.EXPONENTIAL[rk_method][1](i, z)])
            np.testing.assert_allclose(row[:i], exact, rtol=0, atol=1e-12 * np.abs(exact).max())


@etas
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_multistep_weights(k, eta):
    """Integrals of the Lagrange basis in lambda over a step, of a predictor and of a corrector."""
    for ratio in RATIOS[:-1]:
        h = float(np.log(ratio))
        for newest in (0.0, 1.0):  # the step's start, or its end
            place = newest - np.array([0.0, 1.0, 1.7, 2.9])[:k]
            nodes, start = 3.0 * np.exp(-h * place), np.array([3.0])
            got = log_weights("x_0", "exact", eta)(nodes[None], start, start / ratio)[0]
            with mp.workdps(50):
                H = (1 + eta) * mp.log(mp.mpf(float(start[0])) / mp.mpf(float(start[0] / ratio)))
                at = [mp.log(mp.mpf(3) / mp.mpf(node)) * (1 + eta) / H for node in nodes.tolist()]
                exact = [basis_integral(H, at[j], at[:j] + at[j + 1 :]) for j in range(k)]
            np.testing.assert_allclose(got, exact, rtol=0, atol=1e-12 * np.abs(exact).max())


def test_er_sde_weights():
    """On the nodes 8, 5, 3, 2: the Taylor terms of the last step."""
    sde = deis.edm(t_0=2.0, T=8.0)
    got = tables.er_sde(sde, np.array([8.0, 5.0, 3.0, 2.0]), 3).P[2]
    with mp.workdps(30):
        f = lambda r: r * (mp.exp(r ** mp.mpf("0.3")) + 10)  # noqa: E731
        kernel = lambda r: f(mp.mpf(2)) * mp.diff(f, r) / f(r) ** 2  # noqa: E731
        c = [mp.quad(lambda r, k=k: kernel(r) * (r - 3) ** k / mp.factorial(k), [2, 3]) for k in range(3)]
        # slope (x_0 - x_1) / (3 - 5), curvature 2 (slope - (x_1 - x_2) / (5 - 8)) / (3 - 8)
        slope, bend = -c[1] / 2, -2 * c[2] / 5
        exact = [c[0] + slope - bend / 2, -slope + bend / 2 + bend / 3, -bend / 3]
    np.testing.assert_allclose(got, np.array(exact, float), rtol=1e-12)
