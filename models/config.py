"""Options of the score network: one dataclass, with nothing else to import."""

from dataclasses import dataclass, field


@dataclass
class UNetConfig:
    """A DDPM-style U-Net; conf/model/*.yaml explain every option."""

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
    """Refuse sizes that do not divide."""
