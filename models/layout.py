"""The layout of a U-Net as data: the order of its blocks, for building it, importing weights and describing it."""

from typing import NamedTuple

from models.config import UNetConfig


class Stage(NamedTuple):
    """One step of the network: a residual block, or a convolution that changes the size.

    kind: "block", "downsample" or "upsample". n_in counts the channels of the skip connection too.
    size: side of the output, in pixels.
    resample: "down" or "up" for a residual block that changes the size itself, else "".
    pyramid: the image, halved in size too, is added to the output.
    keeps: the output is kept for a skip connection; takes: the last kept output is concatenated to the input.
    """

    name: str
    kind: str
    n_in: int
    n_out: int
    size: int
    attention: bool = False
    resample: str = ""
    pyramid: bool = False
    keeps: bool = False
    takes: bool = False


def stages(cfg: UNetConfig) -> list[Stage]:
    """All stages between the first convolution and the last norm, in order: `num_blocks` residual blocks a level
    going down, two in the middle, and `num_blocks + 1` a level going up."""
    assert cfg.image_size is not None
    down, width, size = [], cfg.channels, cfg.image_size // cfg.patch_size
    kept = [width]
    for level, multiplier in enumerate(cfg.multipliers):
        if level > 0:
            size //= 2
            down.append(_resampled(cfg, "down", width, size))
            kept.append(width)
        for i in range(cfg.num_blocks):
            n_out = cfg.channels * multiplier
            attention = size in cfg.attention_resolutions
            down.append(Stage(f"down_{size}_{i}", "block", width, n_out, size, attention, keeps=True))
            width = n_out
            kept.append(width)
    middle = [Stage(f"middle_{i}", "block", width, width, size, attention=i == 0) for i in range(2)]
    up = []
    for level, multiplier in reversed(list(enumerate(cfg.multipliers))):
        for i in range(cfg.num_blocks + 1):
            attention = size in cfg.attention_resolutions and (cfg.up_attention == "every" or i == cfg.num_blocks)
            n_in, n_out = width + kept.pop(), cfg.channels * multiplier
            up.append(Stage(f"up_{size}_{i}", "block", n_in, n_out, size, attention, takes=True))
            width = n_out
        if level > 0:
            size *= 2
            up.append(_resampled(cfg, "up", width, size))
    return down + middle + up


def _resampled(cfg: UNetConfig, way: str, width: int, size: int) -> Stage:
    """The stage between two levels, which goes "down" to half the size or "up" to twice the size."""
    name, goes_down = f"{way}_{size}_resample", way == "down"
    if cfg.resample == "conv":
        return Stage(name, f"{way}sample", width, width, size, keeps=goes_down)
    pyramid = cfg.input_pyramid and goes_down
    return Stage(name, "block", width, width, size, resample=way, pyramid=pyramid, keeps=goes_down)
