"""Values of foreign files as short words of an error message: they may be endless, nested or hold line breaks."""

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any

_MOST_ITEMS = 8


def short(text: object, most: int = 120) -> str:
    """A text on one line: what cannot be printed is escaped, and the middle of a long one is left out."""
    said = str(text)
    if len(said) > most:
        said = f"{said[: most - most // 3]}...{said[-(most // 3) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in said)


def shown(value: Any, depth: int = 2) -> str:
    """The value as Python writes it, for a list of many items the first three and their number."""
    match value:
        case str() | bytes():
            return short(repr(value[:100]), 80)
        case int() if value.bit_length() > 200:
            return f"an integer of {value.bit_length()} bits"
        case None | int() | float():
            return repr(value)
        case Mapping():
            pairs = (f"{shown(key, depth - 1)}: {shown(item, depth - 1)}" for key, item in value.items())
            return "{" + _few(pairs, len(value), depth) + "}"
        case list():
            return "[" + _few((shown(item, depth - 1) for item in value), len(value), depth) + "]"
        case tuple():
            return "(" + _few((shown(item, depth - 1) for item in value), len(value), depth) + ")"
    return f"a {type(value).__name__}"


def named(names: Collection[str]) -> str:
    """The first three of some names, in alphabetical order, and how many more there are."""
    return _few(map(short, sorted(names)), len(names), most=3)


def _few(items: Any, count: int, depth: int = 1, most: int = _MOST_ITEMS) -> str:
    """Items with commas between them; of more than `most` only three, of those that lie too deep none."""
    if depth < 1:
        return "..." if count else ""
    if count <= most:
        return short(", ".join(items), 240)
    return short(", ".join(islice(items, 3)), 240) + f" and {count - 3} more"
