"""The options that diffusers saves with a `UNet2DModel` and its scheduler, and what they are called here.

Names and defaults are those of diffusers 0.42.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import deis
from formats.files import read_json
from models.config import UNetConfig

Options = dict[str, Any]

_OUTPUTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


class Option(NamedTuple):
    """What diffusers takes for an option that is not in the file, and which values can be imported."""

    default: Any
    is_allowed: Callable[[Any], bool]
    allowed: str


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in values, " or ".join(map(repr, values))


def _list_of(*values: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, list) and all(v in values for v in value), f"a list of {', '.join(values)}"


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_is_count, value))


def _is_side(value: Any) -> bool:
    return _is_count(value) or (_are_counts(value) and len(value) == 2 and value[0] == value[1])


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


_COUNT = (_is_count, "a whole number of at least 1")
_COUNT_OR_NONE = (lambda value: value is None or _is_count(value), "None or a whole number of at least 1")
_FRACTION = (_is_fraction, "a number between 0 and 1")

UNET = {
    "sample_size": Option(None, _is_side, "the side of a square image in pixels"),
    "in_channels": Option(3, *_COUNT),
    "out_channels": Option(3, *_COUNT),
    "center_input_sample": Option(False, *_one_of(False)),
    "time_embedding_type": Option("positional", *_one_of("positional")),
    "time_embedding_dim": Option(None, *_COUNT_OR_NONE),
    "freq_shift": Option(0, *_one_of(0, 1)),
    "flip_sin_to_cos": Option(True, *_one_of(False, True)),
    "down_block_types": Option(["DownBlock2D", *["AttnDownBlock2D"] * 3], *_list_of("DownBlock2D", "AttnDownBlock2D")),
    "mid_block_type": Option("UNetMidBlock2D", *_one_of("UNetMidBlock2D")),
    "up_block_types": Option([*["AttnUpBlock2D"] * 3, "UpBlock2D"], *_list_of("UpBlock2D", "AttnUpBlock2D")),
    "block_out_channels": Option([224, 448, 672, 896], _are_counts, "a list of whole numbers of at least 1"),
    "layers_per_block": Option(2, *_COUNT),
    "mid_block_scale_factor": Option(1, *_one_of(1)),
    "downsample_padding": Option(1, *_one_of(0, 1)),
    "downsample_type": Option("conv", *_one_of("conv")),
    "upsample_type": Option("conv", *_one_of("conv")),
    "dropout": Option(0.0, lambda value: value == 0 or _is_fraction(value), "a number of at least 0 and below 1"),
    "act_fn": Option("silu", *_one_of("silu", "swish")),
    "attention_head_dim": Option(8, *_COUNT_OR_NONE),
    "norm_num_groups": Option(32, *_COUNT),
    "attn_norm_num_groups": Option(None, *_COUNT_OR_NONE),
    "norm_eps": Option(1e-5, *_FRACTION),
    "resnet_time_scale_shift": Option("default", *_one_of("default")),
    "add_attention": Option(True, *_one_of(True)),
    "class_embed_type": Option(None, *_one_of(None)),
    "num_class_embeds": Option(None, *_COUNT_OR_NONE),
    "num_train_timesteps": Option(None, *_COUNT_OR_NONE),  # read for learned time embeddings only
}

SCHEDULER = {
    "beta_schedule": Option(None, *_one_of(*_SCHEDULES)),
    "beta_start": Option(None, *_FRACTION),
    "beta_end": Option(None, *_FRACTION),
    "num_train_timesteps": Option(None, *_COUNT),
    "trained_betas": Option(None, *_one_of(None)),
    "rescale_betas_zero_snr": Option(False, *_one_of(False)),
    "prediction_type": Option("epsilon", *_one_of(*_OUTPUTS)),
    "predict_epsilon": Option(True, *_one_of(True)),  # the older name of prediction_type
}
"""What the network was trained for. A scheduler's other options are of how diffusers samples, and are not read."""


def read_scheduler(path: Path, given: Options | None = None) -> tuple[Options, str]:
    """The options of the SDE that a network was trained under, and what it predicts; from the file unless given."""
    if given is None and not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and nothing else says under which diffusion the network was trained; for that of "
            'DDPM, write {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, '
            '"num_train_timesteps": 1000, "prediction_type": "epsilon"} into it'
        )
    source = str(path) if given is None else "scheduler"
    options = _checked(source, read_json(path) if given is None else given, SCHEDULER)
    sde = {
        "schedule": _SCHEDULES[options["beta_schedule"]],
        "beta_start": options["beta_start"],
        "beta_end": options["beta_end"],
        "num_times": options["num_train_timesteps"],
    }
    try:
        deis.discrete_vp(**sde)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return {"name": "discrete_vp", **sde}, _OUTPUTS[options["prediction_type"]]


def read_unet(path: Path) -> Options:
    """All options of the UNet2DModel that a config.json describes, defaults included; all of them can be imported."""
    config = read_json(path)
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{path} must be of the class UNet2DModel, got _class_name={config.get('_class_name')!r}")
    if unknown := sorted(name for name in config.keys() - UNET.keys() if not name.startswith("_")):
        raise ValueError(f"{path} has an option {unknown[0]}={config[unknown[0]]!r}, which is not known here")
    options = _checked(str(path), config, UNET)
    widths, groups, head = (options[n] for n in ("block_out_channels", "norm_num_groups", "attention_head_dim"))
    up_types = [name.replace("Down", "Up") for name in reversed(options["down_block_types"])]
    factor = 2 ** (len(widths) - 1)
    for name, holds, wanted in (
        ("out_channels", options["out_channels"] == options["in_channels"], "equal to in_channels"),
        ("block_out_channels", widths[0] % 2 == 0 and widths[0] >= 4, "even and at least 4 in the first level"),
        ("block_out_channels", all(w % widths[0] == 0 for w in widths), "multiples of the first of them"),
        ("down_block_types", len(up_types) == len(widths), f"{len(widths)}, as many as block_out_channels"),
        ("up_block_types", options["up_block_types"] == up_types, "down_block_types from last to first"),
        ("norm_num_groups", all(w % groups == 0 for w in widths), f"a divisor of each of {widths}"),
        ("attn_norm_num_groups", options["attn_norm_num_groups"] in (None, groups), f"None or {groups}"),
        ("attention_head_dim", all(w % (head or 1) == 0 for w in widths), f"None or a divisor of each of {widths}"),
        ("time_embedding_dim", options["time_embedding_dim"] in (None, 4 * widths[0]), f"None or {4 * widths[0]}"),
        ("sample_size", _side(options) % factor == 0, f"a multiple of {factor}"),
    ):
        if not holds:
            raise ValueError(f"{path}: {name} must be {wanted}, got {options[name]!r}")
    return options


def model_of(options: Options, time: str, output: str) -> UNetConfig:
    """The network that the options of `read_unet` describe."""
    channels, size = options["block_out_channels"][0], _side(options)
    types = options["down_block_types"]
    return UNetConfig(
        channels=channels,
        multipliers=[width // channels for width in options["block_out_channels"]],
        num_blocks=options["layers_per_block"],
        attention_resolutions=[size // 2**i for i, name in enumerate(types) if name == "AttnDownBlock2D"],
        up_attention="every",
        head_channels=options["attention_head_dim"],
        resample="conv",
        downsample_padding=options["downsample_padding"],
        num_groups=options["norm_num_groups"],
        min_group_channels=1,
        norm_eps=options["norm_eps"],
        embedding="positional",
        freq_shift=options["freq_shift"],
        num_classes=options["num_class_embeds"] or 0,
        class_embedding="after",
        dropout=options["dropout"],
        time=time,
        input="x",
        output=output,
        image_size=size,
        image_channels=options["in_channels"],
    )


def _checked(source: str, config: Options, table: dict[str, Option]) -> Options:
    """The options in `table`, from `config` or by default."""
    options = {name: config.get(name, option.default) for name, option in table.items()}
    for name, option in table.items():
        if not option.is_allowed(options[name]):
            raise ValueError(f"{source}: {name} must be {option.allowed}, got {options[name]!r}")
    return options


def _side(options: Options) -> int:
    size = options["sample_size"]
    return size[0] if isinstance(size, list) else size
