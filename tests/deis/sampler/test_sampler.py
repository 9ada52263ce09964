"""The JAX loop: equal to the NumPy loop for every table, compiled once, exact in its NFE and its noise."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import loop
from reference.mixture import MIXTURE

import deis
from deis import Table, tables

SDE = deis.vp_linear()
# one object each for float32 and float64, since every other object is compiled anew
EPS_FN = MIXTURE.eps_fn(SDE, jnp)
EPS_FN_X64 = MIXTURE.eps_fn(SDE, jnp)
SOLVERS: list[tuple[str, dict]] = [
    ("ddim", {}),
    *((method, {"ab_order": order}) for method in ("t_ab", "rho_ab", "log_rho_ab", "ipndm") for order in range(4)),
    *(("rho_rk", {"rk_method": name}) for name in tables.TABLEAUS),
]


def x_T(batch: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, 2))


def build(method: str, num_step: int, **options) -> Table:
    return tables.build(SDE, num_step=num_step, method=method, **options)


def ddim_by_x_0(num_step: int, eta: float) -> Table:
    """DDIM(eta) with the predicted x_0 in the history: v' = x_0 + sqrt(rho'^2 - g^2) eps + g z."""
    table = build("ddim", num_step)
    rho, rho_next = table.rho[:-1], table.rho[1:]
    g = eta * rho_next * np.sqrt(1 - (rho_next / rho) ** 2)
    keep = np.sqrt(rho_next**2 - g**2) / rho
    one, weights = np.ones(num_step), (1 - keep)[:, None]
    return replace(table, name="DDIM(eta)", a=one, b=-rho, p=keep, q=keep, P=weights, Q=weights, g=g)


def random_table(num_step: int) -> Table:
    """No solver: all columns differ, so that none can stand in for another."""
    table, rng = build("t_ab", num_step), np.random.default_rng(1)
    a, b, p, q = rng.uniform(0.2, 0.8, (4, num_step))
    P, Q = (rng.uniform(-0.3, 0.3, table.P.shape) * (table.P != 0) for _ in range(2))
    return replace(table, name="random", a=a, b=b, p=p, q=q, P=P, Q=Q)


class CountTraces:
    """eps_fn that counts how often JAX traces it."""

    def __init__(self, eps_fn):
        self.eps_fn, self.count = eps_fn, 0

    def __call__(self, *arguments):
        self.count += 1
        return self.eps_fn(*arguments)


def test_every_table_equals_the_numpy_loop():
    runs = [build(method, n, **options) for method, options in SOLVERS for n in (1, 2, 3, 15)]
    runs += [make(n) for make in (partial(ddim_by_x_0, eta=0.0), random_table) for n in (1, 2, 3, 15)]
    expected = [loop.run(table, MIXTURE.eps_fn(SDE), x_T()) for table in runs]
    with jax.enable_x64(True):
        for table, exact in zip(runs, expected, strict=True):
            got = deis.sample(table, EPS_FN_X64, jnp.asarray(x_T()))
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, exact, rtol=1e-12, atol=1e-12, err_msg=table.name)
    for table, exact in zip(runs, expected, strict=True):
        got = deis.sample(table, EPS_FN, jnp.asarray(x_T(), jnp.float32))
        assert got.dtype == jnp.float32
        assert np.all(np.isfinite(got))
        if table.nfe >= 15:  # one or two steps from rho_T = 152 multiply the rounding of eps
            np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5, err_msg=table.name)


@pytest.mark.parametrize("name", ["vp_cosine", "ve"])
def test_other_sdes(name):
    sde = getattr(deis, name)()
    x = sde.prior_std * x_T()
    sampler_fn = deis.get_sampler(sde, MIXTURE.eps_fn(sde, jnp), num_step=20)
    exact = loop.run(tables.build(sde, num_step=20), MIXTURE.eps_fn(sde), x)
    np.testing.assert_allclose(sampler_fn(jnp.asarray(x, jnp.float32)), exact, rtol=0, atol=1e-5)


def test_published_call():
    sampler_fn = deis.get_sampler(
        SDE, EPS_FN, ts_phase="rho", ts_order=7.0, num_step=4, method="rho_rk", ab_order=3, rk_method="2heun"
    )
    table = tables.rho_rk(SDE, deis.timesteps(SDE, 4, "rho", 7.0), "2heun")
    noise = SDE.prior_sample(jax.random.key(0), (6, 2))
    assert jnp.array_equal(sampler_fn(noise), deis.sample(table, EPS_FN, noise))
    default = deis.sample(tables.t_ab(SDE, deis.timesteps(SDE, 10), 3), EPS_FN, noise)
    assert jnp.array_equal(deis.get_sampler(SDE, EPS_FN)(noise), default)
    inside = jax.jit(deis.get_sampler(SDE, EPS_FN))(noise)
    np.testing.assert_allclose(inside, default, atol=1e-5)


@pytest.mark.parametrize(
    "table", [build("t_ab", 5), build("rho_rk", 2), ddim_by_x_0(5, eta=1.0)], ids=lambda table: table.name
)
def test_trajectory_agrees_with_sample(table):
    with jax.enable_x64(True):
        x, key = jnp.asarray(x_T()), jax.random.key(0)
        x_t, x_0 = deis.trajectory(table, EPS_FN_X64, x, key)
        last = deis.sample(table, EPS_FN_X64, x, key)
    assert (x_t.shape, x_0.shape) == ((table.nfe + 1, 6, 2), (table.nfe, 6, 2))
    np.testing.assert_allclose(x_t[0], x, rtol=1e-14)
    np.testing.assert_allclose(x_t[-1], last, rtol=0, atol=1e-12)
    for t, state, predicted in zip(table.t[:-1], np.asarray(x_t[:-1]), x_0, strict=True):
        exact = (state - SDE.sigma(t) * MIXTURE.eps_fn(SDE)(state, t)) / SDE.s(t)
        np.testing.assert_allclose(predicted, exact, rtol=0, atol=1e-12)


def test_trajectory_can_be_differentiated():
    """With respect to the network's parameters."""
    table, x = build("t_ab", 4), jnp.asarray(x_T(), jnp.float32)

    def network(scale, x, t):
        return scale * jnp.tanh(x)

    def loss(scale):
        return jnp.mean(deis.trajectory(table, jax.tree_util.Partial(network, scale), x)[0][-1] ** 2)

    difference = (loss(0.51) - loss(0.49)) / 0.02
    assert float(jax.grad(loss)(0.5)) == pytest.approx(float(difference), rel=1e-2)


def test_state_may_be_a_pytree():
    table, x = build("t_ab", 6), jnp.asarray(x_T(), jnp.float32)
    state = {"point": x, "pair": (-x, jnp.ones((6, 3, 1)))}

    def eps_of_state(state, t):
        return {"point": EPS_FN(state["point"], t), "pair": (EPS_FN(state["pair"][0], t), 0.5 * state["pair"][1])}

    got = deis.sample(table, eps_of_state, state)
    np.testing.assert_allclose(got["point"], deis.sample(table, EPS_FN, x), atol=1e-5)
    np.testing.assert_allclose(got["pair"][0], deis.sample(table, EPS_FN, -x), atol=1e-5)
    expected = loop.run(table, lambda x, t: 0.5 * x, np.ones((6, 3, 1)))
    np.testing.assert_allclose(got["pair"][1], expected, rtol=1e-4)


def test_network_in_bfloat16_leaves_the_state_in_float32():
    def eps_fn(x, t):
        assert x.dtype == t.dtype == jnp.float32
        return EPS_FN(x, t).astype(jnp.bfloat16)

    x = jnp.asarray(x_T(), jnp.float32)
    got = deis.sample(build("t_ab", 10), eps_fn, x)
    assert got.dtype == jnp.float32
    exact = loop.run(build("t_ab", 10), MIXTURE.eps_fn(SDE), x_T())
    assert 1e-5 < np.abs(got - exact).max() < 0.05


def test_one_trace_for_a_whole_table_of_methods_grids_and_nfe():
    eps_fn, x = CountTraces(lambda x, t: jnp.tanh(x) * t), jnp.ones((2, 2))
    solvers = [solver for solver in SOLVERS if solver[1].get("ab_order", 3) > 0][:13:2]
    solvers += [("rho_rk", {"rk_method": name}) for name in ("2heun", "3kutta", "4rk")]
    assert len(solvers) == 10
    for method, options in solvers:
        stages = int(options.get("rk_method", "1")[0])
        for phase, order in (("t", 2.0), ("rho", 7.0), ("log", 1.0)):
            for nfe in range(4, 51, 2):
                table = build(method, nfe // stages, ts_phase=phase, ts_order=order, **options)
                deis.sample(table, eps_fn, x)
    assert eps_fn.count == 1


def test_other_parameters_in_a_partial_do_not_retrace():
    def linear(scale, x, t):
        return scale * x

    apply, x, table = CountTraces(linear), jnp.ones((2, 2)), build("ddim", 5)
    got = [deis.sample(table, jax.tree_util.Partial(apply, jnp.float32(scale)), x) for scale in (0.1, 0.2)]
    assert apply.count == 1
    for scale, value in zip((0.1, 0.2), got, strict=True):
        expected = loop.run(table, partial(linear, scale), np.ones((2, 2)))
        np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_nfe_is_the_number_of_network_calls():
    times: list[float] = []

    def eps_fn(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t, ordered=False)
        return 0.1 * x

    for method, options, num_step, nfe in (
        ("t_ab", {}, 1, 1),
        ("t_ab", {}, 17, 17),
        ("ipndm", {}, 64, 64),
        ("rho_rk", {"rk_method": "2heun"}, 5, 10),
        ("rho_rk", {"rk_method": "4rk"}, 20, 80),
    ):
        times.clear()
        table = build(method, num_step, **options)
        jax.block_until_ready(deis.sample(table, eps_fn, jnp.ones((2, 2))))
        jax.effects_barrier()
        assert len(times) == table.nfe == nfe
        np.testing.assert_allclose(sorted(times), np.sort(table.t[:-1]), rtol=1e-5)


def test_noise_of_a_sample_depends_on_its_key_alone():
    table, x = ddim_by_x_0(5, eta=1.0), jnp.asarray(x_T(64), jnp.float32)
    key = jax.random.key(3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(64))
    eps_fn = jax.tree_util.Partial(lambda x, t: t * x / (1 + x * x))  # pointwise: no sum to round by batch size
    whole = deis.sample(table, eps_fn, x, keys)
    assert jnp.array_equal(deis.sample(table, eps_fn, x[:7], keys[:7]), whole[:7])
    assert jnp.array_equal(deis.sample(table, eps_fn, x[50:57], keys[50:57]), whole[50:57])
    assert jnp.array_equal(deis.sample(table, eps_fn, x, key), whole)
    assert jnp.array_equal(deis.sample(table, eps_fn, x, jax.random.key_data(key)), whole)
    other = deis.sample(table, eps_fn, x, jax.random.key(4))
    assert not np.any(np.all(np.isclose(other, whole, atol=1e-4), axis=1))


def test_noise_is_standard_normal_fresh_each_row_and_shared_by_both_states():
    """u_1 = v_1 = z_0 and u_2 = v_1 - u_1 + z_1 = z_1: only rows that share their noise cancel z_0."""
    zero, one = np.zeros(2), np.ones(2)
    P = np.array([[0.0], [-1.0]])
    t, s, rho = np.array([1.0, 0.5, 0.0]), np.ones(3), np.array([2.0, 1.0, 0.5])
    table = Table("noise", t, s, rho, a=one, b=zero, p=np.array([0.0, 1.0]), q=np.array([0.0, 1.0]), P=P, Q=P, g=one)
    state = {"x": jnp.zeros((4000, 3)), "y": jnp.zeros((4000, 1))}
    x_t, _ = deis.trajectory(table, lambda x, t: x, state, jax.random.key(0))
    columns = np.concatenate([x_t[name][i] for name in ("x", "y") for i in (1, 2)], axis=1)
    np.testing.assert_allclose(columns.mean(axis=0), 0, atol=0.07)
    np.testing.assert_allclose(np.cov(columns.T), np.eye(8), atol=0.1)


def test_mistakes_are_answered_in_one_sentence():
    table, x = build("ddim", 3), jnp.ones((2, 2))
    for call in (deis.sample, deis.trajectory):
        with pytest.raises(ValueError, match=r"x_T must be floating point, got int32; use jax\.random\.normal"):
            call(table, EPS_FN, jnp.ones((2, 2), int))
        with pytest.raises(ValueError, match=r"eps_fn must answer in the shape of x, \(2, 2\), got \(2, 1\)"):
            call(table, lambda x, t: x[:, :1], x)
        with pytest.raises(ValueError, match=r"DDIM\(eta\) adds noise: pass key=jax\.random\.key\(seed\)"):
            call(ddim_by_x_0(3, eta=1.0), EPS_FN, x)
        with pytest.raises(ValueError, match=r"key must be jax\.random\.key\(seed\), or keys \[batch\], got 0"):
            call(ddim_by_x_0(3, eta=1.0), EPS_FN, x, 0)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"one key or one for each of the 2 samples, got shape \(3,\)"):
            call(ddim_by_x_0(3, eta=1.0), EPS_FN, x, jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="unknown method 'dpm'; did you mean 'ddpm'"):
        deis.get_sampler(SDE, EPS_FN, method="dpm")
