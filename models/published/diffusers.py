"""Import of a `UNet2DModel` that diffusers saved with its scheduler, the format of many DDPM and DDIM checkpoints.

    config.json, diffusion_pytorch_model.safetensors, scheduler_config.json    in one folder, as on the hub, or
    unet/ with the first two, scheduler/ with the third                        as a pipeline saves itself, or
    unet_ema/ with the first two, scheduler/ in the folder above               as its training script does

Neither diffusers nor torch is needed to read them. Names and defaults of options are those of diffusers 0.42.
"""

import re
from pathlib import Path

import numpy as np

import deis
from formats.files import read_json, read_safetensors
from formats.short import named, shown
from models.config import UNetConfig, validate
from models.layout import Stage, stages
from models.published import allowed
from models.published.allowed import Options, Table, checked, errors_naming, refuse_unknown
from models.published.network import PublishedNetwork
from models.published.translate import TORCH, Modules, Rule, Rules, Tensors, rules_for, torch_layout, translate

_OUTPUTS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


UNET: Table = {
    "sample_size": (None, (allowed.is_count, "the side of a square image in pixels")),
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

_EMA = ("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
"""What EMAModel writes into config.json beside the network's options, of how the average was taken."""

SCHEDULER: Table = {
    "beta_schedule": (None, allowed.one_of(*_SCHEDULES)),
    "beta_start": (None, allowed.FRACTION),
    "beta_end": (None, allowed.FRACTION),
    "num_train_timesteps": (None, allowed.count_up_to(100_000)),
    "trained_betas": (None, allowed.FRACTIONS_OR_NONE),
    "rescale_betas_zero_snr": (False, allowed.FLAG),
    "prediction_type": ("epsilon", allowed.one_of(*_OUTPUTS)),
    "predict_epsilon": (True, allowed.one_of(True)),  # the older name of prediction_type
}
"""The diffusion that the network was trained under. A scheduler's other options concern sampling and are not read."""

FLOW_SCHEDULER: Table = {
    "num_train_timesteps": (1000, allowed.one_of(1000)),
    "shift": (1.0, allowed.number(1e-3, 1e3)),
    "flow_shift": (1.0, allowed.number(1e-3, 1e3)),  # the same, of schedulers that have flow_prediction among others
    "invert_sigmas": (False, allowed.one_of(False)),
}
"""The diffusion that a flow model was trained under. It is told 1000 sigma; its shift is that of its grids."""

_MODULES: Modules = {
    "embed_in": "time_embedding.linear_1",
    "embed_out": "time_embedding.linear_2",
    "conv_in": "conv_in",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}
_STAGE = {  # modules of a stage, by its number in a block of diffusers
    "norm_1": "resnets.{}.norm1",
    "conv_1": "resnets.{}.conv1",
    "embed": "resnets.{}.time_emb_proj",
    "norm_2": "resnets.{}.norm2",
    "conv_2": "resnets.{}.conv2",
    "shortcut": "resnets.{}.conv_shortcut",
    "attention.norm": "attentions.{}.group_norm",
}
_ATTENTION, _OLD_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0"), ("query", "key", "value", "proj_attn")


def read_diffusers(folder: Path, time: str = "t") -> PublishedNetwork:
    """Read the network in a folder that diffusers saved, whose time is the index t of its discrete diffusion.

    Of a folder with unet_ema/ and unet/ the former is read, the average of the weights.

    time: the noise conditioning, "t", or "t_plus_1", which DDIM's CelebA network was trained with.
    Raises FileNotFoundError for a missing file; ValueError, naming the option or tensor, for a network that cannot be
    expressed here, and for tensors that are damaged or do not fit.
    """
    if time not in ("t", "t_plus_1"):
        raise ValueError(f"time must be t or t_plus_1 for a network of diffusers, got {time!r}")
    unet = next((folder / name for name in ("unet_ema", "unet") if (folder / name).is_dir()), folder)
    config = read_json(unet / "config.json")
    with errors_naming(unet / "config.json"):
        options = _unet(config)
    sde, output = _scheduler(_scheduler_file(folder))
    if output == "flow" and time != "t":
        raise ValueError(f"{folder} is a flow model, which is told sigma: there is no time {time} for it")
    model = _model(options, "flow_1000" if output == "flow" else time, output)
    with errors_naming(unet / "config.json"):
        validate(model)
    path, *parts = _weights(unet)
    tensors = read_safetensors(path)
    for part in parts:
        tensors |= read_safetensors(part)
    with errors_naming(path):
        params = translate(_rules(model, tensors, options["flip_sin_to_cos"]), tensors, model)
    return PublishedNetwork("diffusers", str(path), model, sde, params)


def _weights(unet: Path) -> list[Path]:
    """Return the file of the weights, or the parts of one that was cut up; of a variant, as fp16, if there is no other.

    Raises ValueError if there are several variants alone, FileNotFoundError for pickles.
    """
    name, found = "diffusion_pytorch_model", dict[Path, list[Path]]()
    for file in sorted(unet.glob(f"{name}*.safetensors")):  # parts are NAME.fp16-00001-of-00002, or fp16 comes last
        found.setdefault(unet / re.sub(r"-\d+-of-\d+", "", file.name), []).append(file)
    whole = unet / f"{name}.safetensors"
    if len(found) > 1 and whole not in found:
        raise ValueError(f"{unet} has {named([path.name for path in found])}, and must have one of them")
    if not found and (pickled := sorted(unet.glob(f"{name}*.bin"))):
        raise FileNotFoundError(
            f"{pickled[0]} is a pickle, which can run code and is not read; save it as safetensors: "
            f"diffusers.UNet2DModel.from_pretrained({str(unet)!r}).save_pretrained({str(unet)!r})"
        )
    chosen = whole if whole in found else next(iter(found), whole)
    parts = found.get(chosen, [])
    return [chosen] if chosen in parts or not parts else parts


def _scheduler_file(folder: Path) -> Path:
    """Return where the scheduler's options are: in the folder, its scheduler/, or that of a folder one or two above."""
    above = folder.absolute().parents[:2]
    places = [folder, *(where / "scheduler" for where in (folder, *above))]
    files = [place / "scheduler_config.json" for place in places]
    return next((file for file in files if file.is_file()), files[0])


def _scheduler(path: Path) -> tuple[Options, str]:
    """Return the SDE that a network was trained under, and what it predicts."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist, and nothing else says under which diffusion the network was trained; for that of "
            'DDPM, write {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02, '
            '"num_train_timesteps": 1000, "prediction_type": "epsilon"} into it'
        )
    config = read_json(path)
    with errors_naming(path):
        if config.get("prediction_type") == "flow_prediction" or str(config.get("_class_name")).startswith("FlowMatch"):
            options = checked(config, FLOW_SCHEDULER)
            return {"name": "flow", "shift": float(options["shift"] * options["flow_shift"])}, "flow"
        betas = config.get("trained_betas")
        known = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02} if betas else {}  # they say nothing
        options = checked(config | known, SCHEDULER)
        output, zero_snr = _OUTPUTS[options["prediction_type"]], options["rescale_betas_zero_snr"]
        if zero_snr and output == "eps":
            raise ValueError("rescale_betas_zero_snr needs prediction_type v_prediction or sample: eps is x at the end")
        if betas and len(betas) != options["num_train_timesteps"]:
            raise ValueError(f"trained_betas must be {options['num_train_timesteps']}, as num_train_timesteps says")
        sde = {
            "schedule": _SCHEDULES[options["beta_schedule"]],
            "beta_start": options["beta_start"],
            "beta_end": options["beta_end"],
            "num_times": options["num_train_timesteps"],
        }
        sde |= ({"zero_terminal_snr": True} if zero_snr else {}) | ({"betas": betas} if betas else {})
        deis.discrete_vp(**sde)
    return {"name": "discrete_vp", **sde}, output


def _unet(config: Options) -> Options:
    """Return all options of a UNet2DModel, defaults included; sample_size is one side. Raises ValueError."""
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"it must be of the class UNet2DModel, got _class_name={shown(config.get('_class_name'))}")
    refuse_unknown({name: value for name, value in config.items() if not name.startswith("_")}, {*UNET, *_EMA})
    match config.get("sample_size"):
        case [height, width] if height == width:
            config = config | {"sample_size": width}
    options = checked(config, UNET)
    widths, groups, head = (options[n] for n in ("block_out_channels", "norm_num_groups", "attention_head_dim"))
    up_types = [name.replace("Down", "Up") for name in reversed(options["down_block_types"])]
    factor = 2 ** (len(widths) - 1)
    for name, holds, wanted in (
        ("out_channels", options["out_channels"] == options["in_channels"], "equal to in_channels"),
        ("block_out_channels", widths[0] % 2 == 0 and widths[0] >= 4, "even and at least 4 in the first level"),
        ("block_out_channels", all(w % widths[0] == 0 for w in widths), "multiples of the first of them"),
        ("down_block_types", len(up_types) == len(widths), f"{len(widths)}, as many as block_out_channels"),
        ("up_block_types", options["up_block_types"] == up_types, "down_block_types from last to first"),
        ("norm_num_groups", all(w % groups == 0 for w in widths), f"a divisor of each of {shown(widths)}"),
        ("attn_norm_num_groups", options["attn_norm_num_groups"] in (None, groups), f"None or {groups}"),
        (
            "attention_head_dim",
            all(w % (head or 1) == 0 for w in widths),
            f"None or a divisor of each of {shown(widths)}",
        ),
        ("time_embedding_dim", options["time_embedding_dim"] in (None, 4 * widths[0]), f"None or {4 * widths[0]}"),
        ("sample_size", options["sample_size"] % factor == 0, f"a multiple of {factor}"),
    ):
        if not holds:
            raise ValueError(f"{name} must be {wanted}, got {shown(options[name])}")
    return options


def _model(options: Options, time: str, output: str) -> UNetConfig:
    channels, size, types = options["block_out_channels"][0], options["sample_size"], options["down_block_types"]
    return UNetConfig(
        channels=channels,
        multipliers=[width // channels for width in options["block_out_channels"]],
        num_blocks=options["layers_per_block"],
        attention_resolutions=[size // 2**i for i, name in enumerate(types) if name == "AttnDownBlock2D"],
        head_channels=options["attention_head_dim"],
        downsample_padding=options["downsample_padding"],
        num_groups=options["norm_num_groups"],
        min_group_channels=1,
        norm_eps=options["norm_eps"],
        freq_shift=options["freq_shift"],
        num_classes=options["num_class_embeds"] or 0,
        dropout=options["dropout"],
        time=time,
        input="x",
        output=output,
        image_size=size,
        image_channels=options["in_channels"],
    )


def _rules(model: UNetConfig, tensors: Tensors, flip_sin_to_cos: bool) -> Rules:
    modules = dict(_MODULES)
    for stage in stages(model):
        ours, (block, number) = f"stages.{stage.name}", _place(stage, model)
        modules |= {f"{ours}.{part}": f"{block}.{name.format(number)}" for part, name in _STAGE.items()}
        modules[f"{ours}.conv"] = f"{block}.{stage.kind}rs.0.conv"
        attention = f"{block}.attentions.{number}"
        is_old = f"{attention}.query.weight" in tensors  # older files have other names, and may hold 1x1 convolutions
        *qkv, out = (f"{attention}.{name}" for name in (_OLD_ATTENTION if is_old else _ATTENTION))
        modules |= {f"{ours}.attention.qkv": tuple(qkv), f"{ours}.attention.out": out}
    rules = rules_for(modules, TORCH, torch_layout) | {"embed_label.embedding": Rule(("class_embedding.weight",))}
    if flip_sin_to_cos:
        rules["embed_in.kernel"] = Rule(("time_embedding.linear_1.weight",), _cosines_first)
    return rules


def _place(stage: Stage, model: UNetConfig) -> tuple[str, int]:
    """Return the block that holds a stage, and the stage's number in it; a block ends with the resampling."""
    assert model.image_size is not None
    way, number = stage.name.split("_")[0], stage.name.split("_")[-1]
    level = (model.image_size // stage.size).bit_length() - 1
    if way == "middle":
        return "mid_block", int(number)
    index = level if way == "down" else len(model.multipliers) - 1 - level
    return (f"{way}_blocks.{index}", int(number)) if stage.kind == "block" else (f"{way}_blocks.{index - 1}", 0)


def _cosines_first(weight: np.ndarray) -> np.ndarray:
    """Return the kernel of a layer whose inputs are the cosines and then the sines; here the sines come first."""
    return np.roll(torch_layout(weight), weight.shape[1] // 2, axis=0)
