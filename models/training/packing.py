"""All parameters of a network as one vector, as training keeps them.

A step does the same to every parameter: sums its gradient over the devices, clips it, feeds it to Adam and to the
moving average. Of hundreds of arrays that makes thousands of operations to compile, to load and to start; of one vector
few. Checkpoints hold the arrays by name.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from models.score import Network, Params
from models.training.step import TrainState

Vector = Float[Array, " n"] | Float[np.ndarray, " n"]

_OF_VECTORS = ("params", "ema", "opt_state")  # of a state; the rest are numbers, and its key


def pack(params: Params, multiple: int = 1) -> Float[np.ndarray, " n"]:
    """All parameters one after the other, in host memory, and zeros behind them up to a multiple of `multiple`."""
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(params)]
    return np.concatenate([*leaves, np.zeros(-sum(map(len, leaves)) % multiple, np.float32)])


def unpack(vector: Vector, like: Params) -> Params:
    """The parameters in a vector: views of it if it is NumPy's. like: arrays, or anything else with their shapes."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([math.prod(leaf.shape) for leaf in leaves])
    split: Any = np.split if isinstance(vector, np.ndarray) else jnp.split  # whose gradient is one concatenation
    *parts, _ = split(vector, ends)
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def packed(network: Network, like: Params) -> Network:
    """The network as a function of the vector of its parameters."""

    def apply(vector: Vector, *arguments: Any) -> Array:
        return network.apply(unpack(vector, like), *arguments)

    return network._replace(apply=apply)


def unpack_state(state: TrainState, like: Params) -> TrainState:
    """A state of vectors as it is saved: parameters, their average and Adam's moments by name, nothing behind them."""
    vectors = {name: getattr(state, name) for name in _OF_VECTORS}
    return state._replace(**jax.tree.map(lambda leaf: unpack(leaf, like) if leaf.ndim else leaf, vectors))


def pack_state(saved: TrainState, like: TrainState, multiple: int = 1) -> TrainState:
    """The state of vectors that `unpack_state` made `saved` of. like: such a state, whose values do not matter."""
    arrays, vectors = ({name: getattr(state, name) for name in _OF_VECTORS} for state in (saved, like))
    packed = jax.tree.map(lambda leaf, part: pack(part, multiple) if leaf.ndim else part, vectors, arrays)
    return saved._replace(**packed)
