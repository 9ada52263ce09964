"""The evaluations of a network in training: the held-out loss, grids of samples, FID."""

from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

import data
from deis import SDE, Table
from eval.figures import image_grid, save_png
from eval.job import require_finite
from eval.metrics.measurement import Measurement, MetricConfig
from models.config import UNetConfig
from models.sampling.build import share
from models.sampling.draw import Trained, draw, trained
from models.sampling.options import EpsOptions
from models.score import Params
from models.training import devices
from models.training.config import ObjectiveConfig
from models.training.step import make_evaluation
from models.unet import network_of
from runs.errors import checking


@dataclass
class Evaluator:
    """Evaluates the EMA parameters, which may be sharded over `mesh`, with the same images and noise each time.

    With several processes all make these calls at the same steps; they share the samples out, and process 0 has them.
    options, worse: what is done to eps where samples are drawn, and the worse network if autoguidance is asked for.
    measurement: one without samples, whose extractor and reference FIDs are of; None in processes that measure none.
    """

    model: UNetConfig
    sde: SDE
    objective: ObjectiveConfig
    table: Table
    options: EpsOptions
    worse: Trained | None
    measurement: Measurement | None
    test_set: "data.Split"
    mesh: Mesh
    seed: int

    def __post_init__(self) -> None:
        self._loss = make_evaluation(network_of(self.model), self.sde, self.objective)
        self._replicate = jax.jit(lambda ema: ema, out_shardings=NamedSharding(self.mesh, devices.REPLICATED))

    def held_out_loss(self, ema: Params, num_batches: int, batch_size: int) -> float:
        """The loss on images of the test set, without dropout."""
        ema, total = self._replicate(ema), 0.0
        for i, key in enumerate(jax.random.split(jax.random.key(self.seed), num_batches)):
            index = data.batch_indices(len(self.test_set.images), batch_size, self.seed, i)
            batch = jax.tree.map(lambda rows: rows[index], (self.test_set.images, self.test_set.labels))  # noqa: B023
            total += float(self._loss(ema, *devices.shard_batch(batch, self.mesh, batch_size), key))
        return total / num_batches

    def draw_grid(self, path: Path, ema: Params, count: int) -> None:
        """Write a grid of samples of the seeds 0, 1, 2, ..., so that grids of other steps show the same images grow."""
        images = self._samples(ema, count, batch_size=count)
        if images is not None:
            save_png(path, image_grid(images))

    def fid(self, ema: Params, count: int, batch_size: int) -> dict[str, float]:
        """FID of `count` samples, under the name of its features; empty in all processes but the first.

        Raises NonFiniteError for samples with NaN or infinity, as `draw_grid` does.
        """
        images = self._samples(ema, count, batch_size)
        if images is None or self.measurement is None:
            return {}
        with checking():
            measurement = Measurement(self.measurement.extractor, self.measurement.reference, MetricConfig(), blocks=1)
            measurement.add(images)
            found = measurement.result()
        return {found["fid_name"]: found["fid"]}

    def _samples(self, ema: Params, count: int, batch_size: int) -> np.ndarray | None:
        net = trained(self.model, self.sde, jax.device_get(self._replicate(ema)))._replace(worse=self.worse)
        seeds = share(list(range(count)), jax.process_index(), jax.process_count(), batch_size)
        images = [np.empty((0, *net.image_shape), np.uint8)]
        for x_0 in draw(net, self.table, seeds, batch_size, self.options):
            require_finite(x_0, seeds[sum(map(len, images)) :], self.table)
            images.append(data.to_uint8(x_0, "floor"))  # as by sample.py, or FIDs of one name would not compare
        parts = devices.gather({"images": np.concatenate(images)})
        return np.concatenate([part["images"] for part in parts]) if jax.process_index() == 0 else None
