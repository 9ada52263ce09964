"""How far samples are from the fine solution of the same ODE from the same noise: the solver's own error."""

from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

import deis
from eval.job import require_finite
from models.sampling.options import EpsOptions

LEAST = float(np.finfo(np.float32).eps) ** 2  # a smaller mean square means nothing in float32


def check_distance(table: deis.Table, nfe: int | None) -> None:
    """Raise ValueError if a fine solution of `nfe` network calls says nothing about the solver; None is no distance."""
    if nfe is not None and (table.is_stochastic or nfe <= table.nfe):
        why = "adds noise" if table.is_stochastic else f"makes {table.nfe} network calls"
        raise ValueError(
            f"distance_to_nfe={nfe} is for solvers of the ODE with fewer calls, and {table.name} {why}; leave it out"
        )


def mean_squares(
    net: Any, table: deis.Table, seeds: list[int], batch_size: int, options: EpsOptions, nfe: int | None
) -> Float[np.ndarray, " n"]:
    """The mean square, over pixels of [-1, 1], of each sample's difference from the fine solution; empty without `nfe`.

    The fine solution is that of `eval.few_calls.trajectories.fine_table`, to the time t_0 of the network's SDE.
    net: as `models.sampling.draw.load_trained` gives it. Samples are drawn once more for this.
    Raises NonFiniteError for a fine solution with NaN or infinity.
    """
    from eval.few_calls.trajectories import fine_table
    from models.sampling.draw import draw

    if nfe is None:
        return np.empty(0)
    fine, squares = fine_table(net.sde, nfe), [np.empty(0)]
    pairs = (draw(net, solver, seeds, batch_size, options) for solver in (table, fine))
    batches = tqdm(zip(*pairs, strict=True), "fine solutions", -(-len(seeds) // batch_size), leave=False, unit="batch")
    for i, (x_0, solution) in enumerate(batches):
        require_finite(solution, seeds[i * batch_size :], fine)
        squares.append(np.square(x_0 - solution, dtype=np.float64).mean(axis=(1, 2, 3)))
    return np.concatenate(squares)


def distance(squares: Float[np.ndarray, " n"], nfe: int | None) -> dict[str, Any]:
    """The root of the mean square, and the mean over images of the peak signal-to-noise ratio in dB; {} without `nfe`.

    Signals reach from -1 to 1. squares: as `mean_squares` gives them, of all images.
    """
    if nfe is None:
        return {}
    ratios = 10 * np.log10(4 / np.maximum(squares, LEAST))
    return {"distance_to_nfe": nfe, "rmse": float(np.sqrt(squares.mean())), "psnr": float(ratios.mean())}


def distance_lines(found: dict[str, Any]) -> list[str]:
    """The distance in a result for people, if it has one."""
    if "rmse" not in found:
        return []
    return [f"RMSE {found['rmse']:.3g} and PSNR {found['psnr']:.3g} dB to {found['distance_to_nfe']} calls"]
