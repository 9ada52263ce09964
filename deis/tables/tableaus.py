"""Explicit Runge-Kutta methods as data.

A method is its Butcher tableau: `a` [stages, stages] strictly lower triangular, `b` [stages], `c` [stages].
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method. rows: the lower triangle of `a`, from the second stage on; b: [stages]."""

    name: str
    rows: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != list(range(1, self.stages)):
            raise ValueError(
                f"tableau {self.name}: {self.stages} weights need rows of length 1 to {self.stages - 1}, "
                f"got {[len(row) for row in self.rows]}"
            )
        if abs(sum(self.b) - 1) > 1e-12:
            raise ValueError(f"tableau {self.name}: the weights b must sum to 1, got {sum(self.b):g}")

    @property
    def stages(self) -> int:
        """The network evaluations in a step."""
        return len(self.b)

    @property
    def c(self) -> np.ndarray:
        """[stages] where in the step the stages stand: the row sums."""
        return np.array([0.0, *(sum(row) for row in self.rows)])


TABLEAUS = {
    "1euler": Tableau("Euler", (), (1.0,)),
    "2heun": Tableau("Heun", ((1.0,),), (1 / 2, 1 / 2)),
    "3kutta": Tableau("Kutta", ((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),
    "3ral": Tableau("Ralston", ((1 / 2,), (0.0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)),
    "3heun": Tableau("Heun", ((1 / 3,), (0.0, 2 / 3)), (1 / 4, 0.0, 3 / 4)),
    "3vdh": Tableau("vdHouwen", ((8 / 15,), (1 / 4, 5 / 12)), (1 / 4, 0.0, 3 / 4)),
    "3ssprk": Tableau("SSPRK", ((1.0,), (1 / 4, 1 / 4)), (1 / 6, 1 / 6, 2 / 3)),
    "4rk": Tableau("RK", ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""The named methods: forward Euler; Heun; Kutta, Ralston, Heun, van der Houwen/Wray, Shu-Osher SSP (order 3);
classical Runge-Kutta (order 4). Source: Hairer, Norsett & Wanner I, II.1; Shu & Osher 1988."""

MIDPOINT = Tableau("Midpoint", ((1 / 2,),), (0.0, 1.0))
