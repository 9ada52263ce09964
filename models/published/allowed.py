"""The values that an option may have: a predicate, and words that describe them in an error message."""

from collections.abc import Callable
from typing import Any

Allowed = tuple[Callable[[Any], bool], str]


def one_of(*values: Any) -> Allowed:
    """Allow these values, told apart from equal ones of another type: 1 is not True."""

    def is_allowed(value: Any) -> bool:
        return any(type(value) is type(allowed) and value == allowed for allowed in values)

    return is_allowed, " or ".join(map(repr, values))


def list_of(*values: str) -> Allowed:
    """Allow a list of any number of these values."""
    return lambda value: isinstance(value, list) and all(v in values for v in value), f"a list of {', '.join(values)}"


def number(least: float, most: float) -> Allowed:
    """Allow integers and floats in [least, most]; an integer must be exact as a float."""

    def is_allowed(value: Any) -> bool:
        return (type(value) is float or (type(value) is int and abs(value) < 2**53)) and least <= value <= most

    return is_allowed, f"a number from {least:g} to {most:g}"


def like(example: Any) -> Allowed:
    """Allow values of the kind of an example: flags, counts, numbers or lists of counts, but only the same string."""
    if isinstance(example, str):
        return one_of(example)
    return {bool: FLAG, int: COUNT, float: number(0, 1e6), list: COUNTS_OR_EMPTY}[type(example)]


def is_count(value: Any) -> bool:
    """Whether the value is an integer of at least 1."""
    return type(value) is int and value >= 1


def are_counts(value: Any, least: int = 1) -> bool:
    """Whether the value is a list of integers of at least 1, `least` or more of them."""
    return isinstance(value, list) and len(value) >= least and all(map(is_count, value))


COUNT: Allowed = (is_count, "a whole number of at least 1")
COUNT_OR_ZERO: Allowed = (lambda value: type(value) is int and value >= 0, "a whole number of at least 0")
COUNT_OR_NONE: Allowed = (lambda value: value is None or is_count(value), "None or a whole number of at least 1")
COUNTS: Allowed = (are_counts, "a list of whole numbers of at least 1")
COUNTS_OR_EMPTY: Allowed = (lambda value: are_counts(value, 0), "a list, empty or of whole numbers of at least 1")
DROPOUT: Allowed = (lambda value: type(value) in (int, float) and 0 <= value < 1, "a number of at least 0 and below 1")
FLAG = one_of(False, True)
FRACTION: Allowed = (lambda value: type(value) in (int, float) and 0 < value < 1, "a number between 0 and 1")
