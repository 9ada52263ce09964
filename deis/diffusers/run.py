"""A run of a table where someone else calls the network."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Generator, Tensor

from deis.sde import SDE
from deis.table import Table
from deis.torch import Row, advance, rows
from deis.wrappers import prediction_weights


class Run:
    """The state of a run: what `deis.torch.sample` keeps from one network call to the next.

    prediction: what the network predicts, a name in `deis.wrappers.PREDICTIONS`.
    bound: applied to the predicted x_0 at every call, as clipping is; None leaves it as it is.
    """

    def __init__(self, table: Table, sde: SDE, prediction: str, bound: Callable[[Tensor], Tensor] | None = None):
        self.rows, self.calls = rows(table), 0
        self._bound = bound
        self._u = self._v = None
        self._history: list[Tensor] = []
        t = table.t[:-1]
        weights = (*prediction_weights(sde, prediction, *sde.marginal(t)), *sde.evaluation(t))
        self._weights = np.stack(np.broadcast_arrays(*weights), axis=1).tolist()

    def step(self, output: Tensor, sample: Tensor, generator: Generator | list[Generator] | None) -> Tensor:
        """x_t at the next network call, or at last the result, from the network's output at `sample`.

        A sample that is not what the last step answered, as in inpainting, moves the whole state by the difference.
        """
        row = self.rows[self.calls]
        u, v = self._state(row, sample)
        e = self._eps(u.dtype, output, sample)
        z = randn_tensor(u.shape, generator, u.device, u.dtype) if row.adds_noise else None
        self._u, self._v, self._history = advance(row, u, v, self._history, e, z)
        self.calls += 1
        return (row.s_next * self._u).to(sample.dtype)

    def _state(self, row: Row, sample: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) at a row."""
        wide = torch.promote_types(sample.dtype, torch.float32)
        if self._u is None or self._v is None:
            u = sample.to(wide) / row.s
            return u, u
        answered = (row.s * self._u).to(sample.dtype)
        moved = (sample.to(wide) - answered.to(wide)) / row.s  # exactly 0 where nothing was done
        u = self._u + moved
        return u, u if self._v is self._u else self._v + moved

    def _eps(self, wide: torch.dtype, output: Tensor, sample: Tensor) -> Tensor:
        of_x, of_output, s, rho = self._weights[self.calls]
        x, e = sample.to(wide), of_output * output.to(wide)
        if of_x:
            e = torch.add(e, x, alpha=of_x)
        if self._bound is None or rho == 0:
            return e
        x_0 = torch.sub(x / s, e, alpha=rho)
        return torch.add(e, x_0 - self._bound(x_0), alpha=1 / rho)
