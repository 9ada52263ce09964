"""Ctrl-C and SIGTERM as a request that the run answers when it has saved."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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
