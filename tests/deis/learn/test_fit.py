"""Learned tables: nearer to the fine solution, never worse than their base, the same in torch, gone on with."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.mixture import MIXTURE

import deis
from deis import tables
from deis.learn import Progress, fit

SDE = deis.vp_linear()
EPS = MIXTURE.eps_fn(SDE, jnp)
BASE = tables.ipndm(SDE, deis.timesteps(SDE, 5), order=3)


def pairs(num: int, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Noise, and where 200 steps take it."""
    x_T = SDE.prior_sample(jax.random.key(seed), (num, 2))
    return x_T, deis.sample(tables.log_rho_ab(SDE, deis.timesteps(SDE, 200, "log")), EPS, x_T)


def rms(table: deis.Table, x_T: jax.Array, x_0: jax.Array) -> float:
    return float(jnp.sqrt(jnp.mean((deis.sample(table, EPS, x_T) - x_0) ** 2)))


PAIRS, UNSEEN = pairs(256), pairs(256, seed=1)


@pytest.fixture(scope="module")
def learned() -> deis.Table:
    return fit(SDE, EPS, BASE, *PAIRS, batch_size=64)


def test_it_is_far_nearer_on_trajectories_that_it_has_not_seen(learned: deis.Table) -> None:
    assert learned.nfe == BASE.nfe
    assert rms(learned, *UNSEEN) < 0.3 * rms(BASE, *UNSEEN)
    assert float(learned.about["rms"]) < 0.3 * float(learned.about["rms of base"])


def test_it_is_the_base_where_nothing_is_gained() -> None:
    x_T, _ = PAIRS
    assert fit(SDE, EPS, BASE, x_T, deis.sample(BASE, EPS, x_T), batch_size=64, steps=2) is BASE
    one = tables.ddim(SDE, deis.timesteps(SDE, 1))  # whose grid has nothing to move
    assert fit(SDE, EPS, one, *PAIRS, batch_size=64, steps=1, learn=["grid"]) is one


@pytest.mark.parametrize("part", ["grid", "time", "coefficients"])
def test_parts_move_alone(part: str) -> None:
    table = fit(SDE, EPS, BASE, *PAIRS, batch_size=64, learn=(part,), steps=6)
    assert rms(table, *UNSEEN) < rms(BASE, *UNSEEN)
    assert np.allclose(table.rho, BASE.rho) == (part != "grid")
    assert np.allclose(table.t[:-1], SDE.t_of_rho(table.rho[:-1]), rtol=1e-6) == (part != "time")


@pytest.mark.parametrize("loss", ["log_mse", "l1", "mse"])
def test_every_loss_brings_it_nearer(loss: str) -> None:
    assert rms(fit(SDE, EPS, BASE, *PAIRS, batch_size=64, loss=loss, steps=10), *UNSEEN) < 0.7 * rms(BASE, *UNSEEN)


def test_features_are_what_is_matched() -> None:
    """Only the first coordinate is asked for."""

    def first(x: jax.Array) -> jax.Array:
        return x[:, :1]

    table = fit(SDE, EPS, BASE, *PAIRS, batch_size=64, features=first, steps=12)
    apart = (deis.sample(table, EPS, PAIRS[0]) - PAIRS[1])[-64:]
    np.testing.assert_allclose(float(table.about["rms"]), jnp.sqrt(jnp.mean(apart[:, 0] ** 2)), rtol=1e-4)
    assert float(table.about["rms"]) < 0.3 * float(table.about["rms of base"])


def test_it_goes_on_where_it_was_stopped() -> None:
    seen: list[Progress] = []
    whole = fit(SDE, EPS, BASE, *PAIRS, batch_size=64, steps=6)

    def stop_at_3(at: Progress) -> bool:
        seen.append(at)
        return at.step == 3

    fit(SDE, EPS, BASE, *PAIRS, batch_size=64, steps=6, progress=stop_at_3)
    assert [at.step for at in seen] == [1, 2, 3]
    resumed = fit(SDE, EPS, BASE, *PAIRS, batch_size=64, steps=6, start=seen[-1])
    for name in whole.shapes():
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_states_may_be_trees() -> None:
    def eps_fn(x: dict, t: jax.Array) -> dict:
        e = EPS(jnp.concatenate([x["a"], x["b"]], axis=1), t)
        return {"a": e[:, :1], "b": e[:, 1:]}

    trees = [{"a": x[:, :1], "b": x[:, 1:]} for x in PAIRS]
    tree, array = (fit(SDE, f, BASE, *x, batch_size=64, steps=3) for f, x in ((eps_fn, trees), (EPS, PAIRS)))
    np.testing.assert_allclose(tree.P, array.P, rtol=1e-3, atol=1e-4)


def test_a_condition_goes_with_its_trajectories() -> None:
    """Half of the samples are shifted by their condition, in all batches alike."""

    def eps_fn(x: jax.Array, t: jax.Array, shift: jax.Array) -> jax.Array:
        return EPS(x - SDE.s(t) * shift, t)  # the data, shifted

    shift = jnp.tile(jnp.array([[0.0], [0.5]]), (128, 2))
    x_T = PAIRS[0]
    fine = tables.log_rho_ab(SDE, deis.timesteps(SDE, 200, "log"))
    x_0 = deis.sample(fine, lambda x, t: eps_fn(x, t, shift), x_T)
    table = fit(SDE, eps_fn, BASE, x_T, x_0, batch_size=64, condition=shift, steps=12)
    before, after = (deis.sample(one, lambda x, t: eps_fn(x, t, shift), x_T) - x_0 for one in (BASE, table))
    assert jnp.mean(after**2) < 0.2 * jnp.mean(before**2)
    best = deis.choose(SDE, eps_fn, x_T, x_0, 5, [BASE, table], batch_size=64, condition=shift)
    assert best[0].table is table


def test_a_discrete_model_keeps_its_whole_times() -> None:
    sde = deis.discrete_vp()
    base = tables.build(sde, num_step=5)
    x_T = sde.prior_sample(jax.random.key(0), (128, 2))
    x_0 = deis.sample(tables.ddim(sde, deis.timesteps(sde, 200, "uniform")), MIXTURE.eps_fn(sde, jnp), x_T)
    table = fit(sde, MIXTURE.eps_fn(sde, jnp), base, x_T, x_0, batch_size=32, steps=6)
    assert table is not base
    np.testing.assert_array_equal(table.t, base.t)
    with pytest.raises(ValueError, match="the times of a discrete SDE are whole"):
        fit(sde, MIXTURE.eps_fn(sde, jnp), base, x_T, x_0, learn=("grid",))


def test_torch_samples_alike(learned: deis.Table) -> None:
    torch = pytest.importorskip("torch")
    x_T = np.array(UNSEEN[0], np.float64)
    eps_fn = MIXTURE.eps_fn(SDE)
    found = deis.torch.sample(
        learned, lambda x, t: torch.from_numpy(eps_fn(x.numpy(), float(t))), torch.from_numpy(x_T)
    )
    with jax.enable_x64(True):
        expected = deis.sample(learned, lambda x, t: EPS(x, t), jnp.asarray(x_T))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learn": ("steps",)}, r"learn must be a tuple of some of grid, time, coefficients, got steps"),
        ({"learn": ()}, r"learn must be a tuple of some of grid, time, coefficients, got nothing"),
        ({"learn": "grid"}, "learn must be a tuple of some of grid, time, coefficients, got grid"),
        ({"x_0": PAIRS[1] * np.nan}, "iPNDM3 or the targets x_0 hold NaN or infinite values"),
        ({"loss": "mae"}, "loss must be one of mse, log_mse, l1, huber, got 'mae'"),
        ({"batch_size": 200}, "one batch of 200 trajectories is too few"),
        ({"base": tables.build(SDE, method="ddpm")}, "DDPM adds noise"),
    ],
)
def test_what_cannot_be_learned_is_refused(change: dict, message: str) -> None:
    given = {"base": BASE, "x_T": PAIRS[0], "x_0": PAIRS[1], "batch_size": 64} | change
    with pytest.raises(ValueError, match=message):
        fit(SDE, EPS, **given)


def test_a_learned_table_is_no_base(learned: deis.Table) -> None:
    with pytest.raises(ValueError, match="take an untrained base"):
        fit(SDE, EPS, replace(learned, name="again"), *PAIRS, batch_size=64)
