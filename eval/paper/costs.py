"""The time that a table takes, by what it is spent on, and the compilations of the network."""

import time
from collections import defaultdict
from typing import Any

from models.sampling.draw import Trained


class Costs:
    """A stopwatch, and a list of what the network was compiled for. now: what is being computed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.compiled: list[str] = []
        self.now = ""
        self._last = time.perf_counter()

    def lap(self, what: str) -> None:
        """Count the seconds since the last lap, or since the start, as spent on `what`."""
        last, self._last = self._last, time.perf_counter()
        self.seconds[what] += self._last - last

    def counting(self, net: Trained) -> Trained:
        """The same network, which notes here what it is compiled for: JAX then traces it, some solvers repeatedly."""

        def apply(*arguments: Any) -> Any:
            if self.now not in self.compiled[-1:]:
                self.compiled.append(self.now)
            return net.network.apply(*arguments)

        return net._replace(network=net.network._replace(apply=apply))

    def __str__(self) -> str:
        """Two lines: where the time went, and the compilations."""
        spent = ", ".join(f"{what} {self.seconds[what]:.1f} s" for what in ("network", "features", "all else"))
        before = ", ".join(f"{what} {self.seconds[what]:.1f} s" for what in ("setting up", "compiling"))
        compiled = f": {', '.join(self.compiled)}" if self.compiled else ""
        return f"{spent}; before that {before}\nnetwork compiled {len(self.compiled)} time(s){compiled}"
