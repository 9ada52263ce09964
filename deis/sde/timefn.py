"""Functions of time that answer in the array library they are asked in, and their derivatives.

A function may be written with NumPy, jax.numpy or torch. Asked with NumPy times it answers in float64 all the same,
which is what the solver tables are made of.
"""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

TimeFn = Callable[[Any], Any]

_STEP = 1e-30  # of the complex step: no difference is taken, and its square vanishes beside 1


def array_library(x: Any) -> ModuleType:
    """The library of x: numpy, jax.numpy or torch. Numbers and lists of them are numpy's."""
    if isinstance(x, float | int | list | tuple | np.ndarray | np.generic):
        return np
    if type(x).__module__.startswith("torch"):
        return sys.modules["torch"]
    return sys.modules["jax.numpy"]


def wide(x: Any) -> Any:
    """The array x in float32 at least: sums over a sample do not fit in half precision."""
    xp = array_library(x)
    return xp.asarray(x, dtype=xp.promote_types(x.dtype, xp.float32))


def as_float64(fn: TimeFn) -> TimeFn:
    """`fn`, with NumPy times answered in float64 whatever library it is written in.

    Times in extended precision are answered in it by NumPy functions. A complex time t + ih, by which `derivative`
    asks, is answered with fn(t) + ih fn'(t).
    """

    def call(t: Any) -> Any:
        if array_library(t) is not np:
            return fn(t)
        t = np.asarray(t)
        if np.iscomplexobj(t):
            return _complex_step(fn, t)
        library = _written_in(fn, t)
        if library == "numpy":
            t = t if t.dtype == np.longdouble else t.astype(np.float64)
            return fn(t) + np.zeros_like(t)  # a constant, too, in the shape and type of t
        t = t.astype(np.float64)
        if library == "torch":
            return fn(sys.modules["torch"].from_numpy(t)).numpy()
        with sys.modules["jax"].enable_x64(True):  # else it answers in float32
            return np.array(fn(t))

    return call


def derivative(fn: TimeFn) -> TimeFn:
    """fn' of an elementwise function, exact to rounding, in the library of its argument.

    Forward-mode differentiation in JAX and torch, the complex step Im fn(t + ih) / h in NumPy, for which fn must be
    one of `as_float64`. That raises ValueError where there are no complex values, as of np.interp.
    """

    def call(t: Any) -> Any:
        xp = array_library(t)
        if xp is np:
            return np.imag(fn(np.asarray(t) + 1j * _STEP)) / _STEP
        jvp = xp.func.jvp if xp.__name__ == "torch" else sys.modules["jax"].jvp
        return jvp(fn, (t,), (xp.ones_like(t),))[1]

    return call


def _written_in(fn: TimeFn, t: np.ndarray) -> str:
    """The name of the library that fn is written in, by asking it for one of the times."""
    try:
        return array_library(fn(t.ravel()[:1].real.astype(np.float64))).__name__
    except (TypeError, AttributeError):  # torch functions take tensors only
        if "torch" not in sys.modules:
            raise
        return "torch"


def _complex_step(fn: TimeFn, t: np.ndarray) -> np.ndarray:
    real, imag = t.real.copy(), t.imag.copy()
    library = _written_in(fn, t)
    if library == "numpy":
        return _numpy_complex_step(fn, t)
    if library == "torch":
        torch = sys.modules["torch"]
        value, slope = torch.func.jvp(fn, (torch.from_numpy(real),), (torch.from_numpy(imag),))
    else:
        with sys.modules["jax"].enable_x64(True):
            value, slope = sys.modules["jax"].jvp(fn, (real,), (imag,))
    return np.asarray(value) + 1j * np.asarray(slope)


def _numpy_complex_step(fn: TimeFn, t: np.ndarray) -> np.ndarray:
    message = (
        "drift and diffusion need derivatives, and a NumPy function of time is not defined for complex numbers; "
        "write it with np.exp, np.cos and the like, or with jax.numpy or torch"
    )
    try:
        value = fn(t)
    except TypeError as error:
        raise ValueError(message) from error
    if not np.iscomplexobj(value) and type(value) not in (int, float):  # a plain number is a constant
        raise ValueError(message)
    return np.asarray(value)
