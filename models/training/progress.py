"""What a training run reports, gathered without holding up the device."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

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

    step_flops: floating-point operations of a whole step, or None if they are not to be reported.
    """

    def __init__(self, batch_size: int, step_flops: float | None = None):
        self.batch_size, self.step_flops = batch_size, step_flops
        self.skipped_in_a_row, self.last_loss = 0, math.nan
        self._pending: deque[dict[str, jax.Array]] = deque()
        self._read: list[dict[str, Any]] = []
        self._untimed, self._clock = 0, time.perf_counter()

    def start_clock(self) -> None:
        """The steps until now, the first of which compiled, do not count for the speed."""
        self.flush()
        self._untimed, self._clock = len(self._read), time.perf_counter()

    def add(self, metrics: dict[str, jax.Array]) -> None:
        """The metrics of one more step."""
        self._pending.append(metrics)
        if len(self._pending) > IN_FLIGHT:
            self._read_oldest()

    def flush(self) -> None:
        """Wait for all steps that were added."""
        while self._pending:
            self._read_oldest()

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
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        if not read:
            return {}
        timed, self._untimed = len(read) - self._untimed, 0
        good = [values for values in read if values["finite"]]
        found = {
            "loss": float(np.mean([values["loss"] for values in good])) if good else math.nan,
            "grad_norm": float(read[-1]["grad_norm"]),
            "param_norm": float(read[-1]["param_norm"]),
            "skipped": float(len(read) - len(good)),
        }
        losses, counts = (np.sum([values[name] for values in read], axis=0) for name in ("level_loss", "level_count"))
        found |= {f"loss_level_{i}": float(s / n) for i, (s, n) in enumerate(zip(losses, counts, strict=True)) if n}
        return found | (self._speed(timed / seconds) if timed else {})

    def _speed(self, steps_per_s: float) -> dict[str, float]:
        device, found = jax.local_devices()[0], {"images_per_s": self.batch_size * steps_per_s}
        if self.step_flops is not None and device.device_kind in PEAK_FLOPS:
            peak = PEAK_FLOPS[device.device_kind] * jax.device_count()
            found["model_flops_utilisation"] = self.step_flops * steps_per_s / peak
        if memory := device.memory_stats():
            found["peak_memory_gb"] = memory["peak_bytes_in_use"] / 1e9
        return found

    def _read_oldest(self) -> None:
        values = jax.device_get(self._pending.popleft())
        self._read.append(values)
        if values["finite"]:
            self.skipped_in_a_row, self.last_loss = 0, float(values["loss"])
        else:
            self.skipped_in_a_row += 1


def step_flops(model: UNetConfig, batch_size: int) -> float | None:
    """Operations of a training step, three times those of a forward pass; None where no device's peak is known."""
    if jax.local_devices()[0].device_kind not in PEAK_FLOPS:
        return None
    return 3.0 * batch_size * flops(model)
