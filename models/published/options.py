"""The check of a network's options as another project wrote them, against a table of what can be imported."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from models.published.allowed import Allowed, one_of

Options = dict[str, Any]
Table = dict[str, tuple[Any, Allowed]]  # the default of every option, and the values allowed
REQUIRED = object()  # the default of an option that must be given


def checked(config: Options, table: Table) -> Options:
    """Return the options of `table`, from `config` or by default; other entries of `config` are ignored.

    Raises ValueError, naming the option and what is allowed, for one that is missing or not allowed.
    """
    options = {name: config.get(name, default) for name, (default, _) in table.items()}
    for name, (_, (is_allowed, words)) in table.items():
        if options[name] is REQUIRED:
            raise ValueError(f"{name} is missing; it must be {words}")
        if not is_allowed(options[name]):
            raise ValueError(f"{name} must be {words}, got {options[name]!r}")
    return options


def require(options: Options, values: Options) -> None:
    """Raise ValueError for an option without the value that the other options demand; `options` need not have all."""
    checked(options, {name: (REQUIRED, one_of(value)) for name, value in values.items() if name in options})


def refuse_unknown(config: Options, known: Iterable[str]) -> None:
    """Raise ValueError for an option that is not `known`."""
    if unknown := sorted(config.keys() - set(known), key=str):
        raise ValueError(f"{unknown[0]}={config[unknown[0]]!r} is an option that is not known here")


@contextmanager
def errors_naming(source: object) -> Iterator[None]:
    """Put `source`, the file or the class that is read, before the message of every ValueError raised in the block."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
