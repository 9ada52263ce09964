"""The time that a table takes, by what it is spent on, and the compilations of the network."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from models.sampling.draw import Trained

Item = TypeVar("Item")


@dataclass
class Costs:
    """Seconds by what they were spent on, and what the network was compiled for. now: what is being computed."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    compiled: list[str] = field(default_factory=list)
    now: str = ""

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - start

    def each(self, what: str, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; the seconds that it takes to make them are added to those of `what`."""
        while True:
            with self.of(what):
                item = next(items, None)
            if item is None:
                return
            yield item

    def counting(self, net: Trained) -> Trained:
        """The same network, which notes here what it is compiled for: JAX then traces it, some solvers repeatedly."""

        def apply(*arguments: Any) -> Any:
            if self.now not in self.compiled[-1:]:
                self.compiled.append(self.now)
            return net.network.apply(*arguments)

        return net._replace(network=net.network._replace(apply=apply))

    def __str__(self) -> str:
        """Two lines: where the time went, and the compilations."""
        network, features = self.seconds["network"], self.seconds["features"]
        rest = self.seconds["cells"] - network - features
        share = f" ({rest / (network + features):.1%} of these two)" if network else ""
        before = ", ".join(f"{what} {self.seconds[what]:.1f} s" for what in ("setting up", "compiling"))
        compiled = f": {', '.join(self.compiled)}" if self.compiled else ""
        return (
            f"network {network:.1f} s, features {features:.1f} s, all else {rest:.1f} s{share}; before that {before}\n"
            f"network compiled {len(self.compiled)} time(s){compiled}"
        )
