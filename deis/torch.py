"""The same tables run by a plain loop on torch tensors, on any device. JAX is not needed.

sampler_fn = deis.torch.get_sampler(sde, eps_fn, method="t_ab", ab_order=3, num_step=10)
with torch.no_grad():
    x_0 = sampler_fn(noise)
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from deis import tables
from deis.errors import checked, needs
from deis.sde import SDE
from deis.table import Table

with needs("torch", "deis.torch"):
    import torch
    from torch import Generator, Tensor

EpsFn = Callable[[Tensor, Tensor], Tensor]
Noise: TypeAlias = Sequence[Generator] | Tensor


@checked
def get_sampler(
    sde: SDE,
    eps_fn: EpsFn,
    ts_phase: str = "t",
    ts_order: float = 2.0,
    num_step: int = 10,
    method: str = "t_ab",
    ab_order: int = 3,
    rk_method: str = "3kutta",
    **options: Any,
) -> Callable[..., Tensor]:
    """A function from noise x_T to samples x_0, by the named solver and schedule (the published call).

    eps_fn(x, t): the network's eps prediction at x, shaped like x, for a 0-dimensional tensor t in the SDE's units.
    num_step: steps, each of which costs one network call, or as many as `rk_method` has stages.
    The other arguments are those of `deis.tables.build`.
    """
    table = tables.build(sde, ts_phase, ts_order, num_step, method, ab_order, rk_method, **options)
    return partial(sample, table, eps_fn)


def sample(table: Table, eps_fn: EpsFn, x_T: Tensor, noise: Noise | None = None, check_finite: bool = True) -> Tensor:
    """Run `table` from x_T [batch, ...]; returns the samples, in its shape, dtype, device and memory format.

    The network is called in the dtype of x_T; times and sums are float32, or float64 for a float64 state.
    eps_fn: as in `get_sampler`. Gradients flow through the loop: call under `torch.no_grad()` where none are wanted.
    noise: for stochastic tables, one torch.Generator a sample, so that a sample does not depend on its batch,
        or the standard normal noise itself, [nfe, batch, ...].
    check_finite: look, after the last call, whether every eps was finite. Without it nothing waits for the device, so
        that the loop can be captured in a CUDA graph; within `torch.compile`, which takes the loop as one graph, it is
        left out.
    Raises ValueError for an integer x_T, a stochastic table without noise, noise of another length or shape, an eps
    of another shape than x, or one that is not finite.
    """
    check_finite = check_finite and not torch.compiler.is_compiling()
    finite = []
    for x, e in _evaluations(table, eps_fn, x_T, noise):
        if check_finite:
            finite.append(torch.isfinite(x if e is None else e).all())
    if check_finite:
        _refuse_infinite(table, x_T, torch.stack(finite).tolist())  # the only wait for the device
    return x


def trajectory(table: Table, eps_fn: EpsFn, x_T: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
    """Run `table` from x_T and keep everything: (x_t [nfe+1, batch, ...], predicted x_0 [nfe, batch, ...]).

    Arguments and errors are those of `sample`, except that an eps which is not finite is kept, to be looked at.
    """
    *kept, (samples, _) = _evaluations(table, eps_fn, x_T, noise)
    x_t = torch.stack([*(x for x, _ in kept), samples])
    x_0 = torch.stack([x / table.s.item(i) - table.rho.item(i) * e for i, (x, e) in enumerate(kept)])
    return x_t, x_0.to(x_T.dtype)


class Row(NamedTuple):
    """A row of a table as Python numbers.

    t, s: time and signal scale of the evaluation. s_next: signal scale of the next one, or of the result.
    keep: (a, b), weights of u and eps in the history.
    to_u, to_v: weights of (v, noise, *history) in the next evaluation point and the next accepted state.
    """

    t: float
    s: float
    s_next: float
    keep: tuple[float, float]
    to_u: tuple[float, ...]
    to_v: tuple[float, ...]

    @property
    def adds_noise(self) -> bool:
        return self.to_u[1] != 0


def numbers(given: Tensor | Sequence[float]) -> np.ndarray:
    """Numbers in float64, which not every device that they may be on has."""
    return np.asarray(given.detach().cpu().double() if isinstance(given, Tensor) else given, np.float64)


@torch.compiler.assume_constant_result
def rows(table: Table) -> list[Row]:
    """The table's rows, one a network call. Compiled code takes their numbers as constants."""
    t, s, a, b, p, q, P, Q, g = (
        getattr(table, name).tolist() for name in ("t", "s", "a", "b", "p", "q", "P", "Q", "g")
    )
    return [Row(t[i], s[i], s[i + 1], (a[i], b[i]), (p[i], g[i], *P[i]), (q[i], g[i], *Q[i])) for i in range(table.nfe)]


def advance(
    row: Row, u: Tensor, v: Tensor, history: Sequence[Tensor], e: Tensor, z: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """(u, v, history) after a row, whose equations are in `deis.table`.

    history: what was kept so far, newest first. e: eps at u. z: standard normal noise, None where the row adds none.
    """
    history = [_combine(row.keep, (u, e)), *history][: len(row.to_u) - 2]
    u = _combine(row.to_u, (v, z, *history))
    return u, u if row.to_v == row.to_u else _combine(row.to_v, (v, z, *history)), history


def _evaluations(table: Table, eps_fn: EpsFn, x_T: Tensor, noise: Noise | None) -> Iterator[tuple[Tensor, Any]]:
    """(x_i, eps_i) of every evaluation, and last (samples, None)."""
    given: Any = {"table": (table, Table), "eps_fn": (eps_fn, Callable), "x_T": (x_T, Tensor)}
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            raise ValueError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    steps = rows(table)
    if not x_T.is_floating_point():
        raise ValueError(f"x_T must be floating point, got {x_T.dtype}; use torch.randn")
    if any(row.adds_noise for row in steps):
        _check_noise(table, x_T, noise)
    wide = torch.promote_types(x_T.dtype, torch.float32)
    u = v = x_T.to(wide) / steps[0].s
    history: list[Tensor] = []
    for i, row in enumerate(steps):
        x = (row.s * u).to(x_T.dtype)
        e = eps_fn(x, x.new_full((), row.t, dtype=wide))  # filled on the device, not copied to it
        if not isinstance(e, Tensor) or e.shape != x.shape:
            got = tuple(e.shape) if isinstance(e, Tensor) else type(e).__name__
            raise ValueError(f"eps_fn must answer in the shape of x, {tuple(x.shape)}, got {got}")
        e = e.to(wide, copy=True)  # a network may answer in the same memory every time, as a CUDA graph does
        yield x, e
        z = _noise(noise, i, u) if row.adds_noise else None
        u, v, history = advance(row, u, v, history, e, z)
    yield (steps[-1].s_next * u).to(x_T.dtype), None


def _combine(weights: Sequence[float], states: Sequence[Tensor | None]) -> Tensor:
    """sum_k weights_k states_k, without the terms of weight 0; weights beyond the last state are 0.

    The first state is one.
    """
    terms = [(w, x) for w, x in zip(weights, states, strict=False) if w and x is not None]
    if not terms:
        return torch.zeros_like(states[0])
    (w, total), *rest = terms
    total = total if w == 1 else w * total
    for w, x in rest:
        total = torch.add(total, x, alpha=w)
    return total


def _refuse_infinite(table: Table, x_T: Tensor, finite: list[bool]) -> None:
    """Raise ValueError if an eps or, last, the samples are not `finite`."""
    if all(finite):
        return
    if not torch.isfinite(x_T).all():
        raise ValueError("x_T holds NaN or infinite values")
    i = min(finite.index(False), table.nfe - 1)
    raise ValueError(
        f"{table.name}: eps_fn gave NaN or infinite values in evaluation {i + 1} of {table.nfe}, at t={table.t[i]:g}"
    )


def _noise(noise: Noise | None, i: int, like: Tensor) -> Tensor:
    """Standard normal noise of evaluation i, each sample's from its own generator, on the generator's device."""
    if isinstance(noise, Tensor):
        return noise[i]
    draws = [torch.randn(like.shape[1:], generator=g, device=g.device, dtype=like.dtype) for g in noise or ()]
    return torch.stack(draws).to(like.device)


def _check_noise(table: Table, x_T: Tensor, noise: Noise | None) -> None:
    if noise is None:
        raise ValueError(
            f"{table.name} adds noise: pass noise=[torch.Generator().manual_seed(i) for i in range(batch)]"
        )
    if isinstance(noise, Tensor):
        expected = (table.nfe, *x_T.shape)
        if noise.shape != expected:
            raise ValueError(f"noise must have shape [nfe, batch, ...] = {expected}, got {tuple(noise.shape)}")
    elif not isinstance(noise, list | tuple) or [type(g) for g in noise] != [Generator] * len(x_T):
        raise ValueError(f"noise must be one torch.Generator for each of the {len(x_T)} samples, or a tensor")
