"""Import of the pickles of EDM (Karras et al., arXiv 2206.00364): DDPM++ and NCSN++ as EDM retrained them.

A pickle holds {"ema": network, ...}. The network is a preconditioner around a SongUNet, which carries the arguments
that it was made with.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from formats.short import short, shown
from formats.torch_pickle import Record, read_torch
from models.config import UNetConfig, validate
from models.layout import stages
from models.published import allowed
from models.published.allowed import REQUIRED, Options, Table, checked, errors_naming, refuse_unknown, require
from models.published.network import PublishedNetwork
from models.published.translate import TORCH, Modules, Rule, Rules, Tensors, rules_for, torch_layout, translate

_FORMS: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"time": "log_sigma_4", "input": "unit", "output": "edm"},
    "VPPrecond": {"time": "t_999", "input": "x", "output": "eps"},
    "VEPrecond": {"time": "log_half_sigma", "input": "x", "output": "sigma_score"},
}
"""Noise conditioning, input scaling and prediction of each preconditioner (table 1)."""

_POSITIVE = (REQUIRED, allowed.number(1e-6, 1e6))
_SIGMAS: Table = {
    "sigma_min": (REQUIRED, allowed.number(0, 1e6)),
    "sigma_max": (REQUIRED, allowed.number(1e-6, math.inf)),
}
PRECONDITIONERS: dict[str, Table] = {
    "EDMPrecond": _SIGMAS | {"sigma_data": _POSITIVE},
    "VPPrecond": {"M": (REQUIRED, allowed.one_of(1000)), "beta_min": _POSITIVE, "beta_d": _POSITIVE},
    "VEPrecond": _SIGMAS,
}
"""The attributes of each preconditioner that are read. VPPrecond's noise conditioning is (M - 1) t, our t_999."""

SONG_UNET: Table = {
    "img_resolution": (REQUIRED, allowed.COUNT),
    "in_channels": (REQUIRED, allowed.COUNT),
    "out_channels": (REQUIRED, allowed.COUNT),
    "label_dim": (0, allowed.COUNT_OR_ZERO),
    "augment_dim": (0, allowed.COUNT_OR_ZERO),
    "model_channels": (128, allowed.COUNT),
    "channel_mult": ([1, 2, 2, 2], allowed.COUNTS),
    "channel_mult_emb": (4, allowed.one_of(4)),
    "num_blocks": (4, allowed.COUNT),
    "attn_resolutions": ([16], allowed.COUNTS_OR_EMPTY),
    "dropout": (0.10, allowed.DROPOUT),
    "label_dropout": (0.0, allowed.DROPOUT),
    "embedding_type": ("positional", allowed.one_of("positional", "fourier")),
    "channel_mult_noise": (1, allowed.COUNT),
    "encoder_type": ("standard", allowed.one_of("standard", "residual")),
    "decoder_type": ("standard", allowed.one_of("standard")),
    "resample_filter": ([1, 1], allowed.one_of([1, 1], [1, 3, 3, 1])),
}

_MOST_PARTS = 20_000  # EDM's largest network has 1,400

_STAGE = {  # SongUNet's name of each module of a stage
    "norm_1": "norm0",
    "conv_1": "conv0",
    "embed": "affine",
    "norm_2": "norm1",
    "conv_2": "conv1",
    "shortcut": "skip",
    "attention.norm": "norm2",
    "attention.qkv": "qkv",
    "attention.out": "proj",
}


def read_edm(path: Path) -> PublishedNetwork:
    """Read the network "ema" of a pickle of EDM, in float32. No code in the file is run.

    An EDMPrecond accepts any sigma; its SDE is cut to the range in which EDM samples, [0.002, 80].
    Raises FileNotFoundError; ValueError, naming the option or tensor, for a file that is damaged or asks for code, for
    another network than a SongUNet, and for tensors that do not fit the network's arguments.
    """
    content = read_torch(path)
    with errors_naming(path):
        if not isinstance(content, dict) or "ema" not in content:
            raise ValueError("it holds no network ema, as a pickle of EDM does")
        network = content["ema"]
        form = _class(network, list(_FORMS))
        unet = _attributes(network, "_modules").get("model")
        _class(unet, ["SongUNet"])
        tensors = _tensors(network)
        with errors_naming("SongUNet"):
            options = _options(_attributes(unet, "_init_kwargs"))
        with errors_naming(form):
            state = checked(_attributes(network), PRECONDITIONERS[form])
            sde = _sde(form, state)
        model = _model(options, form, state)
        validate(model)
        unused = {tensor for tensor in tensors if tensor.endswith(".resample_filter")}  # [1, 1] or [1, 3, 3, 1]
        if options["augment_dim"]:
            unused.add("model.map_augment.weight")  # embeds the augmentation of a training image
        params = translate(_rules(model), tensors, model, unused)
    return PublishedNetwork("edm", str(path), model, sde, params)


def _attributes(found: Any, name: str | None = None) -> dict[str, Any]:
    """Return the attributes of an object, or the dictionary `name` among them, empty if there is none."""
    attributes = found.state if isinstance(found, Record) else None
    if name is not None and isinstance(attributes, dict):
        attributes = attributes.get(name, {})
    if not isinstance(attributes, dict):
        raise ValueError(f"its ema is not a network as EDM saves it: got a {type(found).__name__}")
    return attributes


def _class(found: Any, known: list[str]) -> str:
    """Return the class name of an object. Raises ValueError if it is not among those `known`."""
    name = found.get("class_name") if isinstance(found, Record) else type(found).__name__
    if name not in known:
        said = short(name) if isinstance(name, str) else shown(name)
        raise ValueError(f"its network has the class {said}, and must have {' or '.join(known)}")
    return name


def _tensors(network: Any) -> Tensors:
    """Return all parameters and buffers of a network, by path: model.enc.32x32_conv.weight."""
    found: Tensors = {}
    waiting, count = [("", network)], 0
    while waiting:
        prefix, module = waiting.pop()
        parameters, buffers, modules = (_attributes(module, f"_{n}") for n in ("parameters", "buffers", "modules"))
        count += 1 + len(parameters) + len(buffers) + len(modules)
        if count > _MOST_PARTS:  # a pickle may hold one module in any number of places, itself included
            raise ValueError(f"its network has more than {_MOST_PARTS:,} layers and tensors, or one of them many times")
        for name, part in (*parameters.items(), *buffers.items(), *modules.items()):
            path = f"{prefix}{short(name)}"
            if part is None:
                continue
            if isinstance(part, np.ndarray) and name not in modules:
                found[path] = part
            elif name in modules and path.count(".") < 8:
                waiting.append((f"{path}.", part))
            else:
                raise ValueError(f"{path} is not a layer or tensor as EDM saves it")
    return found


def _options(given: dict[str, Any]) -> Options:
    """Return SongUNet's arguments. Raises ValueError for one that is missing, unknown, or cannot be expressed here."""
    refuse_unknown(given, SONG_UNET)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    options = checked(lists, SONG_UNET)
    require(options, {"out_channels": options["in_channels"]})
    require(options, {"channel_mult_noise": 2 if options["embedding_type"] == "fourier" else 1})
    if options["encoder_type"] == "residual":
        require(options, {"resample_filter": [1, 3, 3, 1]})
    return options


def _model(options: Options, form: str, state: Options) -> UNetConfig:
    sizes = {options["img_resolution"] >> level for level in range(len(options["channel_mult"]))}
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
        null_class=options["label_dim"] > 0 and options["label_dropout"] > 0,
        class_embedding="before",
        dropout=float(options["dropout"]),
        sigma_data=float(state.get("sigma_data", 1.0)),
        image_size=options["img_resolution"],
        image_channels=options["in_channels"],
        **_FORMS[form],
    )


def _sde(form: str, state: Options) -> dict[str, Any]:
    """Return the SDE, with the times between which EDM, or score_sde, samples."""
    if form == "VPPrecond":
        low = float(state["beta_min"])
        return {"name": "vp_linear", "beta_0": low, "beta_1": low + float(state["beta_d"]), "t_0": 1e-3, "T": 1.0}
    low, high = float(state["sigma_min"]), float(state["sigma_max"])
    if form == "EDMPrecond":
        low, high = max(low, 0.002), min(high, 80.0)
    if not 0 < low < high:
        raise ValueError(f"sigma_min must be below sigma_max, got {low:g} and {high:g}")
    if form == "EDMPrecond":
        return {"name": "edm", "t_0": low, "T": high}
    return {"name": "ve", "sigma_min": low, "sigma_max": high, "t_0": 1e-5, "T": 1.0}


def _rules(model: UNetConfig) -> Rules:
    side = f"{model.image_size}x{model.image_size}"
    modules: Modules = {
        "embed_in": "model.map_layer0",
        "embed_out": "model.map_layer1",
        "fourier": "model.map_noise",
        "conv_in": f"model.enc.{side}_conv",
        "norm_out": f"model.dec.{side}_aux_norm",
        "conv_out": f"model.dec.{side}_aux_conv",
    }
    for stage in stages(model):  # down_16_1 is model.enc.16x16_block1; the middle belongs to the decoder
        way, number = stage.name.split("_")[0], stage.name.split("_")[-1]
        level = f"model.{'enc' if way == 'down' else 'dec'}.{stage.size}x{stage.size}"
        theirs = f"{level}_{stage.resample or (f'in{number}' if way == 'middle' else f'block{number}')}"
        modules |= {f"stages.{stage.name}.{part}": f"{theirs}.{name}" for part, name in _STAGE.items()}
        modules[f"pyramid.{stage.name}.conv"] = f"{level}_aux_residual"
    rules = rules_for(modules, TORCH, torch_layout)
    rules |= {ours: rule._replace(convert=_qkv) for ours, rule in rules.items() if ".qkv." in ours}
    label = Rule(("model.map_label.weight", "model.map_label.bias"), partial(_per_class, null_class=model.null_class))
    return rules | {"embed_label.embedding": label}


def _qkv(tensor: np.ndarray) -> np.ndarray:
    """Return outputs ordered as all q, all k, all v. EDM's are q, k, v of channel 0, then q, k, v of channel 1, ..."""
    return torch_layout(np.concatenate([tensor[i::3] for i in range(3)]))


def _per_class(weight: np.ndarray, bias: np.ndarray, null_class: bool) -> np.ndarray:
    """Return a linear layer's output for each class: its input is a one-hot vector times sqrt(number of classes).

    The input for no class, which training puts for dropped labels, is zero.
    """
    if bias.shape != weight.shape[:1]:
        raise ValueError("a bias must not be spread over several outputs")
    rows = math.sqrt(weight.shape[1]) * weight.T
    return (np.append(rows, np.zeros_like(rows[:1]), axis=0) if null_class else rows) + bias
