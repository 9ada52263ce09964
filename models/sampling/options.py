"""The options of an SDE or a solver, checked against the signature of the function that takes them.

A new solver needs no schema: its keyword arguments, their types and its name in `deis.tables.METHODS` are one.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

Options = dict[str, Any]


def checked(group: str, function: Callable[..., Any], given: Mapping[str, Any], **shared: Any) -> Options:
    """The given options with their values converted to the types that `function` declares.

    group: of the configuration, for messages. shared: types of further options that the group has.
    Raises ValueError for an option that is not there, naming those that are, and for a value of another type.
    """
    known = shared | option_types(function)
    if unknown := sorted(given.keys() - known.keys()):
        raise ValueError(f"{function.__name__} has no {group}.{unknown[0]}; it has {', '.join(known)}")
    schema = make_dataclass(function.__name__, [(name, known[name], field(default=MISSING)) for name in given])
    values = OmegaConf.structured(schema)
    for name, value in given.items():
        try:
            values[name] = value
        except OmegaConfBaseException as error:
            raise ValueError(f"{group}.{name}={value} is refused: {str(error).splitlines()[0]}") from None
    return dict(values)


def option_types(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the arguments that have a default, and of those that a TypedDict behind `**` declares, by name."""
    hints = get_type_hints(function)
    types: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (declared,) = get_args(hints[name])
            assert is_typeddict(declared)
            types |= {key: _plain(hint) for key, hint in get_type_hints(declared).items()}
        elif parameter.default is not inspect.Parameter.empty:
            types[name] = _plain(hints[name])
    return types


def _plain(hint: Any) -> Any:
    """A type that can be typed on a command line: of several, the first of these that is allowed."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    plain = next(one for one in (str, bool, int, float) if one in allowed)
    return plain | None if type(None) in allowed else plain
