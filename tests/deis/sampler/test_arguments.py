"""Every public function refuses an argument that cannot be, in one sentence that names it; NumPy's numbers can be."""
# mypy: disable-error-code="arg-type,list-item"

from collections.abc import Callable
from dataclasses import replace
from typing import Any, SupportsFloat, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import adaptive, guidance, learn, likelihood, tables, wrappers
from deis.errors import annotations
from deis.grids import optimized
from deis.schedule import dynamic_shift
from deis.wrappers import inpaint

SDE, TS = deis.vp_linear(), deis.timesteps(deis.vp_linear(), 4)
X = np.ones((2, 3), np.float32)
TABLE = tables.t_ab(SDE, TS)


def eps(x: Any, t: Any) -> Any:
    return 0.1 * x


COMMON = {"sde": SDE, "eps_fn": eps, "network": eps, "ts": TS, "x_T": X, "x_0": X, "table": TABLE, "num_step": 4}
COMMON |= {"worse": eps, "gradient": eps, "denoise": eps, "change": abs, "prediction": "eps", "num_times": 9}
COMMON |= {"condition": X, "null": X, "low": 0.1, "high": 0.9, "num_tokens": 256, "solver": tables.ddim}
COMMON |= {"base": TABLE, "nfe": 4, "nodes": eps, "errors": learn.StepErrors(TS, np.ones((5, 5)))}
OWN: dict[str, dict[str, Any]] = {
    "analytic_ddim": {"eps_norm": np.full(5, 0.9)},
    "estimate_eps_norm": {"z": X},
    "log_prob": {"flow": lambda sde, eps_fn, x: (x, 1), "key": None},
    "bits_per_dim": {"log_p": np.ones(2), "dim": 3},
    "dequantise": {"images": np.ones((2, 3), np.uint8), "key": jax.random.key(0)},
    "classifier_free_guidance": {"weight": 2.0},
    "autoguidance": {"weight": 2.0},
    "interval": {"weight": 2.0},
    "thresholded": {"percentile": 99.5},
    "SDE": {"s": SDE.s, "sigma": SDE.sigma, "t_of_rho": SDE.t_of_rho, "t_0": 0.01, "T": 1.0},
}
FUNCTIONS: list[Callable[..., Any]] = [
    *tables.METHODS.values(),
    *(tables.build, tables.analytic_ddim, tables.estimate_eps_norm, deis.timesteps, dynamic_shift, optimized),
    *(deis.SDE, deis.vp_linear, deis.vp_zero_snr, deis.sub_vp, deis.vp_cosine, deis.ve, deis.edm, deis.flow),
    *(deis.discrete_vp, deis.get_sampler, deis.sample, deis.trajectory),
    *(guidance.interval, guidance.projected, guidance.rescaled),
    *(wrappers.from_prediction, wrappers.from_edm, wrappers.discrete_time, wrappers.classifier_free_guidance),
    *(wrappers.autoguidance, wrappers.classifier_guidance, wrappers.with_x_0, wrappers.clip_x_0),
    *(wrappers.threshold_x_0, wrappers.thresholded),
    *(adaptive.sample, adaptive.encode, adaptive.dpm_solver),
    *(likelihood.encoding, likelihood.encode, likelihood.log_prob, likelihood.bits_per_dim, likelihood.dequantise),
    *(likelihood.decode, learn.choose, learn.fit, learn.gits, learn.step_errors, learn.on_nodes, learn.untrained),
]
WRONG: dict[Any, tuple[Any, ...]] = {
    bool: ("no", 2, 0.5, None),
    int: (2.5, 4.0, "3", True, None),
    float: ("1", np.nan, True, [1.0], None),
    SupportsFloat: ("1", [1.0], None),
    Callable: (3, None),
    np.ndarray: ("now", {}, [[1.0], [1.0, 2.0]]),
    deis.SDE: (deis.vp_linear, None),
    deis.Table: (SDE, None),
}


def cases(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """The arguments that a function has, each with values that it cannot have."""
    found = []
    for name, kind in annotations(function).items():
        kinds = [get_origin(one) or one for one in (get_args(kind) if "|" in str(kind) else (kind,))]
        found += [(name, value) for value in WRONG.get(kinds[0], ()) if value is not None or type(None) not in kinds]
    return found


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    """The least that a function can be called with."""
    is_solver = "ts" in annotations(function) and function.__module__.startswith("deis.tables")
    names = ("sde", "ts", "eps_fn", "x_0") if is_solver else COMMON
    return {name: COMMON[name] for name in names if name in annotations(function)} | OWN.get(function.__name__, {})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_value_of_another_type_is_refused_by_name(function: Callable[..., Any]) -> None:
    assert cases(function)
    for name, value in cases(function):
        with pytest.raises(ValueError, match=r"^\S+ must be .*, got ") as caught:
            function(**arguments(function) | {name: value})
        assert str(caught.value).startswith(f"{name} must be ")
        assert " ".join(repr(value).split())[:80] in str(caught.value)


@pytest.mark.parametrize("number", [np.int64, np.array, jnp.asarray], ids=["int64", "array", "jax"])
def test_numbers_of_numpy_and_jax_are_taken(number: Callable[[Any], Any]) -> None:
    flag = np.bool_ if number is np.int64 else number
    table = tables.build(SDE, num_step=number(6), order=number(2), corrector=flag(True), lower_order_final=number(0))
    np.testing.assert_array_equal(table.P, tables.build(SDE, num_step=6, order=2, corrector=True).P)
    assert (table.name, table.nfe) == ("tAB2+C", 6)
    assert tables.build(SDE, num_step=3, method="ddim_eta", eta=number(1)).name == "DDIM(eta=1)"
    assert deis.vp_linear(T=np.float32(0.5)).T == 0.5


def test_scales_may_be_traced() -> None:
    def guided(weight: Any, low: Any, share: Any) -> Any:
        rule = guidance.rescaled(SDE, share, guidance.projected(SDE, share, weight))
        eps_fn = wrappers.autoguidance(eps, eps, guidance.interval(SDE, weight, low, 9.0), rule)
        eps_fn = wrappers.threshold_x_0(SDE, wrappers.clip_x_0(SDE, eps_fn, -weight, weight), weight + 90, weight)
        return wrappers.classifier_guidance(SDE, eps_fn, eps, weight)(X, jnp.float32(0.5))

    assert jax.eval_shape(guided, 2.0, 0.1, 0.5).shape == X.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: deis.sample(TABLE, eps, None),
            r"x_T must be an array \[batch, ...\] or a pytree of such, got shapes \[\]",
        ),
        (lambda: deis.sample(TABLE, eps, [[1.0]]), r"x_T must be an array \[batch, ...\]"),
        (
            lambda: deis.sample(TABLE, eps, {"a": X, "b": X[:1]}),
            r"as many samples .*, got shapes \[\(2, 3\), \(1, 3\)\]",
        ),
        (lambda: likelihood.log_prob(SDE, eps, {"a": X}, likelihood.encode), "x_0 must be one array .*, got a dict"),
        (lambda: likelihood.decode(SDE, eps, X, TS, tables.ddpm), "DDPM adds noise, and so does not decode"),
        (lambda: learn.choose(SDE, eps, X, X[:, :1], 4), r"x_0 must have the shape of x_T, \(2, 3\), got \(2, 1\)"),
        (lambda: learn.choose(SDE, eps, X, X, 4, batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: tables.build(deis.flow(), method="rho_rk", denoise=True), "already end at sigma = 0, at t=0"),
        (lambda: deis.sample(TABLE, eps, np.array(["a"])), "x_T must be floating point, got <U1"),
        (lambda: adaptive.dpm_solver(SDE, eps, np.ones((2, 3), int)), "x_T must be floating point, got int"),
        (lambda: adaptive.sample(SDE, eps, X, rtol=-1.0), "rtol and atol must be 0 or more, got -1 and 1e-05"),
        (lambda: adaptive.dpm_solver(SDE, lambda x, t: x[:1], X), r"eps_fn must answer in the shape of x, \(2, 3\)"),
        (lambda: SDE.prior_sample(0, (2,)), r"key must be jax\.random\.key\(seed\), .* or a torch Generator, got 0"),
        (lambda: wrappers.clip_x_0(SDE, eps, 1.0, -1.0), "low must lie below high, got 1 and -1"),
        (lambda: guidance.interval(SDE, 2.0, 5.0, 1.0), "low must lie below high, got 5 and 1"),
        (lambda: guidance.rescaled(SDE, 2), r"share must lie in \[0, 1\], got 2"),
        (lambda: guidance.projected(SDE, max_norm=-1), "max_norm must be positive, got -1; None shortens nothing"),
        (lambda: deis.vp_linear(t_0=-0.5), "must grow everywhere from t_0=-0.5 to T=1"),
        (lambda: wrappers.threshold_x_0(SDE, eps, 0.995), "percentile must be above 1 .*, as 99.5, got 0.995"),
        (lambda: wrappers.discrete_time(eps, 0), "num_times must be at least 1, got 0"),
        (lambda: inpaint(SDE, eps, X, X), "mask must be a boolean array, True where x_0 is known, got float32"),
        (lambda: likelihood.bits_per_dim(np.ones(2), 0), "dim must be at least 1, got 0"),
        (lambda: likelihood.dequantise([1], jax.random.key(0)), r"images must be uint8 .*, got \[1\]"),
        (lambda: deis.vp_cosine(-1.0), "offset must be 0 or more and finite, got -1"),
        (lambda: deis.sub_vp(-0.1), "beta_0 and beta_1 must be 0 or more and finite, got -0.1 and 20"),
        (lambda: deis.vp_linear(T=np.inf), "t_0 must lie below T, both finite, got t_0=0.001 and T=inf"),
        (lambda: replace(SDE, prior_std=-1.0), "prior_std must be positive and finite, got -1"),
        (lambda: deis.DiscreteVPSDE("abc"), "discrete_alpha must be numbers, got 'abc'"),
        (lambda: deis.discrete_vp(betas=[[0.1], [0.2]]), "discrete_alpha must be a decreasing array"),
        (lambda: replace(TABLE, P=np.ones(4)), r"a must be \[nfe\] and P \[nfe, lags\], got \(\(4,\), \(4,\)\)"),
        (lambda: replace(TABLE, g="abc"), "tAB3: column g must be numbers, got 'abc'"),
        (lambda: replace(TABLE, about=None), "about must be a dict, got None"),
        (lambda: TABLE.require_sde("vp"), r"sde must be a deis\.SDE, such as deis\.vp_linear\(\), got 'vp'"),
        (lambda: tables.named_solver("t_ab", {})(SDE, TS, "no"), "denoise must be True or False, got 'no'"),
        (lambda: deis.timesteps(SDE, 4, 2.0), "ts_phase must be one of t, .*, trailing, got 2.0"),
    ],
)
def test_what_cannot_be_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_tableau_of_an_exponential_method_is_the_one_that_is_named() -> None:
    assert tables.build(SDE, num_step=3, method="exponential_rk", rk_method="3s").name == "expRK-3s"
