"""A small network as EDM pickles it: random tensors by their names in SongUNet, and the arguments that fit them."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch_files

ARGUMENTS = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 3,
    "augment_dim": 2,
    "model_channels": 4,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "dropout": 0.13,
    "embedding_type": "positional",
    "encoder_type": "standard",
    "decoder_type": "standard",
    "channel_mult_noise": 1,
    "resample_filter": [1, 1],
}
BLOCKS = [  # name, channels in and out, with attention, and which way the size changes
    ("enc.8x8_block0", 4, 4, False, ""),
    ("enc.4x4_down", 4, 4, False, "down"),
    ("enc.4x4_block0", 4, 8, True, ""),
    ("dec.4x4_in0", 8, 8, True, ""),
    ("dec.4x4_in1", 8, 8, False, ""),
    ("dec.4x4_block0", 8 + 8, 8, False, ""),
    ("dec.4x4_block1", 8 + 4, 8, True, ""),
    ("dec.8x8_up", 8, 8, False, "up"),
    ("dec.8x8_block0", 8 + 4, 4, False, ""),
    ("dec.8x8_block1", 4 + 4, 4, False, ""),
]
STATE: dict[str, dict[str, Any]] = {
    "EDMPrecond": {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100},
}


def published() -> dict[str, np.ndarray]:
    """Random tensors by the names they have in SongUNet."""
    rng, found = np.random.default_rng(0), {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        found[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if bias:
            found[f"{name}.bias"] = rng.normal(size=shape[:1]).astype(np.float32)

    layer("map_label", 4, 3)
    layer("map_augment", 4, 2, bias=False)
    layer("map_layer0", 16, 4)
    layer("map_layer1", 16, 16)
    layer("enc.8x8_conv", 4, 3, 3, 3)
    for name, n_in, n_out, attention, change in BLOCKS:
        layer(f"{name}.norm0", n_in)
        layer(f"{name}.conv0", n_out, n_in, 3, 3)
        layer(f"{name}.affine", n_out, 16)
        layer(f"{name}.norm1", n_out)
        layer(f"{name}.conv1", n_out, n_out, 3, 3)
        if n_in != n_out or change:
            layer(f"{name}.skip", n_out, n_in, 1, 1)
        if change:
            found[f"{name}.conv0.resample_filter"] = np.full((1, 1, 2, 2), 0.25, np.float32)
            found[f"{name}.skip.resample_filter"] = np.full((1, 1, 2, 2), 0.25, np.float32)
        if attention:
            layer(f"{name}.norm2", n_out)
            layer(f"{name}.qkv", 3 * n_out, n_out, 1, 1)
            layer(f"{name}.proj", n_out, n_out, 1, 1)
    layer("dec.8x8_aux_norm", 4)
    layer("dec.8x8_aux_conv", 3, 4, 3, 3)
    return found


def module(name: str, tensors: dict[str, np.ndarray], **attributes: Any) -> Any:
    """A module that holds the tensors, as EDM pickles it; enc and dec are torch's."""
    state: dict[str, Any] = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict()} | attributes
    inside: dict[str, dict[str, np.ndarray]] = {}
    for path, numbers in tensors.items():
        child, _, rest = path.partition(".")
        if rest:
            inside.setdefault(child, {})[rest] = numbers
        elif child == "resample_filter":
            state["_buffers"][child] = torch_files.tensor(numbers)
        else:
            tensor = torch_files.tensor(numbers)
            state["_parameters"][child] = torch_files.Call(torch_files.PARAMETER, tensor, True, OrderedDict())
    state["_modules"] = OrderedDict((child, module(child, there)) for child, there in inside.items())
    return torch_files.ModuleDict(state) if name in ("enc", "dec") else torch_files.persistent(name, state)


def write(
    path: Path,
    tensors: dict[str, np.ndarray] | None = None,
    form: str = "EDMPrecond",
    state: dict[str, Any] | None = None,
    unet: str = "SongUNet",
    **changes: Any,
) -> Path:
    """A pickle of EDM with the arguments `changes` of the SongUNet; None takes one away."""
    arguments = {name: value for name, value in (ARGUMENTS | changes).items() if value is not None}
    tensors = published() if tensors is None else tensors
    inner = module(unet, tensors, _init_args=(), _init_kwargs=torch_files.EasyDict(arguments))
    outer = {"_modules": OrderedDict(model=inner), "img_resolution": 8} | STATE.get(form, {}) | (state or {})
    content = {"ema": torch_files.persistent(form, outer), "loss_fn": None, "dataset_kwargs": torch_files.EasyDict()}
    path.write_bytes(torch_files.pickled(content))
    return path
