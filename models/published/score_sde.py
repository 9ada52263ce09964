"""Import of checkpoints of score_sde (Song et al., arXiv 2011.13456), its JAX or PyTorch code, for continuous times.

A checkpoint of JAX is one msgpack map as flax writes it: step, optimizer, ..., and the weights to use, params_ema, as
{"ResnetBlockDDPM_0": {"Conv_0": {"kernel": array, "bias": array}, ...}, ...}. Modules are numbered per class in the
order in which they run. One of PyTorch has the same modules, numbered all together: see
`models.published.score_sde_torch`. The configuration is in neither.
"""

import math
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from formats.torch_pickle import is_saved_by_torch
from models.config import UNetConfig, validate
from models.layout import stages
from models.published import allowed
from models.published.allowed import REQUIRED, Options, checked, errors_naming, refuse_unknown, require
from models.published.flax_msgpack import read_tensors
from models.published.network import PublishedNetwork
from models.published.score_sde_torch import read_averages
from models.published.translate import TORCH, Modules, Rules, rules_for, torch_layout, translate

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
"""score_sde's configurations of its published checkpoints, by their names there; an option is SECTION.NAME."""

_CHOICES: dict[str, allowed.Allowed] = {
    "training.sde": allowed.one_of("vpsde", "subvpsde", "vesde"),
    "training.continuous": allowed.one_of(True),
    "model.name": allowed.one_of("ddpm", "ncsnpp"),
    "model.resamp_with_conv": allowed.one_of(True),
    "model.conditional": allowed.one_of(True),
    "model.fir_kernel": allowed.one_of([1, 3, 3, 1]),
    "model.progressive_input": allowed.one_of("none", "residual"),
    "model.conv_size": allowed.one_of(3),
    "model.embedding_type": allowed.one_of("positional", "fourier"),
}
"""The values that can be imported, for options where these are not all values like the published one."""

_VP = {"data.centered": True, "model.scale_by_sigma": False, "model.embedding_type": "positional"}
_VE = {"model.name": "ncsnpp", "model.scale_by_sigma": True, "model.embedding_type": "fourier"}
# options of training or of sampling in discrete steps, or set for a network that does not read them
_WITHOUT_EFFECT = {"model.ema_rate", "model.init_scale", "model.num_scales", "model.embedding_type"}

_BLOCK = {"norm_1": "GroupNorm_0", "conv_1": "Conv_0", "embed": "Dense_0", "norm_2": "GroupNorm_1", "conv_2": "Conv_1"}


def read_score_sde(path: Path, config: dict[str, Any] | str) -> PublishedNetwork:
    """Read the network in a checkpoint file of score_sde, its EMA parameters, in float32.

    config: score_sde's own configuration, as {"data": {...}, "model": {...}, "training": {...}}, or the name of one in
    `PUBLISHED`. The SDE of a VE network that was trained on images in [0, 1] has sigmas for images in [-1, 1].
    Raises FileNotFoundError without the file; ValueError, naming the option or tensor, for a network that cannot be
    expressed here, or a file that is damaged or does not fit the configuration.
    """
    is_torch = is_saved_by_torch(path)
    tensors = read_averages(path) if is_torch else read_tensors(path, "params_ema")
    with errors_naming(path):
        options = _options(config)
        model, sde = _model(options), _sde(options)
        validate(model)
        params = translate(_rules(model, is_torch), tensors, model)
    return PublishedNetwork("score_sde", str(path), model, sde, params)


def _options(config: dict[str, Any] | str) -> Options:
    """Return the options by section and name. Raises ValueError for one that is missing, unknown or not allowed."""
    if isinstance(config, str):
        if config not in PUBLISHED:
            raise ValueError(f"the configuration must be one of {', '.join(PUBLISHED)}, got {config!r}")
        return PUBLISHED[config]
    given: Options = {}
    for section in ("training", "data", "model"):
        if not isinstance(config.get(section), dict):
            raise ValueError(f"the configuration must have a section {section!r}, as score_sde's have")
        for name, value in config[section].items():
            given[f"{section}.{name}"] = list(value) if isinstance(value, tuple) else value
    given.setdefault("training.sde", "vesde" if given.get("model.scale_by_sigma") else "vpsde")
    published = _DDPM if given.get("model.name") == "ddpm" else _NCSNPP
    kinds = {option: allowed.like(value) for option, value in published.items()} | _CHOICES
    options = checked(given, {option: (REQUIRED, kinds[option]) for option in published})
    require(options, _VE if options["training.sde"] == "vesde" else _VP)
    if options.get("model.progressive_input") == "residual":
        require(options, {"model.fir": True})
    network = {option: value for option, value in given.items() if option.startswith("model.")}
    refuse_unknown(network, published.keys() | _WITHOUT_EFFECT)
    return options


def _model(options: Options) -> UNetConfig:
    is_ve, is_ncsnpp = options["training.sde"] == "vesde", options["model.name"] == "ncsnpp"
    return UNetConfig(
        channels=options["model.nf"],
        multipliers=list(options["model.ch_mult"]),
        num_blocks=options["model.num_res_blocks"],
        attention_resolutions=list(options["model.attn_resolutions"]),
        up_attention="last",
        resample="block" if is_ncsnpp else "conv",
        fir=options.get("model.fir", False),
        input_pyramid=options.get("model.progressive_input") == "residual",
        skip_rescale=options.get("model.skip_rescale", False),
        min_group_channels=4 if is_ncsnpp else 1,
        embedding="fourier" if is_ve else "positional",
        fourier_scale=float(options.get("model.fourier_scale", 16)),
        dropout=float(options["model.dropout"]),
        time=("log_sigma" if options["data.centered"] else "log_half_sigma") if is_ve else "t_999",
        input="x",
        output="sigma_score" if is_ve else "eps",
        image_size=options["data.image_size"],
        image_channels=options["data.num_channels"],
    )


def _sde(options: Options) -> dict[str, Any]:
    """Return the SDE, with the t_0 and T that score_sde samples with."""
    of = "sigma" if options["training.sde"] == "vesde" else "beta"
    low, high = float(options[f"model.{of}_min"]), float(options[f"model.{of}_max"])
    if not 0 < low < high < math.inf:
        raise ValueError(f"model.{of}_min and model.{of}_max must be positive and rise, got {low:g} and {high:g}")
    if of == "sigma":
        scale = 1 if options["data.centered"] else 2  # 2 x - 1 doubles the noise that was added to x in [0, 1]
        return {"name": "ve", "sigma_min": scale * low, "sigma_max": scale * high, "t_0": 1e-5, "T": 1.0}
    name = "vp_linear" if options["training.sde"] == "vpsde" else "sub_vp"
    return {"name": name, "beta_0": low, "beta_1": high, "t_0": 1e-3, "T": 1.0}


def _rules(model: UNetConfig, is_torch: bool) -> Rules:
    numbers: defaultdict[str, count] = defaultdict(count)

    def module(name: str) -> str:
        """Return the name of the next module, which is of this class."""
        return f"all_modules.{next(numbers[''])}" if is_torch else f"{name}_{next(numbers[name])}"

    is_ncsnpp = model.resample == "block"
    block_class, attention = ("ResnetBlockBigGANpp", "AttnBlockpp") if is_ncsnpp else ("ResnetBlockDDPM", "AttnBlock")
    modules, nin, conv2d = Modules(), Modules(), Modules()
    if model.embedding == "fourier":
        modules["fourier"] = module("GaussianFourierProjection")
    modules |= {"embed_in": module("Dense"), "embed_out": module("Dense"), "conv_in": module("Conv")}
    for stage in stages(model):
        ours = f"stages.{stage.name}"
        if stage.kind == "block":
            theirs = module(block_class)
            modules |= {f"{ours}.{part}": f"{theirs}.{name}" for part, name in _BLOCK.items()}
            if is_ncsnpp:
                modules[f"{ours}.shortcut"] = f"{theirs}.Conv_2"
            else:
                nin[f"{ours}.shortcut"] = f"{theirs}.NIN_0"
        else:
            modules[f"{ours}.conv"] = f"{module(stage.kind.capitalize())}.Conv_0"
        if stage.attention:
            theirs = module(attention)
            modules[f"{ours}.attention.norm"] = f"{theirs}.GroupNorm_0"
            nin[f"{ours}.attention.qkv"] = tuple(f"{theirs}.NIN_{i}" for i in range(3))
            nin[f"{ours}.attention.out"] = f"{theirs}.NIN_3"
        if stage.pyramid:
            conv2d[f"pyramid.{stage.name}.conv"] = f"{module('Downsample')}.Conv2d_0"
    modules |= {"norm_out": module("GroupNorm"), "conv_out": module("Conv")}
    names = TORCH if is_torch else {"kernel": "kernel", "bias": "bias", "scale": "scale"}
    layout = torch_layout if is_torch else _layout
    rules = rules_for(modules, names | {"frequency": "W"}, layout) | rules_for(conv2d, TORCH, layout)
    return rules | rules_for(nin, {"kernel": "W", "bias": "b"}, _layout)


def _layout(tensor: np.ndarray) -> np.ndarray:
    """Return a norm's scale or bias [1, 1, 1, n] as [n], and a 1x1 convolution [1, 1, in, out] as [in, out]."""
    if tensor.shape[:3] == (1, 1, 1):
        return tensor[0, 0, 0]
    return tensor[0, 0] if tensor.ndim == 4 and tensor.shape[:2] == (1, 1) else tensor
