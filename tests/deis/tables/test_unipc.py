"""UniPC: the paper's loop with its linear systems, orders of convergence, and what B(h) changes."""

import numpy as np
import pytest
from reference import dpm, problem
from reference.mixture import MIXTURE

import deis
from deis import tables

sdes = pytest.mark.parametrize("sde_name", problem.SDES)
variants = pytest.mark.parametrize("variant", ["B1", "B2"])
predictions = pytest.mark.parametrize("prediction", ["eps", "x_0"])


@sdes
@variants
@predictions
@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("corrector", [False, True])
def test_equals_the_papers_loop(sde_name, variant, prediction, order, corrector):
    sde = problem.SDES[sde_name]
    schedule = dpm.Schedule(sde.s, sde.sigma, sde.t_of_rho)
    eps_fn, x_T = MIXTURE.eps_fn(sde), problem.start(sde)
    for num_step, final in [(1, False), (2, True), (3, False), (8, False), (8, True)]:
        ts = deis.timesteps(sde, num_step, "log")
        for denoise in (False, True) if final else (False,):
            expected = dpm.unipc(
                schedule,
                eps_fn,
                x_T,
                [*ts, dpm.TO_ZERO] if denoise else list(ts),
                order,
                variant,
                data=prediction == "x_0",
                corrector=corrector,
                lower_order_final=final,
            )
            options = {"corrector": corrector, "lower_order_final": final, "denoise": denoise}
            table = tables.unipc(sde, ts, order, variant=variant, prediction=prediction, **options)
            got = problem.run(table, eps_fn, x_T)
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * np.abs(x_T).max(), err_msg=table.name)
            assert table.nfe == num_step + denoise
            assert table.name == ("UniPC" if corrector else "UniP") + str(order)


@pytest.mark.parametrize("sde_name", problem.SHORT)
@variants
@predictions
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [False, True])
def test_orders(sde_name, variant, prediction, order, corrector):
    """UniP-p is of order p and UniPC-p of order p + 1, from exact history and without lower orders at the end."""
    num_steps = [80, 160]
    sde, errors = problem.SHORT[sde_name], []
    for n in num_steps:
        table = tables.unipc(
            sde,
            deis.timesteps(sde, n, "log"),
            order,
            variant=variant,
            prediction=prediction,
            corrector=corrector,
            lower_order_final=False,
        )
        errors.append(
            problem.error_from_exact_history(sde_name, table, max(order - 1, int(corrector)), corrected=corrector)
        )
    assert problem.slopes(num_steps, errors)[-1] == pytest.approx(order + corrector, abs=0.3)


@predictions
def test_b_of_h_is_seen_where_one_unknown_is_not_solved_for(prediction):
    """The predictor's rows of order 2 and the corrector's after order 1; every other row is the exact polynomial's."""
    sde = deis.vp_linear()
    ts = deis.timesteps(sde, 6, "log")
    options = {"prediction": prediction, "lower_order_final": False}
    one, two = (tables.unipc(sde, ts, 3, variant=variant, **options) for variant in ("B1", "B2"))
    differs = np.any(one.P != two.P, axis=1), np.any(one.Q != two.Q, axis=1)
    np.testing.assert_array_equal(differs, [[False, True, False, False, False, False]] * 2)
    if prediction == "eps":
        exact = tables.log_rho_ab(sde, ts, 2, corrector=True)
        np.testing.assert_allclose(two.P[2:], exact.P[2:], rtol=1e-12)
        np.testing.assert_allclose(two.Q[2:], exact.Q[2:], rtol=1e-12)


@predictions
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("lower_order_final", [False, True])
def test_nodes_may_end_at_sigma_0(prediction, order, lower_order_final):
    sde = deis.edm(t_0=0.0)
    ts = deis.timesteps(sde, 8, "rho", 7.0)
    table = tables.unipc(sde, ts, order, prediction=prediction, lower_order_final=lower_order_final)
    x_0 = problem.run(table, MIXTURE.eps_fn(sde), problem.start(sde))
    assert table.nfe == 8
    assert np.all(np.isfinite(x_0))
    assert np.max(np.abs(x_0)) < 5  # of the data's size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "unipc order must be 1 to 6, got 0"),
        ({"order": 7}, "unipc order must be 1 to 6, got 7"),
        ({"variant": "bh1"}, "unknown variant 'bh1'; did you mean 'B1'[?]"),
        ({"prediction": "v"}, "prediction must be one of eps, x_0, got 'v'"),
    ],
)
def test_a_bad_option_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tables.unipc(deis.ve(), np.array([1.0, 0.5, 0.0]), **arguments)
