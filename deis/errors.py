"""What a user gave that cannot be, or did not install: the sentences that say so."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import cache, wraps
from inspect import signature
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])

_KINDS = {bool: "biu", int: "iu", float: "iuf"}  # of NumPy's dtypes
_WORDS = {"bool": "True or False", "int": "a whole number", "float": "a number", "ndarray": "numbers"}
_WORDS |= {"SupportsFloat": "a number or an array", "Callable": "a function", "Mapping": "a dict", "NoneType": "None"}
_WORDS |= {"SDE": "a deis.SDE, such as deis.vp_linear()", "Table": "a deis.Table, such as deis.tables.build(sde)"}


@contextmanager
def needs(extra: str, module: str) -> Iterator[None]:
    """Turn a failed import in the block into a ModuleNotFoundError that names the extra `module` comes with."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module} needs {error.name}, which is not installed: pip install 'deis-sampler[{extra}]'", name=error.name
        ) from error


def require(holds: Any, sentence: str) -> None:
    """Raise ValueError with the sentence unless the condition holds."""
    if not holds:
        raise ValueError(sentence)


def choice(what: str, value: Any, allowed: Collection[str]) -> None:
    """Raise ValueError, with the nearest name or else all that are allowed, if `value` is none of them."""
    if not isinstance(value, str) or value not in allowed:
        names = {name.lower(): name for name in allowed}
        for near in get_close_matches(value.lower(), names, 1, 0.8) if isinstance(value, str) else ():
            raise ValueError(f"unknown {what} {value!r}; did you mean {names[near]!r}?")
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {shown(value)}")


def rises(low: Any, high: Any) -> None:
    """Raise ValueError for numbers of which low does not lie below high; arrays, which may be traced, pass."""
    if isinstance(low, float | int) and isinstance(high, float | int):
        require(low < high, f"low must lie below high, got {low:g} and {high:g}")


def within(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError for a number outside [low, high]; arrays, which may be traced, pass."""
    if isinstance(value, float | int):
        require(low <= value <= high, f"{name} must lie in [{low:g}, {high:g}], got {value:g}")


def shown(value: Any) -> str:
    """The beginning of a value's repr, in one line."""
    return " ".join(repr(value).split())[:80]


def checked(function: Function) -> Function:
    """A decorator: `function` is called with its arguments as the types that `as_type` makes of its annotations."""
    names = list(signature(function).parameters)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kinds = annotations(function)
        positional = [as_type(name, value, kinds.get(name)) for name, value in zip(names, args, strict=False)]
        by_name = {name: as_type(name, value, kinds.get(name)) for name, value in kwargs.items()}
        return function(*positional, *args[len(names) :], **by_name)

    return cast(Function, call)


@cache
def annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's arguments by name, those of a TypedDict behind `**` among them."""
    kinds = get_type_hints(function)
    for p in signature(function).parameters.values():
        if p.kind is p.VAR_KEYWORD and (gathered := get_args(kinds.pop(p.name))):
            kinds |= get_type_hints(gathered[0])
    return {name: kind for name, kind in kinds.items() if name != "return"}


def as_type(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotation `kind`. Raises ValueError, which names the argument, for one of another type.

    Numbers and flags may be NumPy's or arrays without dimensions, and become Python's; 0 and 1 are flags, too, and NaN
    is no number. Names are left to `choice`, and arrays of JAX and torch are not looked at.
    """
    kinds = [get_origin(one) or one for one in (get_args(kind) if isinstance(kind, UnionType) else (kind,))]
    for one in kinds:
        with suppress(TypeError, ValueError, RuntimeError):  # as of what is no array, or a traced one
            return _as_type(value, one)
    raise ValueError(f"{name} must be {' or '.join(_WORDS[one.__name__] for one in kinds)}, got {shown(value)}")


def _as_type(value: Any, kind: Any) -> Any:
    if kind in _KINDS:
        found = np.asarray(value)
        is_flag = kind is not bool or found in (0, 1)
        require(found.dtype.kind in _KINDS[kind] and found.ndim == 0 and found == found and is_flag, "")
        return kind(found)
    if kind is np.ndarray:
        return np.asarray(value, np.float64)
    require(getattr(kind, "__name__", "") not in _WORDS or isinstance(value, kind), "")
    return value
