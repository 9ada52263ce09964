"""Every public function refuses, in one sentence that names it, an argument that cannot be, and takes NumPy's numbers."""

import re
from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deis
from deis import adaptive, guidance, likelihood, sampler, tables, wrappers
from deis.errors import annotations
from deis.grids import optimized
from deis.schedule import dynamic_shift

Call = tuple[Callable[..., Any], dict[str, Any]]

SDE, TS = deis.vp_linear(), deis.timesteps(deis.vp_linear(), 4)
X = np.ones((2, 3), np.float32)
TABLE = tables.t_ab(SDE, TS)


def eps(x: Any, t: Any) -> Any:
    return 0.1 * x


COMMON = {"sde": SDE, "eps_fn": eps, "network": eps, "ts": TS, "x_T": X, "x_0": X, "table": TABLE, "num_step": 4}
COMMON |= {"worse": eps, "gradient": eps, "denoise": eps, "change": abs, "prediction": "eps", "num_times": 9}
COMMON |= {"condition": X, "null": X, "low": 0.1, "high": 0.9, "num_tokens": 256, "solver": tables.ddim}
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
    "VPSDE": dict(zip(("t2alpha_fn", "alpha2t_fn"), deis.get_linear_alpha_fns(0.1, 20.0), strict=True))
    | {"sampling_eps": 0.01, "sampling_T": 1.0},
}
FUNCTIONS: list[Callable[..., Any]] = [
    *tables.METHODS.values(),
    *(tables.build, tables.analytic_ddim, tables.estimate_eps_norm, deis.timesteps, dynamic_shift, optimized),
    *(deis.SDE, deis.vp_linear, deis.vp_zero_snr, deis.sub_vp, deis.vp_cosine, deis.ve, deis.edm, deis.flow),
    *(deis.discrete_vp, deis.VPSDE, deis.get_sampler, deis.sample, deis.trajectory),
    *(guidance.interval, guidance.projected, guidance.rescaled),
    *(wrappers.from_prediction, wrappers.from_edm, wrappers.discrete_time, wrappers.classifier_free_guidance),
    *(wrappers.autoguidance, wrappers.classifier_guidance, wrappers.with_x_0, wrappers.clip_x_0),
    *(wrappers.threshold_x_0, wrappers.thresholded),
    *(adaptive.sample, adaptive.encode, adaptive.dpm_solver),
    *(likelihood.encoding, likelihood.encode, likelihood.log_prob, likelihood.bits_per_dim, likelihood.dequantise),
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
        wrong = [value for one in kinds for value in WRONG.get(one, ())]
        found += [(name, value) for value in wrong if not (value is None and type(None) in kinds)]
    return found


def arguments(function: Callable[..., Any]) -> dict[str, Any]:
    known = {name: value for name, value in COMMON.items() if name in annotations(function)}
    if function in tables.METHODS.values():
        known = {"sde": SDE, "ts": TS}
    return known | OWN.get(function.__name__, {})


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_value_of_another_type_is_refused_by_name(function: Callable[..., Any]) -> None:
    function(**arguments(function))
    assert cases(function)
    for name, value in cases(function):
        with pytest.raises(ValueError, match=r"^\S+ must be .*, got ") as caught:
            function(**arguments(function) | {name: value})
        assert str(caught.value).startswith(f"{name} must be ")
        assert " ".join(repr(value).split())[:80] in str(caught.value)
