"""The solver to begin with at a number of network calls, where nothing is known of the network."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from deis.errors import checked
from deis.schedule import known_times, timesteps
from deis.sde import SDE
from deis.table import Table
from deis.tables.adams_bashforth import ipndm, log_rho_ab, t_ab
from deis.tables.unipc import unipc


class Recommendation(NamedTuple):
    """A solver of one network call a step, and its grid, for numbers of calls up to `most_calls`."""

    most_calls: float
    solver: Callable[..., Table]
    ts_phase: str
    ts_order: float


_ALWAYS = float("inf")
_MANY_CALLS = Recommendation(_ALWAYS, partial(log_rho_ab, order=4, corrector=True), "log", 1.0)

RECOMMENDATIONS: dict[str, tuple[Recommendation, ...]] = {
    "signal and noise": (
        Recommendation(6, partial(unipc, order=3), "t", 2.0),
        Recommendation(16, partial(ipndm, order=3), "t", 2.0),
        Recommendation(44, partial(unipc, order=3), "t", 3.0),
        _MANY_CALLS,
    ),
    "constant signal": (
        Recommendation(14, partial(t_ab, order=3), "rho", 20.0),
        Recommendation(29, partial(log_rho_ab, order=4), "log", 1.0),
        _MANY_CALLS,
    ),
    "pure noise at T": (
        Recommendation(12, partial(t_ab, order=2, corrector=True, lower_order_final=True), "t", 2.0),
        Recommendation(_ALWAYS, partial(t_ab, order=3, corrector=True), "t", 2.0),
    ),
}
"""The recommendations by kind of diffusion, fewest calls first: `kind` says which a diffusion is."""


def kind(sde: SDE) -> str:
    """The name in RECOMMENDATIONS: VP and its like, VE and EDM's, or flow models and zero terminal SNR."""
    first, last = float(sde.s(sde.T)), float(sde.s(sde.t_0))
    if first == 0:
        return "pure noise at T"
    return "constant signal" if first == last else "signal and noise"


@checked
def recommended(sde: SDE, nfe: int) -> Table:
    """The table of `nfe` network calls to begin with where nothing is known of the network.

    It is chosen by the kind of the diffusion and the number of calls: it has about the least error over problems whose
    answer is known exactly, and for VP at up to 6 calls low FIDs of networks at the price of some error;
    `docs/solvers.md` has both. What `deis.choose` finds for a network is nearer to that network's exact solution.
    For a `DiscreteVPSDE` the nodes are whole times. Raises ValueError as `deis.timesteps` does.
    """
    _, solver, phase, order = next(one for one in RECOMMENDATIONS[kind(sde)] if nfe <= one.most_calls)
    return solver(sde, known_times(sde, timesteps(sde, nfe, phase, order)))
