"""Networks of EDM's code (Karras et al., arXiv 2206.00364), from its pickles: DDPM++ and NCSN++ as it retrained them.

A pickle holds {"ema": network, ...}. The network is a preconditioner, which says what the numbers mean, around a
SongUNet; each carries the arguments that it was made with.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from formats.torch_pickle import Record, read_torch
from models.config import UNetConfig, validate
from models.layout import Stage, stages
from models.published.torch_layers import conv, layer, linear, norm
from models.published.weights import Rule, Tensors, Weights, translate

_FORMS: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"time": "log_sigma_4", "input": "unit", "output": "edm"},
    "VPPrecond": {"time": "t_999", "input": "x", "output": "eps"},
    "VEPrecond": {"time": "log_half_sigma", "input": "x", "output": "sigma_score"},
}
"""What the network is told and answers, by preconditioner (table 1)."""

_DEFAULTS: dict[str, Any] = {
    "label_dim": 0,
    "augment_dim": 0,
    "model_channels": 128,
    "channel_mult": [1, 2, 2, 2],
    "channel_mult_emb": 4,
    "num_blocks": 4,
    "attn_resolutions": [16],
    "dropout": 0.1,
    "label_dropout": 0.0,
    "embedding_type": "positional",
    "channel_mult_noise": 1,
    "encoder_type": "standard",
    "decoder_type": "standard",
    "resample_filter": [1, 1],
}
"""SongUNet's arguments that may be absent; those of `_REQUIRED` may not."""
_REQUIRED = {"img_resolution": 32, "in_channels": 3, "out_channels": 3}

_EXPRESSED: dict[str, tuple[Any, ...]] = {
    "channel_mult_emb": (4,),
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "residual"),
    "decoder_type": ("standard",),
    "resample_filter": ([1, 1], [1, 3, 3, 1]),
}
"""The values that this project's network can express."""


def read_edm(path: Path) -> Weights:
    """The network "ema" of a pickle of EDM, in float32. No code in the file is run.

    The diffusion of an EDMPrecond, which may be asked for any sigma, is cut to EDM's [0.002, 80].
    Raises FileNotFoundError; ValueError, naming option or tensor, for a file that is damaged or asks for code, for
    another network than a SongUNet, and for tensors that do not fit the network's arguments.
    """
    content = read_torch(path)
    try:
        if not isinstance(content, dict) or "ema" not in content:
            raise ValueError("it holds no network ema, as a pickle of EDM does")
        form, state = _object(content["ema"], list(_FORMS))
        name, unet = _object(_attributes(state, "_modules").get("model"), ["SongUNet"])
        tensors = _tensors(content["ema"])
        options = _options(name, unet)
        _refuse_larger(options, tensors)
        model, sde = _model(options, form, state), _sde(form, state)
        validate(model)
        unused = {tensor for tensor in tensors if tensor.endswith(".resample_filter")}  # [1, 1] or [1, 3, 3, 1]
        if options["augment_dim"]:
            unused.add("model.map_augment.weight")  # tells of a training image's augmentation
        params = translate(_rules(model), tensors, model, unused)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Weights("edm", str(path), model, sde, params)


def _object(found: Any, known: list[str]) -> tuple[str, dict[str, Any]]:
    """Class and attributes of an object."""
    if not isinstance(found, Record) or not isinstance(found.state, dict):
        raise ValueError("its ema is not a network as EDM saves it")
    if found.get("class_name") not in known:
        raise ValueError(f"its network has the class {found.get('class_name')}, and must have {' or '.join(known)}")
    return found["class_name"], found.state


def _attributes(state: dict[str, Any], name: str) -> dict[str, Any]:
    found = state.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} of its network must be a dictionary, got a {type(found).__name__}")
    return found


def _tensors(module: Any, prefix: str = "") -> Tensors:
    """All parameters and buffers, named by path: model.enc.32x32_conv.weight."""
    if not isinstance(module, Record) or not isinstance(module.state, dict) or prefix.count(".") > 8:
        raise ValueError(f"{prefix.removesuffix('.')} is not a layer as EDM saves it")
    found: Tensors = {}
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _attributes(module.state, kind).items():
            if isinstance(tensor, np.ndarray):
                found[f"{prefix}{name}"] = tensor
            elif tensor is not None:
                raise ValueError(f"{prefix}{name} must be a tensor, got a {type(tensor).__name__}")
    for name, child in _attributes(module.state, "_modules").items():
        if child is not None:
            found |= _tensors(child, f"{prefix}{name}.")
    return found


def _options(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """SongUNet's arguments. Raises ValueError for one that is absent, unknown, or has a value that cannot be used."""
    given = _attributes(state, "_init_kwargs")
    if absent := _REQUIRED.keys() - given.keys():
        raise ValueError(f"{name} is without its argument {min(absent)}")
    if unknown := given.keys() - _DEFAULTS.keys() - _REQUIRED.keys():
        raise ValueError(f"{name} has an argument {min(unknown, key=str)}, which is not known here")
    options = {
        argument: list(value) if isinstance(value, tuple) else value for argument, value in (_DEFAULTS | given).items()
    }
    for argument, example in (_REQUIRED | _DEFAULTS).items():
        if not _is_like(example, options[argument]):
            raise ValueError(f"{name}'s {argument} must be like {example!r}, got {options[argument]!r}")
    is_fourier, is_residual = options["embedding_type"] == "fourier", options["encoder_type"] == "residual"
    expressed = _EXPRESSED | {
        "channel_mult_noise": (2 if is_fourier else 1,),
        "out_channels": (options["in_channels"],),
        "resample_filter": ([1, 3, 3, 1],) if is_residual else _EXPRESSED["resample_filter"],
    }
    for argument, values in expressed.items():
        if options[argument] not in values:
            allowed = " or ".join(map(repr, values))
            raise ValueError(f"{name}'s {argument} must be {allowed} here, got {options[argument]!r}")
    return options


def _refuse_larger(options: dict[str, Any], tensors: Tensors) -> None:
    """Stop at arguments that no tensors here could fit, before anything is made that is as large as they say."""
    width = options["model_channels"] * max(options["channel_mult"], default=1)
    widest = max(width, options["in_channels"], options["label_dim"])
    if options["num_blocks"] > len(tensors) or widest > max((t.size for t in tensors.values()), default=0):
        raise ValueError(f"the network's arguments ask for more than its {len(tensors)} tensors")


def _is_like(example: Any, value: Any) -> bool:
    """Of the same type, and not negative; a float may be written as a whole number."""
    if isinstance(example, list):
        return isinstance(value, list) and all(_is_like(1, item) for item in value)
    if isinstance(example, str):
        return isinstance(value, str)
    return type(value) in {int, type(example)} and value >= 0


def _model(options: dict[str, Any], form: str, state: dict[str, Any]) -> UNetConfig:
    levels = range(len(options["channel_mult"]))
    sizes = {options["img_resolution"] >> level for level in levels}
    return UNetConfig(
        channels=options["model_channels"],
        multipliers=options["channel_mult"],
        num_blocks=options["num_blocks"],
        attention_resolutions=[size for size in options["attn_resolutions"] if size in sizes],
        up_attention="last",
        resample="block",
        fir=len(options["resample_filter"]) == 4,
        input_pyramid=options["encoder_type"] == "residual",
        skip_rescale=True,
        embedding=options["embedding_type"],
        num_classes=options["label_dim"],
        class_embedding="before",
        dropout=float(options["dropout"]),
        sigma_data=_number(state, "sigma_data") if form == "EDMPrecond" else 1.0,
        image_size=options["img_resolution"],
        image_channels=options["in_channels"],
        **_FORMS[form],
    )


def _sde(form: str, state: dict[str, Any]) -> dict[str, Any]:
    """The diffusion, with the times between which EDM, or score_sde, samples."""
    if form == "VPPrecond":
        if state.get("M") != 1000:  # t_999 stands for (M - 1) t
            raise ValueError(f"VPPrecond's M must be 1000 here, got {state.get('M')!r}")
        beta_0 = _number(state, "beta_min")
        return {
            "name": "vp_linear",
            "beta_0": beta_0,
            "beta_1": beta_0 + _number(state, "beta_d"),
            "t_0": 1e-3,
            "T": 1.0,
        }
    low, high = _number(state, "sigma_min", least=0.0), _number(state, "sigma_max", most=math.inf)
    if form == "EDMPrecond":
        low, high = max(low, 0.002), min(high, 80.0)
    if not 0 < low < high:
        raise ValueError(f"{form}'s sigma_min must lie below sigma_max, got {low:g} and {high:g}")
    if form == "EDMPrecond":
        return {"name": "edm", "t_0": low, "T": high}
    return {"name": "ve", "sigma_min": low, "sigma_max": high, "t_0": 1e-5, "T": 1.0}


def _number(state: dict[str, Any], name: str, least: float = 1e-6, most: float = 1e6) -> float:
    value: Any = state.get(name)
    is_number = type(value) is float or (type(value) is int and abs(value) < 2**53)
    if not is_number or not least <= value <= most:
        raise ValueError(f"{name} of its network must be a number from {least:g} to {most:g}, got {value!r}")
    return float(value)


def _rules(model: UNetConfig) -> list[Rule]:
    side = f"{model.image_size}x{model.image_size}"
    rules = [
        *layer("embed_in", "model.map_layer0", linear),
        *layer("embed_out", "model.map_layer1", linear),
        *layer("conv_in", f"model.enc.{side}_conv", conv),
        *norm("norm_out", f"model.dec.{side}_aux_norm"),
        *layer("conv_out", f"model.dec.{side}_aux_conv", conv),
    ]
    if model.embedding == "fourier":
        rules.append(Rule("fourier.frequency", ("model.map_noise.freqs",)))
    if model.num_classes:
        rules.append(Rule("embed_label.embedding", ("model.map_label.weight", "model.map_label.bias"), _per_class))
    for stage in stages(model):
        rules += _block(stage, f"stages.{stage.name}", _place(stage))
        if stage.pyramid:
            name = f"model.enc.{stage.size}x{stage.size}_aux_residual"
            rules += layer(f"pyramid.{stage.name}.conv", name, conv)
    return rules


def _place(stage: Stage) -> str:
    """The name of a stage in SongUNet, which counts the middle to the decoder: down_16_1 is model.enc.16x16_block1."""
    way, number = stage.name.split("_")[0], stage.name.split("_")[-1]
    coder = "enc" if way == "down" else "dec"
    name = stage.resample or (f"in{number}" if way == "middle" else f"block{number}")
    return f"model.{coder}.{stage.size}x{stage.size}_{name}"


def _block(stage: Stage, ours: str, theirs: str) -> list[Rule]:
    rules = [
        *norm(f"{ours}.norm_1", f"{theirs}.norm0"),
        *layer(f"{ours}.conv_1", f"{theirs}.conv0", conv),
        *layer(f"{ours}.embed", f"{theirs}.affine", linear),
        *norm(f"{ours}.norm_2", f"{theirs}.norm1"),
        *layer(f"{ours}.conv_2", f"{theirs}.conv1", conv),
    ]
    if stage.n_in != stage.n_out or stage.resample:
        rules += layer(f"{ours}.shortcut", f"{theirs}.skip", linear)
    if stage.attention:
        rules += [
            *norm(f"{ours}.attention.norm", f"{theirs}.norm2"),
            Rule(f"{ours}.attention.qkv.kernel", (f"{theirs}.qkv.weight",), lambda weight: linear(_thirds(weight))),
            Rule(f"{ours}.attention.qkv.bias", (f"{theirs}.qkv.bias",), _thirds),
            *layer(f"{ours}.attention.out", f"{theirs}.proj", linear),
        ]
    return rules


def _thirds(tensor: np.ndarray) -> np.ndarray:
    """Outputs q, k, v in thirds; EDM's go q, k, v for the first channel, q, k, v for the second, ..."""
    return np.concatenate([tensor[i::3] for i in range(3)])


def _per_class(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A row per class of what a linear layer makes of sqrt(number of classes) times its one-hot vector."""
    if bias.shape != weight.shape[:1]:
        raise ValueError("a bias must not be spread over several outputs")
    return math.sqrt(weight.shape[1]) * weight.T + bias
