"""The cost of a score network: parameters, operations, memory. See: python -m eval.model_summary --help"""

if not __package__:  # python eval/model_summary.py, which finds no other package of the repository
    raise SystemExit("error: this command is typed as python -m eval.model_summary")

import dataclasses
from dataclasses import dataclass

from omegaconf import MISSING, DictConfig

from data.config import DatasetConfig
from models.config import UNetConfig, validate
from runs import cli
from runs.errors import checking
from runs.log import LoggerConfig, open_log, refuse_tensorboard


@dataclass
class SummaryJob:
    """The options of this command; conf/model_summary.yaml explains them."""

    dataset: DatasetConfig = MISSING
    model: UNetConfig = MISSING
    logger: LoggerConfig = MISSING


def main(cfg: DictConfig) -> None:
    """Print a table of the network's blocks, as Markdown."""
    with checking():
        job: SummaryJob = cli.to_object(cfg)
        refuse_tensorboard(job.logger)
        size, channels = job.model.image_size or job.dataset.image_size, job.model.image_channels or 3
        if size is None:
            raise ValueError(f"dataset={job.dataset.name} has no fixed size: give model.image_size")
        model = dataclasses.replace(job.model, image_size=size, image_channels=channels)
        validate(model)
    from models.summary import rows, summary_table

    table = rows(model)
    training = 16 * table[-1].params / 1e9  # parameters, their moving average and Adam's two moments, float32
    print(summary_table(table))
    print(
        f"\n{size}x{size}x{channels} images, {model.dtype}. In training {training:.2f} GB for parameters, EMA and "
        f"Adam, {training / 4:.2f} GB for gradients, and {table[-1].activations / 1e6:.0f} MB of activations an image."
    )
    with open_log(job.logger, None, "model_summary", cli.to_dict(cfg)) as log:
        log.metrics(0, {"params": table[-1].params, "activations": table[-1].activations})


if __name__ == "__main__":
    cli.run(main, "model_summary", SummaryJob)
