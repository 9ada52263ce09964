"""Fine solutions of a trained network, which tables for few calls are chosen and learned by."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

import deis
from formats.files import read_npz, write_npz
from models.sampling.draw import Trained, changed_eps, conditional_eps, starts
from models.sampling.options import EpsOptions

FIRST_SEED = 1 << 31
"""Trajectories start from this seed on, so that samples of the seeds 0, 1, 2, ... are of noise that nothing was learned
from."""


class Trajectories(NamedTuple):
    """Noise, where the network's fine solution takes it, and the classes (None without), of which eps_fn is a function.

    eps_fn(x, t), or eps_fn(x, t, label) for a network with classes.
    """

    eps_fn: jax.tree_util.Partial
    x_T: Float[np.ndarray, "n h w c"]
    x_0: Float[np.ndarray, "n h w c"]
    label: Int[np.ndarray, " n"] | None


def fine_table(sde: deis.SDE, nfe: int) -> deis.Table:
    """The solver of fine solutions: tAB3 on quadratic times."""
    return deis.tables.build(sde, num_step=nfe)


def solve(net: Trained, num: int, batch_size: int, nfe: int, options: EpsOptions, kept: Path | None) -> Trajectories:
    """`num` trajectories, of `nfe` network calls each, batch by batch.

    kept: a file that they are read from if it is there, and else written to.
    Raises FileNotFoundError or ValueError as `read_npz`.
    """
    eps_fn = conditional_eps(net, options)
    found = {} if kept is None or not kept.is_file() else read_npz(kept)
    if not found:
        parts: list[dict[str, np.ndarray]] = []
        for first in tqdm(range(0, num, batch_size), unit="batch", leave=False, desc="fine solutions"):
            at = starts(net, [FIRST_SEED + i for i in range(first, first + batch_size)], options.label)
            x_0 = deis.sample(fine_table(net.sde, nfe), changed_eps(net, at, options), at.x_T)
            label = {} if at.label is None else {"label": np.asarray(at.label)}
            parts.append({"x_T": np.asarray(at.x_T), "x_0": np.asarray(x_0), **label})
        found = {name: np.concatenate([part[name] for part in parts])[:num] for name in parts[0]}
        if kept is not None:
            write_npz(kept, found)
    return Trajectories(eps_fn, found["x_T"], found["x_0"], found.get("label"))
