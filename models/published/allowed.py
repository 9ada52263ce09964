"""The values that an option may have: a predicate, and words that describe them in an error message."""

from collections.abc import Callable
from typing import Any

Allowed = tuple[Callable[[Any], bool], str]


def one_of(*values: Any) -> Allowed:
    """Allow these values, told apart from equal ones of another type: 1 is not True."""
    return lambda value: any(type(value) is type(v) and value == v for v in values), " or ".join(map(repr, values))


def list_of(*values: str) -> Allowed:
    """Allow a list of any number of these values."""
    return lambda value: isinstance(value, list) and all(v in values for v in value), f"a list of {', '.join(values)}"


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


def are_counts(value: Any) -> bool:
    """Whether the value is a list, empty or of integers of at least 1."""
    return isinstance(value, list) and all(map(is_count, value))


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**53)


COUNT: Allowed = (is_count, "a whole number of at least 1")
COUNT_OR_ZERO: Allowed = (lambda value: type(value) is int and value >= 0, "a whole number of at least 0")
COUNT_OR_NONE: Allowed = (lambda value: value is None or is_count(value), "None or a whole number of at least 1")
COUNTS: Allowed = (lambda value: are_counts(value) and value != [], "a list of whole numbers of at least 1")
COUNTS_OR_EMPTY: Allowed = (are_counts, "a list, empty or of whole numbers of at least 1")
DROPOUT: Allowed = (lambda value: _is_number(value) and 0 <= value < 1, "a number of at least 0 and below 1")
FLAG = one_of(False, True)
FRACTION: Allowed = (lambda value: _is_number(value) and 0 < value < 1, "a number between 0 and 1")
