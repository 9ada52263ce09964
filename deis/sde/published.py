"""The diffusions of the code published with DEIS, by the calls that it has."""

from deis.sde.continuous import vp_cosine, vp_linear
from deis.sde.kernel import SDE
from deis.sde.timefn import TimeFn


def VPSDE(t2alpha_fn: TimeFn, alpha2t_fn: TimeFn, sampling_eps: float, sampling_T: float) -> SDE:
    """Variance preserving from any alpha_bar(t) and its inverse (the published call).

    The functions may be written with NumPy, jax.numpy or torch. Coefficients come out in float64 all the same,
    but 1 - alpha_bar loses digits where alpha_bar is close to 1; `vp_linear` and `vp_cosine` do not.
    """
    return SDE(
        s=lambda t: t2alpha_fn(t) ** 0.5,
        sigma=lambda t: (1 - t2alpha_fn(t)) ** 0.5,
        t_of_rho=lambda rho: alpha2t_fn(1 / (1 + rho * rho)),
        t_0=sampling_eps,
        T=sampling_T,
    )


def get_linear_alpha_fns(beta_0: float, beta_1: float) -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the linear VP schedule and its inverse (the published call)."""
    return _alpha_fns(vp_linear(beta_0, beta_1))


def get_cos_alpha_fns() -> tuple[TimeFn, TimeFn]:
    """alpha_bar(t) of the cosine VP schedule and its inverse (the published call).

    As in Nichol & Dhariwal, arXiv 2102.09672, eq. 17, alpha_bar is divided by its value at 0, so that it is 1 there.
    The code published with DEIS leaves that out: give `VPSDE` its alpha_bar(t) = cos((t + 0.008) / 1.008 pi/2)^2 and
    the inverse of that.
    """
    return _alpha_fns(vp_cosine())


def _alpha_fns(sde: SDE) -> tuple[TimeFn, TimeFn]:
    return (lambda t: sde.s(t) ** 2), (lambda alpha_bar: sde.t_of_rho(((1 - alpha_bar) / alpha_bar) ** 0.5))
