"""Adaptive DOPRI5: accuracy, both forms of the ODE, both directions, and an exact count of network calls."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dpm
from reference.mixture import MIXTURE

import deis
from deis import adaptive

pytestmark = pytest.mark.slow

SDES = {"vp_linear": deis.vp_linear(), "ve": deis.ve()}


class Counted:
    """The mixture's perfect network, which counts its calls as they are made on the device."""

    def __init__(self, sde):
        self.sde, self.calls = sde, 0

    def __call__(self, x, t):
        return MIXTURE.eps_fn(self.sde, jnp)(x, t) + jax.pure_callback(
            self._count, jax.ShapeDtypeStruct((), x.dtype), t
        )

    def _count(self, t):
        self.calls += 1
        return np.zeros((), t.dtype)


@pytest.mark.parametrize(
    ("sde", "variable"), [(SDES["vp_linear"], "rho"), (SDES["vp_linear"], "t"), (SDES["ve"], "rho")]
)
def test_error_falls_with_the_tolerance_and_every_call_is_counted(sde, variable):
    x_T = sde.prior_std * np.random.default_rng(0).normal(size=(8, 2))
    exact = MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    eps_fn = Counted(sde)
    errors, nfes = [], []
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        eps_fn.calls = 0
        x, nfe = adaptive.sample(sde, eps_fn, jnp.asarray(x_T, jnp.float32), variable, tolerance, tolerance)
        assert nfe == eps_fn.calls
        assert (nfe - 1) % 6 == 0
        errors.append(np.max(np.abs(x - exact)))
        nfes.append(nfe)
    assert errors[-1] < 2e-4
    assert errors[-1] < 0.02 * errors[0]
    assert nfes[0] < nfes[-1] < 300


def test_a_refused_first_step_is_counted_too():
    """A slope that is small at the start and large later makes the first step far too long."""
    sde, times = deis.edm(T=10.0), []

    def see(t):
        times.append(float(t))
        return np.zeros((), t.dtype)

    def eps_fn(x, t):
        seen = jax.pure_callback(see, jax.ShapeDtypeStruct((), x.dtype), t)
        return 1e-3 * x + jnp.where(t < 9.9, 5 * jnp.sin(4 * t), 0.0) + seen

    _, nfe = adaptive.sample(sde, eps_fn, jnp.full((1, 1), 10.0), "t", 1e-3, 1e-3)
    assert nfe == len(times)
    assert times[6] < times[12] < 10.0  # where the first two attempts end: the second is shorter


@pytest.mark.parametrize(("sde", "variable"), [(SDES["vp_linear"], "t"), (SDES["ve"], "rho")])
def test_encode_and_decode_are_inverse(sde, variable):
    x_0 = jnp.asarray(MIXTURE.sample(np.random.default_rng(0), 8), jnp.float32)
    eps_fn = MIXTURE.eps_fn(sde, jnp)
    x_T, _ = adaptive.encode(sde, eps_fn, x_0, variable, 1e-6, 1e-6)
    exact = MIXTURE.flow(sde, np.asarray(x_0, np.float64), np.array([sde.t_0, sde.T]))[-1]
    np.testing.assert_allclose(x_T, exact, rtol=0, atol=1e-4 * sde.prior_std)
    back, _ = adaptive.sample(sde, eps_fn, x_T, variable, 1e-6, 1e-6)
    np.testing.assert_allclose(back, x_0, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("eps_fn", "options", "message"),
    [
        (lambda x, t: jnp.nan * x, {}, r"did not reach t=0\.001 from t=1 in 4096 steps .* NaN in the network's output"),
        (lambda x, t: x, {"variable": "sigma"}, "variable must be one of rho, t, got 'sigma'"),
    ],
)
def test_failure_is_one_sentence(eps_fn, options, message):
    with pytest.raises(ValueError, match=message):
        adaptive.sample(SDES["vp_linear"], eps_fn, jnp.ones((2, 2)), **options)


def test_without_diffrax_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs diffrax, which .* pip install 'deis-sampler\[adaptive\]'"):
        adaptive.sample(SDES["vp_linear"], lambda x, t: x, jnp.ones((1, 1)))


@pytest.mark.parametrize("sde_name", SDES)
@pytest.mark.parametrize("order", [2, 3])
def test_adaptive_dpm_solver_equals_its_loop(sde_name, order):
    sde, tolerances = SDES[sde_name], {"rtol": 0.02, "atol": 0.005}
    x_T = sde.prior_std * np.random.default_rng(0).normal(size=(8, 2))
    with jax.enable_x64(True):
        eps_fn = Counted(sde)
        x, nfe = adaptive.dpm_solver(sde, eps_fn, jnp.asarray(x_T), order, **tolerances)
    schedule = dpm.Schedule(sde.s, sde.sigma, sde.t_of_rho)
    expected, steps = dpm.dpm_solver_adaptive(schedule, MIXTURE.eps_fn(sde), x_T, sde.T, sde.t_0, order, **tolerances)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-9)
    assert nfe == eps_fn.calls == order * steps


def test_adaptive_dpm_solver_reaches_the_exact_solution():
    """In float32 and on a tree of arrays; the error falls with the tolerance."""
    sde = SDES["vp_linear"]
    x_T = np.random.default_rng(0).normal(size=(8, 2))
    exact = MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]
    errors = []
    for tolerance in (0.05, 1e-3):
        start = {"a": jnp.asarray(x_T, jnp.float32)}
        eps_fn = lambda x, t: {"a": MIXTURE.eps_fn(sde, jnp)(x["a"], t)}  # noqa: E731
        x, _ = adaptive.dpm_solver(sde, eps_fn, start, rtol=tolerance, atol=tolerance)
        errors.append(np.max(np.abs(x["a"] - exact)))
    assert errors[1] < 0.1 * errors[0] < 0.05
    with pytest.raises(ValueError, match=r"did not reach t=0.001 in 4096 steps at rtol=0.05"):
        adaptive.dpm_solver(sde, lambda x, t: x * jnp.nan, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"order must be 2 .* got 4"):
        adaptive.dpm_solver(sde, eps_fn, start, order=4)


def test_half_precision_is_the_networks_alone():
    """Times and sums are float32, so that a state of bfloat16 costs no steps and only its own rounding."""
    sde, x_T = SDES["vp_linear"], np.random.default_rng(0).normal(size=(2, 2))
    eps_fn = jax.tree_util.Partial(lambda x, t: x.astype(jnp.float32) / (1 + sde.rho(t)))
    for solve in (partial(adaptive.sample, variable="t", rtol=1e-2, atol=1e-2), adaptive.dpm_solver):
        (exact, nfe), (found, nfe_of_half) = (
            solve(sde, eps_fn, jnp.asarray(x_T, dtype)) for dtype in (jnp.float32, jnp.bfloat16)
        )
        assert found.dtype == jnp.bfloat16
        assert nfe_of_half <= nfe + 12
        np.testing.assert_allclose(found.astype(jnp.float32), exact, rtol=0.05)


@pytest.mark.parametrize(
    ("sde", "message"),
    [(deis.flow(), "the ODE in log rho has no meaning"), (deis.edm(t_0=0.0), "it is 0 at t_0=0; raise")],
)
def test_no_end_at_an_infinite_log_rho(sde, message):
    with pytest.raises(ValueError, match=message):
        adaptive.dpm_solver(sde, lambda x, t: x, jnp.ones((1, 2)))
