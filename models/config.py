"""The options of the score network, and their checks. Neither JAX nor Flax is imported."""

from dataclasses import dataclass, field, replace
from typing import Any, get_args, get_type_hints

from deis import SDE
from formats.short import short, shown


@dataclass
class UNetConfig:
    """A U-Net of the DDPM, DDPM++ or NCSN++ kind; conf/model/unet.yaml explains every option."""

    channels: int = 32
    multipliers: list[int] = field(default_factory=lambda: [1, 2])
    num_blocks: int = 1
    patch_size: int = 1
    attention_resolutions: list[int] = field(default_factory=list)
    up_attention: str = "every"
    head_channels: int | None = None
    resample: str = "conv"
    downsample_padding: int = 0
    fir: bool = False
    input_pyramid: bool = False
    skip_rescale: bool = False
    num_groups: int = 32
    min_group_channels: int = 4
    norm_eps: float = 1e-6
    embedding: str = "positional"
    freq_shift: int = 1
    fourier_scale: float = 16.0
    num_classes: int = 0
    null_class: bool = False
    class_embedding: str = "after"
    dropout: float = 0.0
    time: str = "t_999"
    input: str = "unit"
    output: str = "eps"
    sigma_data: float = 1.0
    dtype: str = "float32"
    remat: bool = False
    image_size: int | None = None
    image_channels: int | None = None


CHOICES: dict[str, tuple[str | int, ...]] = {
    "up_attention": ("every", "last"),
    "resample": ("conv", "block"),
    "downsample_padding": (0, 1),
    "embedding": ("positional", "fourier"),
    "freq_shift": (0, 1),
    "class_embedding": ("after", "before"),
    "time": ("t", "t_999", "t_plus_1", "flow_1000", "sigma", "log_sigma", "log_half_sigma", "log_sigma_4"),
    "input": ("x", "unit"),
    "output": ("eps", "x_0", "v", "flow", "score", "sigma_score", "edm"),
    "dtype": ("float32", "bfloat16"),
}

FROM_NOISE: dict[str, tuple[str, ...]] = {
    "time": ("t", "t_999", "t_plus_1", "flow_1000"),
    "output": ("x_0", "v", "flow"),
}
"""What CHOICES leave where s(T) = 0: the noise level is infinite at T, and eps says nothing of x_0."""


MOST = {
    "channels": 4096,
    "num_blocks": 64,
    "patch_size": 64,
    "image_size": 4096,
    "image_channels": 256,
    "num_classes": 1_000_000,
}
"""Upper bounds, far above any network that was published: a larger number is a mistake, which takes hours to build."""

_MOST_LEVELS, _MOST_MULTIPLIER = 10, 64


def model_of(options: Any) -> UNetConfig:
    """The network that a file's options describe; those that are absent have their defaults.

    Raises ValueError, naming the option and what is allowed, for one that is unknown, of another type, or not allowed.
    """
    if not isinstance(options, dict):
        raise ValueError(f"model must be the options of a network, got {shown(options)}")
    hints = get_type_hints(UNetConfig) | {"image_size": int, "image_channels": int}
    for name, value in ({"image_size": None, "image_channels": None} | options).items():
        if name not in hints:
            raise ValueError(f"model.{short(name)} is not an option of a network; conf/model/unet.yaml has them all")
        if not _is_of(hints[name], value):
            kind = getattr(hints[name], "__name__", hints[name])
            raise ValueError(f"model.{name} must be of type {kind}, got {shown(value)}")
    validate(cfg := UNetConfig(**options))
    return cfg


def for_images(cfg: UNetConfig, size: int, channels: int) -> UNetConfig:
    """The network for a data set's images. Raises ValueError if its options say another size, and as `validate`."""
    for key, theirs in (("image_size", size), ("image_channels", channels)):
        if (asked := getattr(cfg, key)) not in (None, theirs):
            raise ValueError(f"model.{key} must be null or the data set's own, {theirs}, got {asked}")
    cfg = replace(cfg, image_size=size, image_channels=channels)
    validate(cfg)
    return cfg


def _is_of(hint: Any, value: Any) -> bool:
    if hint is float:
        return type(value) in (int, float) and abs(value) < 1e9
    if hint == list[int]:
        return type(value) is list and all(type(item) is int for item in value)
    return type(value) in (get_args(hint) or (hint,))


def validate(cfg: UNetConfig) -> None:
    """Raise ValueError, naming the option and what is allowed, for a network that cannot be built.

    `image_size` and `image_channels` must be known.
    """
    for name, allowed in CHOICES.items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(
                f"model.{name} must be one of {', '.join(map(str, allowed))}, got {shown(getattr(cfg, name))}"
            )
    if cfg.channels < 4 or cfg.channels % 2 or min(cfg.multipliers, default=0) < 1 or cfg.num_blocks < 1:
        raise ValueError(
            "model.channels must be even and at least 4, and model.num_blocks and every multiplier at least 1, "
            f"got {shown(cfg.channels)}, {shown(cfg.num_blocks)} and {shown(cfg.multipliers)}"
        )
    if len(cfg.multipliers) > _MOST_LEVELS or max(cfg.multipliers) > _MOST_MULTIPLIER:
        raise ValueError(
            f"model.multipliers must be at most {_MOST_LEVELS} numbers up to {_MOST_MULTIPLIER}, got "
            f"{shown(cfg.multipliers)}"
        )
    for name, most in MOST.items():
        least = 0 if name == "num_classes" else 1
        if not least <= getattr(cfg, name) <= most:
            raise ValueError(f"model.{name} must be from {least} to {most}, got {shown(getattr(cfg, name))}")
    _validate_sizes(cfg)
    widths = [cfg.channels * multiplier for multiplier in (1, *cfg.multipliers)]
    if cfg.head_channels is not None and (cfg.head_channels < 1 or any(w % cfg.head_channels for w in widths)):
        raise ValueError(
            f"model.head_channels must divide the width of every level, {widths}, or be null for one head, "
            f"got {shown(cfg.head_channels)}"
        )
    for name in ("num_groups", "min_group_channels", "norm_eps", "sigma_data", "fourier_scale"):
        if getattr(cfg, name) <= 0:
            raise ValueError(f"model.{name} must be positive, got {getattr(cfg, name):g}")
    if cfg.resample == "conv" and (cfg.fir or cfg.input_pyramid):
        raise ValueError("model.fir and model.input_pyramid are for model.resample=block only")
    if cfg.input_pyramid and not cfg.fir:
        raise ValueError("model.input_pyramid halves the image by the FIR filter: it needs model.fir=true")
    if cfg.null_class and not cfg.num_classes:
        raise ValueError("model.null_class adds a label to those of the classes: it needs model.num_classes above 0")
    if not 0 <= cfg.dropout < 1:
        raise ValueError(f"model.dropout must be in [0, 1), got {cfg.dropout}")


def validate_diffusion(cfg: UNetConfig, sde: SDE) -> None:
    """Raise ValueError for a network that cannot be asked at T, where the SDE has s(T) = 0."""
    for name, allowed in FROM_NOISE.items() if sde.starts_at_noise else ():
        if getattr(cfg, name) not in allowed:
            raise ValueError(
                f"model.{name} must be one of {', '.join(allowed)} under this diffusion, whose s(T) = 0 makes x_T pure "
                f"noise, got {getattr(cfg, name)}"
            )


def _validate_sizes(cfg: UNetConfig) -> None:
    assert cfg.image_size is not None
    factor = cfg.patch_size * 2 ** (len(cfg.multipliers) - 1)
    if cfg.image_size % factor:
        below = cfg.image_size // factor * factor
        patches = f" of patches of {cfg.patch_size}x{cfg.patch_size} pixels" if cfg.patch_size > 1 else ""
        raise ValueError(
            f"{len(cfg.multipliers)} levels halve the image{patches} {len(cfg.multipliers) - 1} times, so its side "
            f"must be a multiple of {factor}, got {cfg.image_size}; use dataset.image_size={below or factor} or fewer "
            "model.multipliers"
        )
    sizes = [cfg.image_size // (cfg.patch_size * 2**level) for level in range(len(cfg.multipliers))]
    if absent := set(cfg.attention_resolutions) - set(sizes):
        raise ValueError(f"model.attention_resolutions has {shown(min(absent))}, but the levels' sizes are {sizes}")
