"""Optional dependencies: the sentence that says which one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(extra: str, module: str) -> Iterator[None]:
    """Turn a failed import in the block into a ModuleNotFoundError that names the extra `module` comes with."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module} needs {error.name}, which is not installed: pip install 'deis-sampler[{extra}]'", name=error.name
        ) from error
