"""Ways for a run to end, and their exit codes; a signal is a request that the run answers when it has saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class RunError(Exception):
    """Something went wrong that one sentence explains; no traceback is shown."""

    exit_code = 1


class ConfigError(RunError):
    """What was asked for is not possible: found before anything expensive started."""

    exit_code = 2


class NonFiniteError(RunError):
    """A loss or a sample is NaN or infinite."""

    exit_code = 3


class Stopped(RunError):
    """The run was told to stop by a signal, and has saved its state."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signum

    def __reduce__(self) -> tuple[type, tuple[int, str]]:
        """A job in a process of its own hands its errors over by pickle, which knows the message only."""
        return type(self), (self.exit_code - 128, str(self))


@contextmanager
def writing() -> Iterator[None]:
    """Within this block a file that cannot be written, as on a full disk, ends the run with one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(str(error)) from error


@contextmanager
def checking() -> Iterator[None]:
    """Within this block a ValueError, or a file that is not there or not readable, is the configuration's fault."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Within the block, a first SIGINT or SIGTERM is only noted; a second ends the process as it always does.

    Yields a function that returns the number of the signal received, 0 if there was none.
    """
    received = [0]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received[0] = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: received[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
