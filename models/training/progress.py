"""What a training run reports, gathered without holding up the device."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np

from models.checkpoints.checkpoint import Records
from models.config import UNetConfig
from models.summary import flops

IN_FLIGHT = 2  # steps that the device may have before it when the host reads a result

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
}
"""Dense bfloat16 operations a second of one device, from the makers' data sheets."""


class Progress:
    """The metrics of all steps, read a little late so that the device always has work, and summed up for log lines.

    skipped_in_a_row, unlogged: how the run stood at the checkpoint that it goes on from.
    """

    def __init__(self, model: UNetConfig, batch_size: int, skipped_in_a_row: int = 0, unlogged: Records = ()):
        self.skipped_in_a_row, self.last_loss = skipped_in_a_row, math.nan
        self._batch_size = batch_size
        self._peak = PEAK_FLOPS.get(jax.local_devices()[0].device_kind)
        self._step_flops = 3.0 * batch_size * flops(model) if self._peak else 0.0  # three times a forward pass
        self._pending: deque[dict[str, jax.Array]] = deque()
        self._read = [{name: np.asarray(value, np.float32) for name, value in record.items()} for record in unlogged]
        self.start_clock()

    def start_clock(self) -> None:
        """The steps until now, the first of which compiled, do not count for the speed."""
        self.flush()
        self._timed, self._clock = 0, time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """The metrics of one more step."""
        self._pending.append(metrics)
        self.flush(IN_FLIGHT)

    def flush(self, in_flight: int = 0) -> None:
        """Wait for all steps that were added, but for the last `in_flight` of them."""
        while len(self._pending) > in_flight:
            values = jax.device_get(self._pending.popleft())
            self._read.append(values)
            self._timed += 1
            self.skipped_in_a_row = 0 if values["finite"] else self.skipped_in_a_row + 1
            self.last_loss = float(values["loss"]) if values["finite"] else self.last_loss

    def unlogged(self) -> Records:
        """The metrics of the steps read since the last `summary`, exactly, as numbers and lists for JSON."""
        return [{name: np.asarray(value, np.float32).tolist() for name, value in step.items()} for step in self._read]

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The time of the block does not count as training."""
        self.flush()
        start = time.perf_counter()
        yield
        self._clock += time.perf_counter() - start

    def summary(self) -> dict[str, float]:
        """What the steps read since the last call tell; empty if there are none."""
        read, self._read = self._read, []
        if not read:
            return {}
        good = [values for values in read if values["finite"]]
        found = {
            "loss": float(np.mean([values["loss"] for values in good])) if good else math.nan,
            "grad_norm": float(read[-1]["grad_norm"]),
            "param_norm": float(read[-1]["param_norm"]),
            "skipped": float(len(read) - len(good)),
        }
        losses, counts = (np.sum([values[name] for values in read], axis=0) for name in ("level_loss", "level_count"))
        found |= {f"loss_level_{i}": float(s / n) for i, (s, n) in enumerate(zip(losses, counts, strict=True)) if n}
        return found | (self._speed() if self._timed else {})

    def _speed(self) -> dict[str, float]:
        now = time.perf_counter()
        steps_per_s = self._timed / (now - self._clock)
        self._timed, self._clock = 0, now
        found = {"images_per_s": self._batch_size * steps_per_s}
        if self._peak:
            found["model_flops_utilisation"] = self._step_flops * steps_per_s / (self._peak * jax.device_count())
        if memory := jax.local_devices()[0].memory_stats():
            found["peak_memory_gb"] = memory["peak_bytes_in_use"] / 1e9
        return found
