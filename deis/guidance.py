"""Rules of guidance: how the eps that is wanted and the eps to move away from become the one that a solver sees.

A rule is a function (x, t, good, bad, weight) -> eps, of arrays [batch, ...] shaped like x, and of a weight that is 1
for no guidance; JAX and torch alike. `deis.wrappers.classifier_free_guidance` and `autoguidance` say where the two eps
come from. Any rule goes with either, with an `interval`, and with clipping or thresholding of what it answers.
"""

import math
from collections.abc import Callable
from typing import Any, SupportsFloat

from deis.errors import checked, require, rises, within
from deis.sde import SDE
from deis.sde.timefn import TimeFn, array_library, wide

Rule = Callable[[Any, Any, Any, Any, Any], Any]


def linear(x: Any, t: Any, good: Any, bad: Any, weight: Any) -> Any:
    """The plain rule bad + weight (good - bad), which is `good` to the last bit where the weight is 1."""
    return good + (weight - 1) * (good - bad)


@checked
def interval(sde: SDE, weight: SupportsFloat, low: SupportsFloat, high: SupportsFloat) -> TimeFn:
    """A weight that depends on the time: `weight` at noise levels low < rho(t) <= high, and 1, no guidance, elsewhere.

    This is guidance in a limited interval (Kynkäänniemi et al., arXiv 2404.07724), whose noise level is that of
    x / s(t), rho = sigma / s.
    """
    rises(low, high)

    def at(t: Any) -> Any:
        s, sigma = sde.s(t), sde.sigma(t)  # not divided by s, which may be 0 at the start; high may be infinite
        return array_library(t).where((low * s < sigma) & (sigma / high <= s), weight, 1.0)

    return at


@checked
def projected(sde: SDE, parallel: SupportsFloat = 0.0, max_norm: SupportsFloat | None = None) -> Rule:
    """Adaptive projected guidance, APG (Sadat et al., arXiv 2410.02416), without momentum.

    What guidance adds to the predicted x_0 is shortened to the norm `max_norm` where it is longer (None: never), and
    its part parallel to that prediction, which saturates images, counts `parallel` times: 0 in the paper, 1 as in
    `linear`. Norms are those of a whole sample. The paper's momentum over earlier calls is left out: eps would no
    longer be a function of (x, t), which solvers of any order rely on. Raises ValueError for a max_norm that is not
    positive.
    """
    if isinstance(max_norm, float | int):
        require(max_norm > 0, f"max_norm must be positive, got {max_norm:g}; None shortens nothing")

    def rule(x: Any, t: Any, good: Any, bad: Any, weight: Any) -> Any:
        s, rho = sde.evaluation(t)
        x_0, added = wide(x / s - rho * good), wide(good - bad)  # the difference of two predicted x_0 is -rho added
        if max_norm is not None:
            added = added * (max_norm / (rho * _sum(added**2) ** 0.5).clip(max_norm))
        along = _sum(added * x_0) / _sum(x_0**2).clip(1e-30) * x_0
        return good + (weight - 1) * (added - (1 - parallel) * along)  # type: ignore[operator]

    return rule


@checked
def rescaled(sde: SDE, share: SupportsFloat = 0.7, rule: Rule = linear) -> Rule:
    """`rule`, its answer brought back to the standard deviation that the prediction has without guidance.

    Lin et al., arXiv 2305.08891, eq. 15 and 16, where the network predicts v = s eps - sigma x_0; any other network's
    eps is seen as such a v. share: phi of the paper, 0 leaves the rule as it is, 1 brings it back wholly. The standard
    deviation is that of a whole sample. Raises ValueError for a share outside [0, 1].
    """
    within("share", share, 0, 1)

    def of_rule(x: Any, t: Any, good: Any, bad: Any, weight: Any) -> Any:
        s, sigma = sde.s(t), sde.sigma(t)
        rest = sigma / (s**2 + sigma**2) * x  # eps is this and a multiple of v, and so is the eps of s = 0
        v, guided = wide(good - rest), wide(rule(x, t, good, bad, weight) - rest)
        return rest + guided * (1 + share * (_std(v) / _std(guided) - 1))

    return of_rule


def _sum(x: Any) -> Any:
    """The sum over each sample, shaped to multiply samples."""
    return x.reshape(x.shape[0], -1).sum(1).reshape(-1, *[1] * (x.ndim - 1))


def _std(x: Any) -> Any:
    """The standard deviation of each sample's elements, shaped to multiply samples."""
    count = math.prod(x.shape[1:])
    return (_sum((x - _sum(x) / count) ** 2) / count) ** 0.5
