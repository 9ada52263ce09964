"""The stochastic tables, by the order with which they approach the lambda-SDE."""

from collections.abc import Callable
from functools import partial

from deis import tables

from . import noise

GAUSSIAN = noise.Gaussian(variance=0.25)

LAMBDAS = (0.3, 1.0)


def first_order(lam: float) -> dict[str, Callable]:
    """Tables that approach the lambda-SDE with order 1."""
    ddpm: dict[str, Callable] = {"ddpm": tables.ddpm, "ddpm large": partial(tables.ddpm, variance="large")}
    family: dict[str, Callable] = {
        "ddim_eta": partial(tables.ddim_eta, eta=lam),
        "t_ab_sde 0": partial(tables.t_ab_sde, order=0, lam=lam),
    }
    return family | ddpm if lam == 1 else family


def second_order(lam: float) -> dict[str, Callable]:
    """Tables that approach it with order 2."""
    dpm_solver: dict[str, Callable] = {
        f"dpm_solver_pp_sde {variant}": partial(tables.dpm_solver_pp_sde, eta=lam**2, variant=variant)
        for variant in ("midpoint", "heun")
    }
    return dpm_solver | {f"t_ab_sde {order}": partial(tables.t_ab_sde, order=order, lam=lam) for order in (1, 2, 3)}


def optimal(eta: float) -> Callable:
    """Analytic-DDIM for GAUSSIAN and its perfect network, E|eps|^2 / d = rho^2 / (variance + rho^2)."""

    def build(sde, ts, **options):
        rho = sde.rho(ts)
        return tables.analytic_ddim(sde, ts, rho**2 / (GAUSSIAN.variance + rho**2), eta, **options)

    return build


BUILDERS = {
    f"{name}, {lam}": build for lam in LAMBDAS for name, build in (first_order(lam) | second_order(lam)).items()
} | {"analytic 0": optimal(0.0), "analytic 1": optimal(1.0)}
