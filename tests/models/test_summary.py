"""The costs of a network against sums by hand."""

import dataclasses

import pytest
from commands import run_here

from models.config import UNetConfig
from models.layout import stages
from models.summary import Row, rows, summary_table

pytestmark = pytest.mark.slow

CFG = UNetConfig(
    channels=8, multipliers=[1, 2], attention_resolutions=[4], min_group_channels=1, image_size=8, image_channels=3
)


@pytest.fixture(scope="module")
def table() -> list[Row]:
    return rows(CFG)


def conv_flops(n_in: int, n_out: int, size: int) -> int:
    """The FLOPs of a 3x3 convolution that pads: at the border, some of the nine products fall outside."""
    return 2 * n_in * n_out * (3 * size - 2) ** 2


def test_rows_are_the_stages_and_the_whole(table: list[Row]) -> None:
    assert [row.name for row in table] == [stage.name for stage in stages(CFG)] + ["whole network"]
    outside = 8 * 32 + 32 + 32 * 32 + 32 + (9 * 3 * 8 + 8) + (8 + 8) + (9 * 8 * 3 + 3)
    assert sum(row.params for row in table[:-1]) + outside == table[-1].params


def test_flops_of_a_convolution_and_of_a_block(table: list[Row]) -> None:
    """A stage that only resamples is one convolution; a block is two, and linears, and little else."""
    found = {row.name: row for row in table}
    assert found["up_8_resample"].flops == pytest.approx(conv_flops(16, 16, 8), rel=0.01)
    least = 2 * conv_flops(8, 8, 8) + 2 * 32 * 8
    assert least < found["down_8_0"].flops < 1.2 * least
    assert found["whole network"].flops > sum(row.flops for name, row in found.items() if name != "whole network")


def test_activations_grow_with_the_network_and_shrink_by_rematerialisation(table: list[Row]) -> None:
    kept = table[-1].activations
    assert rows(dataclasses.replace(CFG, remat=True))[-1].activations < 0.5 * kept
    stored = 8 * 8 * 8 * 4  # one map of the first level in float32: a convolution must keep its input
    assert next(row for row in table if row.name == "down_8_0").activations >= 2 * stored


def test_command_line() -> None:
    done = run_here("eval.model_summary", "dataset=digits", "model.image_channels=1", "model.channels=8")
    assert done.returncode == 0, done.stderr
    cfg = dataclasses.replace(CFG, image_channels=1, min_group_channels=4)
    assert done.stdout.startswith(summary_table(rows(cfg)))
    refused = run_here("eval.model_summary", "dataset=images")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: dataset=images has no fixed size: give model.image_size\n"
