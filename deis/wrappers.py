"""Networks of every kind as `eps_fn(x, t)`, and what may be done to eps on its way to a solver.

Every function here takes a network and returns an eps_fn; no solver knows of them. They are arithmetic on
x [batch, ...] at a scalar time t in the SDE's units, for JAX and torch arrays alike. With JAX, wrap inside the
function that takes the parameters, so that these stay arguments of the compiled loop:

    def eps_fn(params, x, t):
        return clip_x_0(sde, from_prediction(sde, partial(apply, params), "v"))(x, t)

    x_0 = deis.sample(table, jax.tree_util.Partial(eps_fn, params), x_T)
"""

from collections.abc import Callable
from functools import partial
from typing import Any, SupportsFloat

from deis.errors import checked, choice, require, rises
from deis.guidance import Rule, linear
from deis.sde import SDE
from deis.sde.timefn import TimeFn, array_library, wide

Network = Callable[[Any, Any], Any]  # (x [batch, ...], scalar t) -> an array shaped like x
EpsFn = Network

PREDICTIONS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "eps": lambda s, sigma: (0.0, 1.0),
    "x_0": lambda s, sigma: (1 / sigma, -s / sigma),
    "v": lambda s, sigma: (sigma / (s**2 + sigma**2), s / (s**2 + sigma**2)),
    "score": lambda s, sigma: (0.0, -sigma),
    "flow": lambda s, sigma: (1 / (s + sigma), s / (s + sigma)),
}
"""What a network predicts: the weights (a, b) in eps = a x + b network(x, t), from x = s x_0 + sigma eps.

v = s eps - sigma x_0 (Salimans & Ho, arXiv 2202.00512, appendix D), score = -eps / sigma, and
flow = eps - x_0 (Lipman et al., arXiv 2210.02747; Liu et al., arXiv 2209.03003).
"""

AT_NOISE: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "x_0": lambda sigma: (1 / sigma, -1.0),
    "v": lambda sigma: (1 / sigma, 1 / sigma),
    "flow": lambda sigma: (0.0, 1.0),
}
"""The same weights where s = 0, for e = x / sigma - x_0 (`deis.sde.kernel`); eps and score do not know x_0 there."""


@checked
def prediction_weights(sde: SDE, prediction: str, s: Any, sigma: Any) -> tuple[Any, Any]:
    """(a, b) in eps = a x + b network(x, t) for s and sigma at t: those of PREDICTIONS, and of AT_NOISE where s = 0.

    Raises ValueError for an unknown prediction, or one that is not in AT_NOISE if s(T) = 0.
    """
    _check_prediction(sde, prediction)
    weights = PREDICTIONS[prediction](s, sigma)
    if not sde.starts_at_noise:
        return weights
    a, b = (array_library(s).where(s == 0, *pair) for pair in zip(AT_NOISE[prediction](sigma), weights, strict=True))
    return a, b


@checked
def from_prediction(sde: SDE, network: Network, prediction: str) -> EpsFn:
    """eps from a network that predicts `prediction`, a name in PREDICTIONS, or of AT_NOISE if s(T) = 0.

    Raises ValueError for any other.
    """
    _check_prediction(sde, prediction)

    def eps_fn(x: Any, t: Any) -> Any:
        a, b = prediction_weights(sde, prediction, sde.s(t), sde.sigma(t))
        return a * x + b * network(x, t)

    return eps_fn


def _check_prediction(sde: SDE, prediction: str) -> None:
    choice("prediction", prediction, PREDICTIONS)
    if prediction not in AT_NOISE:
        sde.refuse_noise(f"a prediction of {prediction}, unlike {', '.join(AT_NOISE)},")


@checked
def from_edm(sde: SDE, denoise: Network) -> EpsFn:
    """eps from an EDM-preconditioned network D(x_0 + rho eps, rho), which answers x_0 (arXiv 2206.00364, eq. 7).

    Under any SDE, x / s(t) is what D was trained on at the noise level rho(t). Raises ValueError if s(T) = 0.
    """
    sde.refuse_noise("a network of finite noise levels")

    def eps_fn(x: Any, t: Any) -> Any:
        v, rho = x / sde.s(t), sde.rho(t)
        return (v - denoise(v, rho)) / rho

    return eps_fn


@checked
def discrete_time(network: Network, num_times: int, index: TimeFn = lambda t: t) -> EpsFn:
    """A network of integer times 0 .. num_times - 1, called at the one nearest to index(t) (int32 scalar).

    index: the time of the network at the SDE's time t; the identity for a `DiscreteVPSDE`,
        `lambda t: 1000 * t - 1` for a model of times 1/1000, ..., 1 as 0, ..., 999.
    """
    require(num_times >= 1, f"num_times must be at least 1, got {num_times}")

    def eps_fn(x: Any, t: Any) -> Any:
        xp = array_library(t)
        nearest = xp.clip(xp.round(index(t)), 0, num_times - 1)
        return network(x, xp.asarray(nearest, dtype=xp.int32))

    return eps_fn


@checked
def classifier_free_guidance(
    network: Callable[[Any, Any, Any], Any],
    condition: Any,
    null: Any,
    weight: SupportsFloat | TimeFn,
    rule: Rule = linear,
) -> EpsFn:
    """eps(null) + weight (eps(condition) - eps(null)), both from one call with twice the batch.

    network(x, t, condition): eps, where condition is an array [batch, ...] such as labels or embeddings.
    null: the condition that stands for none, in the shape and dtype of `condition`.
    weight: 0 unconditional, 1 conditional, above 1 guided; it is 1 + w of Ho & Salimans (arXiv 2207.12598, eq. 6). Or a
        function of the time, as `deis.guidance.interval`.
    rule: how the two become one, of `deis.guidance`.
    """

    def eps_fn(x: Any, t: Any) -> Any:
        # the two stand side by side, not one batch behind the other: a batch that is laid over devices stays put
        both = network(_pairs(x, x), t, _pairs(null, condition))
        both = both.reshape(x.shape[0], 2, *x.shape[1:])
        return rule(x, t, both[:, 1], both[:, 0], weight(t) if callable(weight) else weight)

    return eps_fn


@checked
def autoguidance(eps_fn: EpsFn, worse: EpsFn, weight: SupportsFloat | TimeFn, rule: Rule = linear) -> EpsFn:
    """worse + weight (eps - worse): away from a worse network for the same images (Karras et al., arXiv 2406.02507).

    worse: eps of a smaller or less trained network of the same images, diffusion and condition.
    weight, rule: as in `classifier_free_guidance`.
    """
    return lambda x, t: rule(x, t, eps_fn(x, t), worse(x, t), weight(t) if callable(weight) else weight)


@checked
def classifier_guidance(sde: SDE, eps_fn: EpsFn, gradient: Network, weight: SupportsFloat = 1.0) -> EpsFn:
    """eps - weight sigma(t) grad_x log p(y | x, t) (Dhariwal & Nichol, arXiv 2105.05233, eq. 14).

    gradient(x, t): grad_x of the classifier's log p(y | x, t), shaped like x; in JAX
        `jax.grad(lambda x: log_p(x, t).sum())(x)`. Raises ValueError if s(T) = 0.
    """
    sde.refuse_noise("the gradient of a classifier")
    return lambda x, t: eps_fn(x, t) - weight * sde.sigma(t) * gradient(x, t)


@checked
def with_x_0(sde: SDE, eps_fn: EpsFn, change: Callable[[Any], Any]) -> EpsFn:
    """The eps whose predicted x_0 is change(x_0), for x_0 = (x - sigma eps) / s. Evaluations need sigma(t) > 0."""

    def changed(x: Any, t: Any) -> Any:
        e, (s, rho) = eps_fn(x, t), sde.evaluation(t)
        x_0 = x / s - rho * e
        return e + (x_0 - change(x_0)) / rho  # where nothing changes, eps stays as it is to the last bit

    return changed


@checked
def clip_x_0(sde: SDE, eps_fn: EpsFn, low: SupportsFloat = -1.0, high: SupportsFloat = 1.0) -> EpsFn:
    """Static clipping of the predicted x_0 to [low, high]. Raises ValueError unless low lies below high."""
    rises(low, high)
    return with_x_0(sde, eps_fn, lambda x_0: x_0.clip(low, high))


def threshold_x_0(sde: SDE, eps_fn: EpsFn, percentile: SupportsFloat = 99.5, bound: SupportsFloat = 1.0) -> EpsFn:
    """Dynamic thresholding of the predicted x_0 (Imagen, arXiv 2205.11487, section 2.3).

    Each sample is clipped to the given percentile of its own |x_0|, and scaled to [-bound, bound],
    where that percentile exceeds `bound`; elsewhere it is clipped to [-bound, bound]. Raises ValueError unless the
    percentile is above 1 and at most 100.
    """
    return with_x_0(sde, eps_fn, thresholded(percentile, bound))


@checked
def thresholded(percentile: SupportsFloat, bound: SupportsFloat = 1.0, most: Any = None) -> Callable[[Any], Any]:
    """The change of x_0 that is made by `threshold_x_0`, with percentiles of |x_0| above `most` taken as it."""
    if isinstance(percentile, float | int):
        require(1 < percentile <= 100, f"percentile must be above 1 and at most 100, as 99.5, got {percentile:g}")

    return partial(_thresholded, percentile, bound, most)


def _thresholded(percentile: Any, bound: Any, most: Any, x_0: Any) -> Any:
    xp, size = array_library(x_0), wide(abs(x_0)).reshape(x_0.shape[0], -1)  # torch has no quantile in half
    limit = xp.quantile(size, percentile / 100, axis=1).clip(bound, most).reshape(-1, *[1] * (x_0.ndim - 1))
    return xp.asarray(x_0.clip(-limit, limit) * (bound / limit), dtype=x_0.dtype)


def inpaint(sde: SDE, eps_fn: EpsFn, known: Any, mask: Any) -> EpsFn:
    """Fill in the pixels that are not known, by replacing the known part of the predicted x_0.

    This is the replacement method (score_sde, arXiv 2011.13456, appendix I.2) with its noise drawn once, in x_T:
    the known part of x_t is s(t) known + sigma(t) z all along, z being what x_T holds there, for every table that
    integrates a constant eps exactly. It ends on `known` where the table ends at sigma = 0.

    known: [batch, ...] like x, any value where it is not known; mask: boolean, broadcast against x, True where known.
    """
    kind = str(getattr(mask, "dtype", type(mask).__name__))
    require(kind.endswith("bool"), f"mask must be a boolean array, True where x_0 is known, got {kind}")
    return with_x_0(sde, eps_fn, lambda x_0: array_library(x_0).where(mask, known, x_0))


def _pairs(first: Any, second: Any) -> Any:
    """[2 batch, ...]: first[0], second[0], first[1], second[1], ..."""
    return array_library(first).stack([first, second], 1).reshape(-1, *first.shape[1:])
