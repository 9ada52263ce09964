"""Small checkpoints as score_sde wrote them, of two levels with one block each, and their configurations."""

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import flax.serialization
import numpy as np
import torch_files

Config = dict[str, dict[str, Any]]

SIZE = 8

# channels in and out of the residual blocks, and whether there is a shortcut; in DDPM++ the second and eighth resample
_BLOCKS = {
    "ddpm": [
        *[(32, 32, False), (32, 64, True), (64, 64, False), (64, 64, False)],
        *[(128, 64, True), (96, 64, True), (96, 32, True), (64, 32, True)],
    ],
    "ddpmpp": [
        *[(8, 8, False), (8, 8, True), (8, 16, True), (16, 16, False), (16, 16, False)],
        *[(32, 16, True), (24, 16, True), (16, 16, True), (24, 8, True), (16, 8, True)],
    ],
}
_BLOCKS["ncsnpp"] = _BLOCKS["ddpmpp"]

DDPM: Config = {
    "training": {"continuous": True, "sde": "vpsde", "n_iters": 950001},
    "sampling": {"method": "pc", "snr": 0.16},
    "data": {"dataset": "CIFAR10", "image_size": SIZE, "num_channels": 3, "centered": True},
    "model": {
        "name": "ddpm",
        "nf": 32,
        "ch_mult": (1, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (SIZE // 2,),
        "resamp_with_conv": True,
        "conditional": True,
        "dropout": 0.1,
        "nonlinearity": "swish",
        "normalization": "GroupNorm",
        "embedding_type": "fourier",  # in its base configuration, and without effect
        "scale_by_sigma": False,
        "ema_rate": 0.9999,
        "num_scales": 1000,
        "beta_min": 0.1,
        "beta_max": 20.0,
        "sigma_min": 0.01,
        "sigma_max": 50,
    },
}


def changed(config: Config, **options: Any) -> Config:
    """With section__name=value; `...` leaves an option out."""
    config = copy.deepcopy(config)
    for key, value in options.items():
        section, name = key.split("__")
        config[section][name] = value
        if value is ...:
            del config[section][name]
    return config


DDPMPP = changed(
    DDPM,
    model__name="ncsnpp",
    model__nf=8,
    model__embedding_type="positional",
    model__fourier_scale=16,
    model__resblock_type="biggan",
    model__skip_rescale=True,
    model__fir=False,
    model__fir_kernel=[1, 3, 3, 1],
    model__progressive="none",
    model__progressive_input="none",
    model__progressive_combine="sum",
    model__attention_type="ddpm",
    model__conv_size=3,
    model__init_scale=0.0,
)
NCSNPP = changed(
    DDPMPP,
    training__sde="vesde",
    data__centered=False,
    model__scale_by_sigma=True,
    model__embedding_type="fourier",
    model__fir=True,
    model__progressive_input="residual",
)


def make_tensors(kind: str) -> dict[str, np.ndarray]:
    """All tensors of a ddpm, ddpmpp or ncsnpp by their names, as after some training: features of about unit size."""
    rng = np.random.default_rng(3)
    tensors: dict[str, np.ndarray] = {}
    nf, wide = _BLOCKS[kind][0][0], _BLOCKS[kind][3][0]
    block, attention = ("ResnetBlockDDPM", "AttnBlock") if kind == "ddpm" else ("ResnetBlockBigGANpp", "AttnBlockpp")

    def layer(name: str, *shape: int, kernel: str = "kernel", bias: str = "bias") -> None:
        tensors[f"{name}/{kernel}"] = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        tensors[f"{name}/{bias}"] = rng.normal(0, 0.1, shape[-1])

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}/scale"] = 1 + rng.normal(0, 0.1, (1, 1, 1, channels))
        tensors[f"{name}/bias"] = rng.normal(0, 0.1, (1, 1, 1, channels))

    layer("Dense_0", 2 * nf if kind == "ncsnpp" else nf, 4 * nf)
    layer("Dense_1", 4 * nf, 4 * nf)
    layer("Conv_0", 3, 3, 3, nf)
    for i, (n_in, n_out, has_shortcut) in enumerate(_BLOCKS[kind]):
        norm(f"{block}_{i}/GroupNorm_0", n_in)
        layer(f"{block}_{i}/Conv_0", 3, 3, n_in, n_out)
        layer(f"{block}_{i}/Dense_0", 4 * nf, n_out)
        norm(f"{block}_{i}/GroupNorm_1", n_out)
        layer(f"{block}_{i}/Conv_1", 3, 3, n_out, n_out)
        if has_shortcut and kind == "ddpm":
            layer(f"{block}_{i}/NIN_0", n_in, n_out, kernel="W", bias="b")
        elif has_shortcut:
            layer(f"{block}_{i}/Conv_2", 1, 1, n_in, n_out)
    for i in range(3):
        norm(f"{attention}_{i}/GroupNorm_0", wide)
        for j in range(4):
            layer(f"{attention}_{i}/NIN_{j}", wide, wide, kernel="W", bias="b")
    norm("GroupNorm_0", nf)
    layer("Conv_1", 3, 3, nf, 3)
    if kind == "ddpm":
        layer("Downsample_0/Conv_0", 3, 3, nf, nf)
        layer("Upsample_0/Conv_0", 3, 3, wide, wide)
    if kind == "ncsnpp":
        layer("Downsample_0/Conv2d_0", 3, 3, 3, nf, kernel="weight")
        tensors["GaussianFourierProjection_0/W"] = rng.normal(0, 1, nf)
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write(path: Path, tensors: dict[str, Any]) -> Path:
    """As score_sde wrote its State; optimizer.target are the weights that are not averaged, and not to be used."""
    state = {
        "step": np.int32(12),
        "optimizer": {"target": _tree(dict.fromkeys(tensors, np.zeros(3))), "state": {"step": np.int32(12)}},
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.9999,
        "params_ema": _tree(tensors),
        "rng": np.array([0, 1], np.uint32),
    }
    path.write_bytes(flax.serialization.msgpack_serialize(state))
    return path


def _tree(tensors: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *modules, leaf = name.split("/")
        inside = tree
        for module in modules:
            inside = inside.setdefault(module, {})
        inside[leaf] = tensor
    return tree


_ORDER = {
    "ddpm": "Dense_0 Dense_1 Conv_0 R0 Downsample_0 R1 A0 R2 A1 R3 R4 R5 A2 Upsample_0 R6 R7 GroupNorm_0 Conv_1",
    "ddpmpp": "Dense_0 Dense_1 Conv_0 R0 R1 R2 A0 R3 A1 R4 R5 R6 A2 R7 R8 R9 GroupNorm_0 Conv_1",
    "ncsnpp": "GaussianFourierProjection_0 Dense_0 Dense_1 Conv_0 R0 R1 Downsample_0 R2 A0 R3 A1 R4 R5 R6 A2 R7 R8 R9"
    " GroupNorm_0 Conv_1",
}
"""The modules in the order in which the PyTorch code makes them; R and A are residual blocks and attention."""


def torch_state(kind: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors as PyTorch's state_dict has them, with its names and axes."""
    block, attention = (
        ("ResnetBlockDDPM_", "AttnBlock_") if kind == "ddpm" else ("ResnetBlockBigGANpp_", "AttnBlockpp_")
    )
    state = {}
    for number, short in enumerate(_ORDER[kind].split()):
        name = {"R": block, "A": attention}[short[0]] + short[1:] if short[0] in "RA" else short
        for path in (path for path in tensors if path.startswith(f"{name}/")):
            *inside, leaf = path.split("/")[1:]
            tensor = tensors[path]
            if leaf in ("kernel", "weight"):
                tensor = tensor.T if tensor.ndim == 2 else tensor.transpose(3, 2, 0, 1)
            if leaf in ("scale", "bias"):
                tensor = tensor.ravel()
            leaf = {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)
            state[".".join(["all_modules", str(number), *inside, leaf])] = tensor
    return state


def torch_content(state: dict[str, np.ndarray], **changes: Any) -> tuple[Any, ...]:
    """A checkpoint of the PyTorch code with these averages, and its storages; the weights themselves are not them."""
    storages: list[torch_files.Storage] = []

    def saved(tensor: np.ndarray) -> torch_files.Call:
        storages.append(torch_files.Storage(np.ascontiguousarray(tensor), str(len(storages))))
        strides = np.ascontiguousarray(tensor).strides
        return torch_files.view(storages[-1], tensor.shape, tuple(step // tensor.itemsize for step in strides))

    fixed = "all_modules.0.W"
    model = {"module.sigmas": saved(np.geomspace(50, 0.01, 10))}
    model |= {f"module.{name}": saved(tensor if name == fixed else 0 * tensor) for name, tensor in state.items()}
    averages = [saved(tensor) for name, tensor in state.items() if name != fixed]
    content = {
        "optimizer": {"state": {0: {"step": 3, "exp_avg": averages[0]}}, "param_groups": [{"betas": (0.9, 0.999)}]},
        "model": OrderedDict(model),
        "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": averages},
        "step": 3,
    }
    return content | changes, *storages
