"""Checkpoints of score_sde's JAX code (Song et al., arXiv 2011.13456): DDPM, DDPM++ and NCSN++ in continuous time.

A checkpoint is one msgpack map as flax writes it: step, optimizer, ..., and the weights to use, params_ema, as
{"ResnetBlockDDPM_0": {"Conv_0": {"kernel": array, "bias": array}, ...}, ...}. Modules are numbered per class in the
order in which they run. The configuration is not in the file.
"""

import math
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from models.config import UNetConfig, validate
from models.layout import Stage, stages
from models.published.flax_msgpack import read_tensors
from models.published.weights import Rule, Weights, translate

Options = dict[str, Any]  # named by section: {"data.image_size": 32, "model.nf": 128, ...}

_DDPM: Options = {
    "training.sde": "vpsde",
    "training.continuous": True,
    "data.image_size": 32,
    "data.num_channels": 3,
    "data.centered": True,
    "model.name": "ddpm",
    "model.nf": 128,
    "model.ch_mult": [1, 2, 2, 2],
    "model.num_res_blocks": 2,
    "model.attn_resolutions": [16],
    "model.dropout": 0.1,
    "model.normalization": "GroupNorm",
    "model.nonlinearity": "swish",
    "model.resamp_with_conv": True,
    "model.conditional": True,
    "model.scale_by_sigma": False,
    "model.beta_min": 0.1,
    "model.beta_max": 20.0,
    "model.sigma_min": 0.01,
    "model.sigma_max": 50.0,
}
_DDPMPP = _DDPM | {
    "model.name": "ncsnpp",
    "model.num_res_blocks": 4,
    "model.resblock_type": "biggan",
    "model.skip_rescale": True,
    "model.fir": False,
    "model.fir_kernel": [1, 3, 3, 1],
    "model.progressive": "none",
    "model.progressive_input": "none",
    "model.progressive_combine": "sum",
    "model.attention_type": "ddpm",
    "model.conv_size": 3,
    "model.embedding_type": "positional",
    "model.fourier_scale": 16.0,
}
_NCSNPP = _DDPMPP | {
    "training.sde": "vesde",
    "data.centered": False,
    "model.scale_by_sigma": True,
    "model.fir": True,
    "model.progressive_input": "residual",
    "model.embedding_type": "fourier",
}
_DEEP = {"model.num_res_blocks": 8}
_SUB_VP = {"training.sde": "subvpsde"}

PUBLISHED: dict[str, Options] = {
    "vp/ddpm/cifar10_continuous": _DDPM,
    "vp/cifar10_ddpmpp_continuous": _DDPMPP,
    "vp/cifar10_ddpmpp_deep_continuous": _DDPMPP | _DEEP,
    "subvp/cifar10_ddpmpp_continuous": _DDPMPP | _SUB_VP,
    "subvp/cifar10_ddpmpp_deep_continuous": _DDPMPP | _SUB_VP | _DEEP,
    "ve/cifar10_ncsnpp_continuous": _NCSNPP,
    "ve/cifar10_ncsnpp_deep_continuous": _NCSNPP | _DEEP,
}
"""score_sde's configurations of its published checkpoints, by the names they have there."""

# which values of an option this project's network can express; options of NCSN++ are checked for NCSN++ only
_EXPRESSED: dict[str, tuple[Any, ...]] = {
    "training.sde": ("vpsde", "subvpsde", "vesde"),
    "training.continuous": (True,),
    "model.normalization": ("GroupNorm",),
    "model.nonlinearity": ("swish",),
    "model.resamp_with_conv": (True,),
    "model.conditional": (True,),
    "model.resblock_type": ("biggan",),
    "model.fir_kernel": ([1, 3, 3, 1],),
    "model.progressive": ("none",),
    "model.progressive_input": ("none", "residual"),
    "model.progressive_combine": ("sum",),
    "model.attention_type": ("ddpm",),
    "model.conv_size": (3,),
}
# and which go with the variance preserving and with the variance exploding diffusion
_VP = {"data.centered": (True,), "model.scale_by_sigma": (False,), "model.embedding_type": ("positional",)}
_VE = {"model.name": ("ncsnpp",), "model.scale_by_sigma": (True,), "model.embedding_type": ("fourier",)}
# of training, of sampling in discrete steps, or set for a network that does not read it
_WITHOUT_EFFECT = {"model.ema_rate", "model.init_scale", "model.num_scales", "model.embedding_type"}


def read_score_sde(path: Path, config: dict[str, Any] | str) -> Weights:
    """The network in a checkpoint file of score_sde: its EMA weights, in float32.

    config: score_sde's own configuration, as {"data": {...}, "model": {...}, "training": {...}}, or the name of one in
    `PUBLISHED`. A VE network that was trained on images in [0, 1] is given sigmas for images in [-1, 1].
    Raises FileNotFoundError without the file; ValueError, naming option or tensor, for a network that cannot be
    expressed, or a file that is damaged or does not fit the configuration.
    """
    tensors = read_tensors(path, "params_ema")
    try:
        options = _options(config)
        model, sde = _model(options), _sde(options)
        validate(model)
        params = translate(_rules(model), tensors, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Weights("score_sde", str(path), model, sde, params)


def _options(config: dict[str, Any] | str) -> Options:
    """Raises ValueError for an option that is absent, unknown, or has a value that cannot be expressed."""
    if isinstance(config, str):
        if config not in PUBLISHED:
            raise ValueError(f"the configuration must be one of {', '.join(PUBLISHED)}, got {config!r}")
        return PUBLISHED[config]
    options: Options = {}
    for section in ("training", "data", "model"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"the configuration must have a section {section!r}, as score_sde's have")
        for name, value in config[section].items():
            options[f"{section}.{name}"] = list(value) if isinstance(value, tuple) else value
    options.setdefault("training.sde", "vesde" if options.get("model.scale_by_sigma") else "vpsde")
    _check(options)
    return options


def _check(options: Options) -> None:
    name = options.get("model.name")
    if name not in ("ddpm", "ncsnpp"):
        raise ValueError(f"model.name must be 'ddpm' or 'ncsnpp', got {name!r}")
    published = _DDPM if name == "ddpm" else _NCSNPP
    for option, example in published.items():
        if option not in options:
            raise ValueError(f"the configuration must have {option}, for example {example!r}")
        if not _is_like(example, options[option]):
            raise ValueError(f"{option} must be like {example!r}, got {options[option]!r}")
    expressed = _EXPRESSED | (_VE if options["training.sde"] == "vesde" else _VP)
    if options.get("model.progressive_input") == "residual":
        expressed["model.fir"] = (True,)
    for option, values in expressed.items():
        if option in published and options[option] not in values:
            raise ValueError(f"{option} must be {' or '.join(map(repr, values))} here, got {options[option]!r}")
    for option in sorted(options.keys() - published.keys() - _WITHOUT_EFFECT):
        if option.startswith("model."):
            raise ValueError(f"{option}={options[option]!r} is not an option of {name} that is known here")


def _is_like(example: Any, value: Any) -> bool:
    """Of the same type; a float may be written as a whole number."""
    if isinstance(example, list):
        return isinstance(value, list) and all(type(item) is int for item in value)
    return type(value) is type(example) or (type(example) is float and type(value) is int)


def _model(options: Options) -> UNetConfig:
    is_ve = options["training.sde"] == "vesde"
    ncsnpp = {}
    if options["model.name"] == "ncsnpp":
        ncsnpp = {
            "resample": "block",
            "fir": options["model.fir"],
            "input_pyramid": options["model.progressive_input"] == "residual",
            "skip_rescale": options["model.skip_rescale"],
            "fourier_scale": float(options["model.fourier_scale"]),
        }
    return UNetConfig(
        channels=options["model.nf"],
        multipliers=list(options["model.ch_mult"]),
        num_blocks=options["model.num_res_blocks"],
        attention_resolutions=list(options["model.attn_resolutions"]),
        up_attention="last",
        min_group_channels=4 if ncsnpp else 1,
        embedding="fourier" if is_ve else "positional",
        dropout=float(options["model.dropout"]),
        time=("log_sigma" if options["data.centered"] else "log_half_sigma") if is_ve else "t_999",
        input="x",
        output="sigma_score" if is_ve else "eps",
        image_size=options["data.image_size"],
        image_channels=options["data.num_channels"],
        **ncsnpp,
    )


def _sde(options: Options) -> dict[str, Any]:
    """The diffusion with the t_0 and T that score_sde samples with."""
    of = "sigma" if options["training.sde"] == "vesde" else "beta"
    low, high = float(options[f"model.{of}_min"]), float(options[f"model.{of}_max"])
    if not 0 < low < high < math.inf:
        raise ValueError(f"model.{of}_min and model.{of}_max must be positive and rise, got {low:g} and {high:g}")
    if of == "sigma":
        scale = 1 if options["data.centered"] else 2  # 2 x - 1 doubles the noise that was added to x in [0, 1]
        return {"name": "ve", "sigma_min": scale * low, "sigma_max": scale * high, "t_0": 1e-5, "T": 1.0}
    name = "vp_linear" if options["training.sde"] == "vpsde" else "sub_vp"
    return {"name": name, "beta_0": low, "beta_1": high, "t_0": 1e-3, "T": 1.0}


def _rules(model: UNetConfig) -> list[Rule]:
    numbers: defaultdict[str, count] = defaultdict(count)

    def module(name: str) -> str:
        """The next module of a class."""
        return f"{name}_{next(numbers[name])}"

    is_ncsnpp = model.resample == "block"
    block, attention = ("ResnetBlockBigGANpp", "AttnBlockpp") if is_ncsnpp else ("ResnetBlockDDPM", "AttnBlock")
    rules = [
        *_layer("embed_in", "Dense_0"),
        *_layer("embed_out", "Dense_1"),
        *_layer("conv_in", "Conv_0"),
        *_norm("norm_out", "GroupNorm_0"),
        *_layer("conv_out", "Conv_1"),
    ]
    if model.embedding == "fourier":
        rules.append(Rule("fourier.frequency", ("GaussianFourierProjection_0.W",)))
    for stage in stages(model):
        ours = f"stages.{stage.name}"
        if stage.kind == "block":
            rules += _block(stage, ours, module(block), is_ncsnpp)
        else:
            rules += _layer(f"{ours}.conv", f"{module(stage.kind.capitalize())}.Conv_0")
        if stage.attention:
            rules += _attention(f"{ours}.attention", module(attention))
        if stage.pyramid:
            rules += _layer(f"pyramid.{stage.name}.conv", f"{module('Downsample')}.Conv2d_0", "weight")
    return rules


def _block(stage: Stage, ours: str, theirs: str, is_ncsnpp: bool) -> list[Rule]:
    rules = [
        *_norm(f"{ours}.norm_1", f"{theirs}.GroupNorm_0"),
        *_layer(f"{ours}.conv_1", f"{theirs}.Conv_0"),
        *_layer(f"{ours}.embed", f"{theirs}.Dense_0"),
        *_norm(f"{ours}.norm_2", f"{theirs}.GroupNorm_1"),
        *_layer(f"{ours}.conv_2", f"{theirs}.Conv_1"),
    ]
    if is_ncsnpp and (stage.n_in != stage.n_out or stage.resample):  # a 1x1 convolution
        kernel, bias = _layer(f"{ours}.shortcut", f"{theirs}.Conv_2")
        return [*rules, kernel._replace(convert=lambda kernel: kernel.reshape(kernel.shape[2:])), bias]
    if stage.n_in != stage.n_out:
        rules += _linear(f"{ours}.shortcut", f"{theirs}.NIN_0")
    return rules


def _attention(ours: str, theirs: str) -> list[Rule]:
    return [
        *_norm(f"{ours}.norm", f"{theirs}.GroupNorm_0"),
        *_linear(f"{ours}.qkv", *(f"{theirs}.NIN_{i}" for i in range(3))),
        *_linear(f"{ours}.out", f"{theirs}.NIN_3"),
    ]


def _layer(ours: str, theirs: str, kernel: str = "kernel") -> list[Rule]:
    return [Rule(f"{ours}.kernel", (f"{theirs}.{kernel}",)), Rule(f"{ours}.bias", (f"{theirs}.bias",))]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}.{leaf}", (f"{theirs}.{leaf}",), lambda t: t.reshape(t.shape[-1])) for leaf in ("scale", "bias")
    ]


def _linear(ours: str, *theirs: str) -> list[Rule]:
    """Of layers with the same input, side by side."""
    return [
        Rule(f"{ours}.{leaf}", tuple(f"{name}.{their_leaf}" for name in theirs), _side_by_side)
        for leaf, their_leaf in (("kernel", "W"), ("bias", "b"))
    ]


def _side_by_side(*tensors: np.ndarray) -> np.ndarray:
    """[..., n] of each as [..., number n]; np.stack refuses different shapes, which could add up to the right one."""
    return np.concatenate(np.stack(tensors), axis=-1)
