"""The check of a network's options as another project wrote them, against a table of what can be imported."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from formats.short import short, shown

Options = dict[str, Any]
Allowed = tuple[Callable[[Any], bool], str]  # whether an option may have a value, and words for the values it may have
Table = dict[str, tuple[Any, Allowed]]  # the default of every option, and the values allowed
REQUIRED = object()  # the default of an option that must be given


def one_of(*values: Any) -> Allowed:
    """Allow these values, told apart from equal ones of another type: 1 is not True."""
    return lambda value: any(type(value) is type(v) and value == v for v in values), " or ".join(map(repr, values))


def list_of(*values: str) -> Allowed:
    """Allow a list of any number of these values."""
    return lambda value: isinstance(value, list) and all(v in values for v in value), f"a list of {', '.join(values)}"


def count_up_to(most: int) -> Allowed:
    """Allow whole numbers in [1, most]."""
    return lambda value: is_count(value) and value <= most, f"a whole number from 1 to {most}"


def number(least: float, most: float) -> Allowed:
    """Allow integers and floats in [least, most]; an integer must be exact as a float."""
    return lambda value: _is_number(value) and least <= value <= most, f"a number from {least:g} to {most:g}"


def like(example: Any) -> Allowed:
    """Allow values of the kind of an example: flags, counts, numbers or lists of counts, but only the same string."""
    kinds = {bool: FLAG, int: COUNT, float: number(0, 1e6), list: COUNTS_OR_EMPTY, str: one_of(example)}
    return kinds[type(example)]


def is_count(value: Any) -> bool:
    """Whether the value is an integer of at least 1."""
    return type(value) is int and value >= 1


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_count, value))


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


COUNT: Allowed = (is_count, "a whole number of at least 1")
COUNT_OR_ZERO: Allowed = (lambda value: type(value) is int and value >= 0, "a whole number of at least 0")
COUNT_OR_NONE: Allowed = (lambda value: value is None or is_count(value), "None or a whole number of at least 1")
COUNTS: Allowed = (lambda value: _are_counts(value) and value != [], "a list of whole numbers of at least 1")
COUNTS_OR_EMPTY: Allowed = (_are_counts, "a list, empty or of whole numbers of at least 1")
DROPOUT: Allowed = (lambda value: _is_number(value) and 0 <= value < 1, "a number of at least 0 and below 1")
FLAG = one_of(False, True)
FRACTION: Allowed = (lambda value: _is_number(value) and 0 < value < 1, "a number between 0 and 1")
FRACTIONS_OR_NONE: Allowed = (
    lambda value: value is None or (isinstance(value, list) and value != [] and all(map(FRACTION[0], value))),
    "None or a list of numbers between 0 and 1",
)


def checked(config: Options, table: Table) -> Options:
    """Return the options of `table`, from `config` or by default; other entries of `config` are ignored.

    Raises ValueError, naming the option and what is allowed, for one that is missing or not allowed.
    """
    options = {name: config.get(name, default) for name, (default, _) in table.items()}
    for name, (_, (is_allowed, words)) in table.items():
        if options[name] is REQUIRED:
            raise ValueError(f"{name} is missing; it must be {words}")
        if not is_allowed(options[name]):
            raise ValueError(f"{name} must be {words}, got {shown(options[name])}")
    return options


def require(options: Options, values: Options) -> None:
    """Raise ValueError for an option without the value that the other options demand; `options` need not have all."""
    checked(options, {name: (REQUIRED, one_of(value)) for name, value in values.items() if name in options})


def refuse_unknown(config: Options, known: Iterable[str]) -> None:
    """Raise ValueError for an option that is not `known`."""
    if unknown := sorted(config.keys() - set(known), key=shown):
        raise ValueError(f"{short(unknown[0])}={shown(config[unknown[0]])} is an option that is not known here")


@contextmanager
def errors_naming(source: object) -> Iterator[None]:
    """Put `source`, the file or the class that is read, before the message of every ValueError raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
