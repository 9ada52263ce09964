"""The black boxes that fixed-step tables are compared with: DOPRI5 (by diffrax) and DPM-Solver, with error control.

They are not tables. DOPRI5 runs on the same dv/drho = eps, or on the probability-flow ODE in x and t as it stands, in
both directions; diffrax is an optional dependency. Times and sums are float32, or float64 for a float64 state.
"""

from functools import partial
from typing import Any

import numpy as np

from deis.errors import checked, choice, needs, require
from deis.sampler import EpsFn, State, as_partial, cast, eps_of, float_state, scale
from deis.sde import SDE
from deis.sde.timefn import derivative, wide

with needs("jax", "deis.adaptive"):
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

VARIABLES = ("rho", "t")

_MAX_STEPS = 4096
_LAMBDA_LEFT = 1e-5  # distance from the end in log rho at which a solution is complete


@checked
def sample(
    sde: SDE, eps_fn: EpsFn, x_T: State, variable: str = "rho", rtol: float = 1e-5, atol: float = 1e-5
) -> tuple[State, int]:
    """(x_0, network calls) by adaptive Dormand-Prince 5(4) from T down to t_0.

    eps_fn, x_T: as in `deis.sample`. variable: "rho", dv/drho = eps; "t", dx/dt = f x + g^2/(2 sigma) eps, in which
        the linear part is left to the solver (DEIS, arXiv 2204.13902, eq. 4 and figure 5).
    rtol, atol: a step is accepted where the root mean square, over all samples and elements, of its error estimate
        divided by (atol + rtol |state|) is below 1. The whole batch shares its steps, so that its results depend
        (within the tolerance) on what is in it.
    Network calls: 1 to start, and 6 a step, accepted or not.
    Raises ValueError for another variable, if s(T) = 0, or if 4096 steps do not reach the end; ModuleNotFoundError
        without diffrax.
    """
    return _integrate(sde, eps_fn, x_T, variable, sde.T, sde.t_0, rtol, atol)


@checked
def encode(
    sde: SDE, eps_fn: EpsFn, x_0: State, variable: str = "rho", rtol: float = 1e-5, atol: float = 1e-5
) -> tuple[State, int]:
    """(x_T, network calls) by adaptive Dormand-Prince 5(4) from t_0 up to T; arguments and errors are `sample`'s."""
    return _integrate(sde, eps_fn, x_0, variable, sde.t_0, sde.T, rtol, atol)


@checked
def dpm_solver(
    sde: SDE, eps_fn: EpsFn, x_T: State, order: int = 3, rtol: float = 0.05, atol: float = 0.0078
) -> tuple[State, int]:
    """(x_0, network calls) by adaptive DPM-Solver-12 or -23 from T down to t_0 (arXiv 2206.00927, algorithm 5).

    sde: with sigma > 0 at t_0. eps_fn, x_T: as in `deis.sample`. order: of the two, the higher, 2 or 3, which is also
        the network calls of a step, accepted or not.
    rtol, atol: a step is accepted where the root mean square, over all samples and elements, of the difference of both
        orders divided by max(atol, rtol |x|), x before or after it, is at most 1; the higher order is kept.
    Raises ValueError for another order, if s(T) = 0 or sigma(t_0) = 0, or if 4096 steps do not reach the end.
    """
    require(order in (2, 3), f"order must be 2 (DPM-Solver-12) or 3 (DPM-Solver-23), got {order}")
    sde.refuse_noise("the ODE in log rho")
    require(0 <= min(rtol, atol) < np.inf, f"rtol and atol must be 0 or more, got {rtol:g} and {atol:g}")
    require(sde.sigma(sde.t_0) > 0, f"DPM-Solver needs sigma(t_0) > 0, but it is 0 at t_0={sde.t_0:g}; raise t_0")
    x, steps, left = _solve_in_log_rho(as_partial(eps_fn), float_state(x_T), rtol, atol, sde=sde, order=order)
    if not left <= _LAMBDA_LEFT:
        raise ValueError(f"DPM-Solver did not reach t={sde.t_0:g} in {_MAX_STEPS} steps at {rtol=:g}, {atol=:g}")
    return x, order * int(steps)


@partial(jax.jit, static_argnames=("sde", "order"))
def _solve_in_log_rho(eps_fn: EpsFn, x: State, rtol: Any, atol: Any, *, sde: SDE, order: int) -> tuple:
    lam_T, lam_0 = (-float(np.log(sde.rho(t))) for t in (sde.T, sde.t_0))
    flat, unflat = ravel_pytree(jax.tree.map(wide, x))

    def eps(v: jax.Array, rho: jax.Array) -> jax.Array:
        t = sde.t_of_rho(rho)
        return ravel_pytree(eps_of(eps_fn, cast(unflat(sde.s(t) * v), x), t))[0].astype(flat.dtype)

    def step(carry: tuple) -> tuple:
        v, lam, h, steps = carry
        rho = [jnp.exp(-lam - share * h) for share in np.linspace(0, 1, order + 1)]
        e = eps(v, rho[0])
        e_1 = eps(v + (rho[1] - rho[0]) * e, rho[1])
        low = v + (rho[-1] - rho[0]) * (e if order == 2 else 1.5 * e_1 - 0.5 * e)
        if order == 2:
            high = v + (rho[-1] - rho[0]) * e_1
        else:
            slope = -2 * rho[2] * (jnp.expm1(2 * h / 3) / (2 * h / 3) - 1)
            e_2 = eps(v + (rho[2] - rho[0]) * e + slope * (e_1 - e), rho[2])
            high = v + (rho[-1] - rho[0]) * e - 1.5 * rho[-1] * (jnp.expm1(h) / h - 1) * (e_2 - e)
        s, s_next = (sde.s(sde.t_of_rho(at)) for at in (rho[0], rho[-1]))
        tolerance = jnp.maximum(atol, rtol * jnp.maximum(s_next * jnp.abs(low), s * jnp.abs(v)))
        error = jnp.sqrt(jnp.mean((s_next * (high - low) / tolerance) ** 2))
        v, lam = jnp.where(error <= 1, high, v), jnp.where(error <= 1, lam + h, lam)
        return v, lam, jnp.minimum(0.9 * h * error ** (-1 / order), lam_0 - lam), steps + 1

    def goes_on(carry: tuple) -> jax.Array:
        return (lam_0 - carry[1] > _LAMBDA_LEFT) & (carry[3] < _MAX_STEPS)

    lam, h = (jnp.asarray(value, flat.dtype) for value in (lam_T, 0.05))
    v, lam, _, steps = jax.lax.while_loop(goes_on, step, (flat / float(sde.s(sde.T)), lam, h, 0))
    return cast(unflat(float(sde.s(sde.t_0)) * v), x), steps, lam_0 - lam


def _integrate(
    sde: SDE, eps_fn: EpsFn, x: State, variable: str, start: float, stop: float, rtol: float, atol: float
) -> tuple[State, int]:
    choice("variable", variable, VARIABLES)
    sde.refuse_noise("the ODE in x or v")
    require(0 <= min(rtol, atol) < np.inf, f"rtol and atol must be 0 or more, got {rtol:g} and {atol:g}")
    solve = _solve_in_rho if variable == "rho" else _solve_in_t
    x, steps, succeeded = solve(as_partial(eps_fn), float_state(x), rtol, atol, sde=sde, start=start, stop=stop)
    if not succeeded:
        raise ValueError(
            f"DOPRI5 did not reach t={stop:g} from t={start:g} in {_MAX_STEPS} steps at rtol={rtol:g}, atol={atol:g}: "
            f"raise them, or look for NaN in the network's output"
        )
    return x, 6 * int(steps) + 1


@partial(jax.jit, static_argnames=("sde", "start", "stop"))
def _solve_in_rho(eps_fn: EpsFn, x: State, rtol: Any, atol: Any, *, sde: SDE, start: float, stop: float) -> tuple:
    def slope(rho: jax.Array, v: State) -> State:
        t = sde.t_of_rho(rho)
        return eps_of(eps_fn, cast(scale(sde.s(t), v), x), t)

    (s_start, s_stop), (rho_start, rho_stop) = ([float(fn(t)) for t in (start, stop)] for fn in (sde.s, sde.rho))
    v, *stats = _dopri5(slope, jax.tree.map(lambda x: wide(x) / s_start, x), rho_start, rho_stop, rtol, atol)
    return cast(scale(s_stop, v), x), *stats


@partial(jax.jit, static_argnames=("sde", "start", "stop"))
def _solve_in_t(eps_fn: EpsFn, x: State, rtol: Any, atol: Any, *, sde: SDE, start: float, stop: float) -> tuple:
    def slope(t: jax.Array, y: State) -> State:
        linear, weight = derivative(sde.s)(t) / sde.s(t), sde.s(t) * derivative(sde.rho)(t)  # f, g^2 / (2 sigma)
        return jax.tree.map(lambda y, e: linear * y + weight * e, y, eps_of(eps_fn, cast(y, x), t))

    y, *stats = _dopri5(slope, jax.tree.map(wide, x), start, stop, rtol, atol)
    return cast(y, x), *stats


def _dopri5(slope: Any, y: State, start: float, stop: float, rtol: Any, atol: Any) -> tuple:
    """(y at stop, steps tried, whether it got there) of dy/dz = slope(z, y)."""
    with needs("adaptive", "deis.adaptive.sample"):
        import diffrax

    sign = 1.0 if stop > start else -1.0

    def field(z: Any, y: State, _: None) -> State:  # upwards, whichever way the ODE is run
        dy = slope(sign * z, y)
        return jax.tree.map(lambda dy, y: (sign * dy).astype(y.dtype), dy, y)

    z_0, z_1 = jnp.asarray([sign * start, sign * stop], jnp.result_type(*jax.tree.leaves(y)))
    first = field(z_0, y, None)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri5(),
        z_0,
        z_1,
        _first_step(y, first, z_1 - z_0, rtol, atol),
        y,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        # (the first stage is still to be called, the first stage): diffrax would call it again after every refused step
        solver_state=(jnp.array(False), first),
        adjoint=diffrax.ForwardMode(),
        max_steps=_MAX_STEPS,
        throw=False,
    )
    final = jax.tree.map(lambda ys: ys[0], solution.ys)
    return final, solution.stats["num_steps"], solution.result == diffrax.RESULTS.successful


def _first_step(y: State, slope: State, length: jax.Array, rtol: Any, atol: Any) -> jax.Array:
    """A step that moves y by about 1 % (Hairer, Norsett & Wanner I, II.4), at most the whole length."""
    (y, _), (slope, _) = ravel_pytree(y), ravel_pytree(slope)
    tolerance = atol + rtol * jnp.abs(y)
    step = 0.01 * jnp.linalg.norm(y / tolerance) / jnp.linalg.norm(slope / tolerance)
    return jnp.where(step < length, step, length)  # also where it is NaN
