"""Solvers by k-diffusion's calling convention."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deis.errors import checked, needs, require
from deis.k_diffusion.sigmas import is_flow, latent_diffusion, sigmas_of
from deis.sde import SDE
from deis.table import Table
from deis.tables import named_solver

with needs("torch", "deis.k_diffusion"):
    from torch import Tensor, promote_types, randn_like, tensor

    from deis.torch import advance, numbers, rows

Model = Callable[..., Tensor]
NoiseSampler = Callable[[Tensor, Tensor], Tensor]


def sample_tab(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    order: int = 3,
    sde: SDE | None = None,
) -> Tensor:
    """tAB-DEIS, the paper's best. order: the polynomial's degree, 0 to 6. The rest is that of `sample_table`."""
    return sample_table(
        model, x, sigmas, extra_args, callback, disable, method="t_ab", options={"order": order}, sde=sde
    )


@checked
def sample_table(
    model: Model,
    x: Tensor,
    sigmas: Tensor | Sequence[float],
    extra_args: Mapping[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    disable: bool | None = None,
    *,
    method: str = "t_ab",
    options: Mapping[str, Any] | None = None,
    table: Table | str | Path | None = None,
    sde: SDE | None = None,
    noise_sampler: NoiseSampler | None = None,
) -> Tensor:
    """Run a solver of `deis.tables`, or a given table, from x [batch, ...] at the noise level sigmas[0].

    model(x, sigma, **extra_args): the denoiser, asked with sigma [batch].
    sigmas: [N+1] decreasing noise levels, each a step's end; the last may be 0.
    callback: called after every network call with x, i, sigma, sigma_hat and denoised.
    disable: there is no progress bar to disable.
    method, options: a name of `deis.tables.METHODS`, or of the paper as "tab3", and that function's own options.
    table: a table, or the file of one, instead; `sigmas` must be those of `sigmas_of`.
    sde: the diffusion in whose time tAB's polynomials live, and that a table was made for; `latent_diffusion` unless
        given. `deis.flow()` for models of flow matching. `deis.edm()` has sigma as time, with which a step to sigma = 0
        is one like the others for the methods that have such steps.
    noise_sampler(sigma, sigma_next): the standard normal noise of stochastic tables; torch's own unless given.
    Sums are float32, or float64 for a float64 x.
    Raises ValueError for an integer x, sigmas that do not decrease or are not the table's, unknown names, and answers
        of the model in another shape than x.
    """
    require(x.is_floating_point(), f"x must be floating point, got {x.dtype}")
    levels, sde = numbers(sigmas), latent_diffusion() if sde is None else sde
    flow, has_method = is_flow(sde), method != "t_ab" or options
    require(table is None or not has_method, "give a table, or a method with its options, not both")
    if table is None:
        table = _built(sde, levels, method, options or {})
    else:
        table = table if isinstance(table, Table) else Table.load(table)
        table.require_sde(sde)
        expected = sigmas_of(table, sde).numpy()
        if levels.shape != expected.shape or not np.allclose(levels, expected, rtol=1e-4):
            raise ValueError(f"the table {table.name} has its own noise levels: give sigmas=sigmas_of(table, sde)")
    t = table.t[:-1]
    s, rho = sde.evaluation(t)
    told = (sde.sigma(t) if flow else rho).tolist()
    # x of the model is s v under flow matching and v elsewhere; the time of a learned table is not quite its node's
    scale = (table.s[:-1] if flow else table.s[:-1] / s).tolist()
    divide = ((s if flow else np.ones_like(s)).tolist(), rho.tolist())

    wide = promote_types(x.dtype, tensor(0.0).dtype)
    noise_sampler = noise_sampler or (lambda sigma, sigma_next: randn_like(x))
    sigma = [x.new_full((), level) for level in (*told, levels.item(-1))]  # filled on the device, not copied to it
    u = v = x.to(wide) / scale[0]
    history: list[Tensor] = []
    for i, row in enumerate(rows(table)):
        point = (scale[i] * u).to(x.dtype)
        denoised = model(point, sigma[i] * x.new_ones(x.shape[0]), **(extra_args or {}))
        if denoised.shape != x.shape:
            raise ValueError(f"model must answer in the shape of x, {tuple(x.shape)}, got {tuple(denoised.shape)}")
        if callback is not None:
            callback({"x": point, "i": i, "sigma": sigma[i], "sigma_hat": sigma[i], "denoised": denoised})
        e = (point.to(wide) / divide[0][i] - denoised.to(wide)) / divide[1][i]
        z = noise_sampler(sigma[i], sigma[i + 1]).to(wide) if row.adds_noise else None
        u, v, history = advance(row, u, v, history, e, z)
    return (u * table.s.item(-1) if flow else u).to(x.dtype)


def _built(sde: SDE, levels: np.ndarray, method: str, options: Mapping[str, Any]) -> Table:
    """The method's table on the noise levels; a diffusion whose time at sigma = 0 is finite has a node there."""
    if levels.ndim != 1 or len(levels) < 2 or not np.all(np.diff(levels) < 0) or levels[-1] < 0:
        raise ValueError(f"sigmas must be a vector of at least 2 noise levels that decrease to 0, got {levels}")
    flow = is_flow(sde)
    require(not flow or levels[0] <= 1, f"sigmas of flow matching must begin at 1 or below, got {levels[0]:g}")
    with np.errstate(divide="ignore", invalid="ignore"):
        ts = np.asarray(sde.t_of_rho(levels / (1 - levels) if flow else levels), np.float64)
    denoise = bool(np.isinf(ts[-1]))
    ts = ts[:-1] if denoise else ts
    sde = replace(sde, t_0=min(sde.t_0, float(ts[-1])), T=max(sde.T, float(ts[0])))
    return named_solver(method, options)(sde, ts, denoise)
