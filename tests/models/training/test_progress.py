"""What a run reports of its steps."""

import json
from typing import Any

import numpy as np
import pytest

from models.config import UNetConfig
from models.training.progress import Progress

MODEL = UNetConfig(image_size=8, image_channels=1)


def metrics(step: int, finite: bool = True) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    names = {"loss": (), "grad_norm": (), "param_norm": (), "level_loss": (10,), "level_count": (10,)}
    found: dict[str, Any] = {name: rng.random(shape).astype(np.float32) for name, shape in names.items()}
    return found | {"finite": np.bool_(finite), "loss": found["loss"] if finite else np.float32(np.nan)}


@pytest.mark.parametrize("bad", [(), (3,), (3, 4), (4, 5)])
def test_interrupted_between_two_lines_it_says_the_same(bad: tuple[int, ...]) -> None:
    whole, before = Progress(MODEL, 16), Progress(MODEL, 16)
    for step in range(7):
        whole.add(metrics(step, step not in bad))
        if step < 4:
            before.add(metrics(step, step not in bad))
    before.flush()
    after = Progress(MODEL, 16, before.skipped_in_a_row, json.loads(json.dumps(before.unlogged())))
    for step in range(4, 7):
        after.add(metrics(step, step not in bad))
    for each in (whole, after):
        each.flush()
    assert after.skipped_in_a_row == whole.skipped_in_a_row
    assert {**whole.summary(), "images_per_s": 0} == {**after.summary(), "images_per_s": 0}
    assert whole.unlogged() == []
