"""The options that diffusers saves with a `UNet2DModel` and its scheduler, translated into those of this project.

Names and defaults are those of diffusers 0.42.
"""

from pathlib import Path
from typing import Any

import deis
from formats.files import read_json
from models.config import UNetConfig
from models.published import allowed
from models.published.options import Options, Table, checked, refuse_unknown

_OUTPUTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


def _is_side(value: Any) -> bool:
    return allowed.is_count(value) or (allowed.are_counts(value) and len(value) == 2 and value[0] == value[1])


UNET: Table = {
    "sample_size": (None, (_is_side, "the side of a square image in pixels")),
    "in_channels": (3, allowed.COUNT),
    "out_channels": (3, allowed.COUNT),
    "center_input_sample": (False, allowed.one_of(False)),
    "time_embedding_type": ("positional", allowed.one_of("positional")),
    "time_embedding_dim": (None, allowed.COUNT_OR_NONE),
    "freq_shift": (0, allowed.one_of(0, 1)),
    "flip_sin_to_cos": (True, allowed.FLAG),
    "down_block_types": (["DownBlock2D", *["AttnDownBlock2D"] * 3], allowed.list_of("DownBlock2D", "AttnDownBlock2D")),
    "mid_block_type": ("UNetMidBlock2D", allowed.one_of("UNetMidBlock2D")),
    "up_block_types": ([*["AttnUpBlock2D"] * 3, "UpBlock2D"], allowed.list_of("UpBlock2D", "AttnUpBlock2D")),
    "block_out_channels": ([224, 448, 672, 896], allowed.COUNTS),
    "layers_per_block": (2, allowed.COUNT),
    "mid_block_scale_factor": (1, (lambda value: value == 1, "1")),
    "downsample_padding": (1, allowed.one_of(0, 1)),
    "downsample_type": ("conv", allowed.one_of("conv")),
    "upsample_type": ("conv", allowed.one_of("conv")),
    "dropout": (0.0, allowed.DROPOUT),
    "act_fn": ("silu", allowed.one_of("silu", "swish")),
    "attention_head_dim": (8, allowed.COUNT_OR_NONE),
    "norm_num_groups": (32, allowed.COUNT),
    "attn_norm_num_groups": (None, allowed.COUNT_OR_NONE),
    "norm_eps": (1e-5, allowed.FRACTION),
    "resnet_time_scale_shift": ("default", allowed.one_of("default")),
    "add_attention": (True, allowed.one_of(True)),
    "class_embed_type": (None, allowed.one_of(None)),
    "num_class_embeds": (None, allowed.COUNT_OR_NONE),
    "num_train_timesteps": (None, allowed.COUNT_OR_NONE),  # read for learned time embeddings only
}

SCHEDULER: Table = {
    "beta_schedule": (None, allowed.one_of(*_SCHEDULES)),
    "beta_start": (None, allowed.FRACTION),
    "beta_end": (None, allowed.FRACTION),
    "num_train_timesteps": (None, allowed.COUNT),
    "trained_betas": (None, allowed.one_of(None)),
    "rescale_betas_zero_snr": (False, allowed.one_of(False)),
    "prediction_type": ("epsilon", allowed.one_of(*_OUTPUTS)),
    "predict_epsilon": (True, allowed.one_of(True)),  # the older name of prediction_type
}
"""The diffusion that the network was trained under. A scheduler's other options concern sampling and are not read."""


def read_scheduler(path: Path, given: Options | None = None) -> tuple[Options, str]:
    """Return the options of the SDE that a network was trained under, and what it predicts.

    given: the scheduler's options, used instead of the file.
    Raises FileNotFoundError if there is neither, ValueError for an option that cannot be expressed here.
    """
    if given is None and not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and nothing else says under which diffusion the network was trained; for that of "
            'DDPM, write {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, '
            '"num_train_timesteps": 1000, "prediction_type": "epsilon"} into it'
        )
    source = str(path) if given is None else "scheduler"
    options = checked(source, read_json(path) if given is None else given, SCHEDULER)
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
    """Return all options of the UNet2DModel that a config.json describes, defaults included.

    Raises ValueError for another class, and for an option that cannot be expressed here.
    """
    config = read_json(path)
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{path} must be of the class UNet2DModel, got _class_name={config.get('_class_name')!r}")
    refuse_unknown(str(path), {name: config[name] for name in config if not name.startswith("_")}, UNET)
    options = checked(str(path), config, UNET)
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
    """Return the network that the options of `read_unet` describe, with this noise conditioning and prediction."""
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


def _side(options: Options) -> int:
    size = options["sample_size"]
    return size[0] if isinstance(size, list) else size
