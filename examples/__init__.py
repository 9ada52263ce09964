"""The scripts of this folder, each of which draws something common; they are called as python -m examples.NAME."""

import inspect
import sys
from collections.abc import Callable


def run(main: Callable[..., None], *words: str) -> None:
    """Call a script's `main` with the words of its command line; an error is one sentence and the exit code 2."""
    about = inspect.getdoc(inspect.getmodule(main))
    if {"-h", "--help"} & {*words}:
        print(about)
        return
    try:
        inspect.signature(main).bind(*words)
    except TypeError as error:
        print(f"error: {error}\n\n{about}", file=sys.stderr)
        sys.exit(2)
    try:
        main(*words)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
