"""What is looked at while a network trains: the held-out loss, sample grids, FID."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import data
from eval.features.config import load_extractor
from eval.metrics.measurement import measure_fid
from models.config import UNetConfig
from models.sampling.build import build_sde, build_table
from models.sampling.draw import draw, trained
from models.training import devices
from models.training.packing import packed, unpack
from models.training.step import make_evaluation
from models.unet import network_of, shapes


class Watch:
    """Evaluations of the EMA parameters, packed, with the same images and noise each time.

    With several processes all make these calls at the same steps; process 0 draws.
    """

    def __init__(self, job: Any, model: UNetConfig, train: "data.Split", test: "data.Split", mesh: Mesh, run_dir: Path):
        self.job, self.model, self.train, self.test, self.mesh, self.run_dir = job, model, train, test, mesh, run_dir
        self.sde = build_sde(job.sde)
        self.table = build_table(job.sampler, self.sde)
        self._shapes = shapes(model)
        self._evaluate = make_evaluation(packed(network_of(model), self._shapes), self.sde, job.objective)
        self._gather = jax.jit(lambda ema: ema, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._extractor: Any = None

    def held_out_loss(self, ema: Any) -> float:
        """The loss on held-out images, without dropout."""
        job, count, ema = self.job, self.job.train.eval_batches, self._gather(ema)
        total = 0.0
        for i, key in enumerate(jax.random.split(jax.random.key(job.seed), count)):
            index = data.batch_indices(len(self.test.images), job.train.batch_size, job.seed, i)
            labels = None if self.test.labels is None else self.test.labels[index]
            batch = devices.lay_batch((self.test.images[index], labels), self.mesh, job.train.batch_size)
            total += float(self._evaluate(ema, *batch, key))
        return total / count

    def draw_grid(self, step: int, ema: Any) -> Path:
        """Write a grid of samples of the seeds 0, 1, 2, ..., so that grids of other steps show the same images grow."""
        from eval.figures import image_grid, save_png

        path = self.run_dir / f"samples_{step:07d}.png"
        images = self._draw(ema, self.job.train.num_samples, self.job.train.num_samples)
        if images is not None:
            save_png(path, image_grid(images))
        return path

    def fid(self, ema: Any) -> dict[str, float]:
        """FID of as many samples as asked for, by the name it goes by; empty in all processes but the first."""
        images = self._draw(ema, self.job.train.fid_samples, self.job.train.batch_size)
        if images is None:
            return {}
        self._extractor = self._extractor or load_extractor(self.job.extractor, self.job.dataset)
        found = measure_fid(images, self._extractor, self.job.dataset)
        return {found["fid_name"]: found["fid"]}

    def _draw(self, ema: Any, count: int, batch_size: int) -> np.ndarray | None:
        ema = self._gather(ema)
        if not devices.is_main():
            return None
        net = trained(self.model, self.sde, unpack(np.asarray(ema), self._shapes))
        return np.concatenate([data.to_uint8(x_0) for x_0 in draw(net, self.table, list(range(count)), batch_size)])
