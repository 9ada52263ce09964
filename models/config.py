"""Options of the score network: one dataclass and its checks, with nothing else to import."""

from dataclasses import dataclass, field


@dataclass
class UNetConfig:
    """A DDPM-style U-Net; the files in conf/model/ explain every option."""

    channels: int = 32
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    num_blocks: int = 1
    attention_resolutions: list[int] = field(default_factory=list)
    dropout: float = 0.0
    num_heads: int = 1
    num_classes: int = 0
    dtype: str = "float32"
    image_size: int | None = None
    image_channels: int | None = None


def validate(cfg: UNetConfig) -> None:
    """Raise ValueError, naming the option and what is allowed, for a network that cannot be built.

    `image_size` and `image_channels` must be known.
    """
    if cfg.channels < 4 or cfg.channels % 2 or min(cfg.multipliers, default=0) < 1 or cfg.num_blocks < 1:
        raise ValueError(
            "model.channels must be even and at least 4, and model.num_blocks and every multiplier at least 1, "
            f"got {cfg.channels}, {cfg.num_blocks} and {cfg.multipliers}"
        )
    assert cfg.image_size is not None
    factor = 2 ** (len(cfg.multipliers) - 1)
    if cfg.image_size % factor:
        below = cfg.image_size // factor * factor
        raise ValueError(
            f"{len(cfg.multipliers)} levels halve the image {len(cfg.multipliers) - 1} times, so its side must be a "
            f"multiple of {factor}, got {cfg.image_size}; use dataset.image_size={below or factor} or fewer "
            "model.multipliers"
        )
    sizes = [cfg.image_size // 2**level for level in range(len(cfg.multipliers))]
    if absent := set(cfg.attention_resolutions) - set(sizes):
        raise ValueError(f"model.attention_resolutions has {min(absent)}, but the levels' sizes are {sizes}")
    widths = [cfg.channels * multiplier for multiplier in (1, *cfg.multipliers)]
    if cfg.num_heads < 1 or any(width % cfg.num_heads for width in widths):
        raise ValueError(f"model.num_heads must divide the width of every level, {widths}, got {cfg.num_heads}")
    if cfg.num_classes < 0:
        raise ValueError(f"model.num_classes must be 0 for no classes, or their number, got {cfg.num_classes}")
    if not 0 <= cfg.dropout < 1:
        raise ValueError(f"model.dropout must be in [0, 1), got {cfg.dropout}")
    if cfg.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype must be float32 or bfloat16, got {cfg.dtype!r}")
