"""Drift and diffusion: the papers' formulas, finite differences, and differentiation in every library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import problem
from reference.problem import linear_alpha_fns

import deis

SDES = problem.SDES | {"published": deis.VPSDE(*deis.get_linear_alpha_fns(0.1, 20.0), 1e-3, 1.0)}


def beta(t):
    """beta(t) of the linear schedule."""
    return 0.1 + (20.0 - 0.1) * t


def cosine_rate(t):
    """-d log alpha_bar / dt of the cosine schedule."""
    return np.pi / 1.008 * np.tan((t + 0.008) / 1.008 * np.pi / 2)


# f(t) and g(t)^2 as the papers give them
DRIFT_AND_DIFFUSION = {
    "vp_linear": (lambda t: -0.5 * beta(t), beta),
    "vp_cosine": (lambda t: -0.5 * cosine_rate(t), cosine_rate),
    "sub_vp": (lambda t: -0.5 * beta(t), lambda t: beta(t) * (1 - np.exp(-2 * (0.1 * t + 19.9 * t**2 / 2)))),
    "ve": (lambda t: 0 * t, lambda t: 2 * np.log(5000.0) * (0.01 * 5000.0**t) ** 2),
    "edm": (lambda t: 0 * t, lambda t: 2 * t),
    "published": (lambda t: -0.5 * beta(t), beta),
}


@pytest.mark.parametrize("name", DRIFT_AND_DIFFUSION)
def test_drift_and_diffusion_are_the_papers(name):
    sde, (f, g_square) = SDES[name], DRIFT_AND_DIFFUSION[name]
    t, x = np.linspace(sde.t_0 + 1e-6, sde.T, 50), np.full(50, 3.0)
    np.testing.assert_allclose(sde.drift(x, t), 3 * f(t), rtol=1e-11)
    np.testing.assert_allclose(sde.diffusion(t) ** 2, g_square(t), rtol=1e-8 if name == "published" else 1e-11)
    assert sde.drift(x, t).dtype == sde.diffusion(t).dtype == np.float64
    assert np.ndim(sde.diffusion(0.5)) == 0


# functions of every library, in the published class and as s and sigma
USER_SDES = {
    "numpy": lambda: deis.VPSDE(*linear_alpha_fns(np), 1e-3, 1.0),
    "jax": lambda: deis.VPSDE(*linear_alpha_fns(jnp), 1e-3, 1.0),
    "torch": lambda: deis.VPSDE(*linear_alpha_fns(pytest.importorskip("torch")), 1e-3, 1.0),
    "jax s and sigma": lambda: deis.SDE(jnp.ones_like, jnp.sinh, jnp.arcsinh, 0.1, 2.0),
    "constant s": lambda: deis.SDE(lambda t: 1, np.sinh, np.arcsinh, 0.1, 2.0),
}


@pytest.mark.parametrize("name", [*SDES, *USER_SDES])
def test_drift_and_diffusion_equal_finite_differences(name):
    """f = d log s / dt and g^2 = s^2 d(rho^2)/dt, whatever library the functions are written in."""
    sde = SDES[name] if name in SDES else USER_SDES[name]()
    t = sde.t_0 + (sde.T - sde.t_0) * np.array([0.05, 0.111, 0.5, 0.93])
    h = 1e-5 * (sde.T - sde.t_0)  # the discrete one has no kink so near to these times
    f = (np.log(sde.s(t + h)) - np.log(sde.s(t - h))) / (2 * h)
    g_square = sde.s(t) ** 2 * (sde.rho(t + h) ** 2 - sde.rho(t - h) ** 2) / (2 * h)
    np.testing.assert_allclose(sde.drift(1.0, t), f, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(sde.diffusion(t) ** 2, g_square, rtol=1e-6)
    assert sde.s(t).shape == t.shape
    assert sde.s(t).dtype == sde.diffusion(t).dtype == np.float64


@pytest.mark.parametrize("name", SDES)
def test_drift_and_diffusion_in_jax(name):
    """Inside jit, from functions that JAX can trace, and equal to NumPy's complex step."""
    sde = SDES[name]
    t, x = sde.t_0 + (sde.T - sde.t_0) * np.array([0.05, 0.111, 0.5, 0.93]), np.ones((4, 2))
    with jax.enable_x64(True):
        drift, diffusion = jax.jit(lambda x, t: (sde.drift(x, t[:, None]), sde.diffusion(t)))(x, t)
    np.testing.assert_allclose(drift, sde.drift(x, t[:, None]), rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(diffusion, sde.diffusion(t), rtol=1e-8 if name == "published" else 1e-11)
    assert sde.drift(jnp.ones(2), jnp.float32(t[0])).dtype == jnp.float32


@pytest.mark.parametrize("sigma", [lambda t: np.interp(t, [0.0, 1.0], [0.1, 2.0]), lambda t: np.abs(1.9 * t) + 0.1])
def test_a_function_without_derivative_is_named(sigma):
    sde = deis.SDE(np.ones_like, sigma, lambda rho: (rho - 0.1) / 1.9, t_0=0.0, T=1.0)
    with pytest.raises(ValueError, match=r"drift and diffusion need derivatives, .* or with jax\.numpy or torch"):
        sde.diffusion(0.5)
