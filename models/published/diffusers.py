"""Networks that diffusers saved: a `UNet2DModel` and its scheduler, the form of many DDPM and DDIM checkpoints.

    config.json, diffusion_pytorch_model.safetensors, scheduler_config.json    in one folder, as on the hub, or
    unet/ with the first two, scheduler/ with the third                        as a pipeline saves itself

Neither diffusers nor torch is needed to read them.
"""

from pathlib import Path

import numpy as np

from formats.files import read_safetensors
from models.config import UNetConfig
from models.layout import Stage, stages
from models.published.diffusers_options import Options, model_of, read_scheduler, read_unet
from models.published.torch_layers import conv, layer, linear, norm
from models.published.weights import Rule, Tensors, Weights, translate


def read_diffusers(folder: Path, scheduler: Options | None = None, time: str = "t") -> Weights:
    """The network in a folder that diffusers saved, whose time is the index of its discrete diffusion.

    scheduler: options of the diffusion, in the place of the folder's scheduler_config.json.
    time: what the network is told of the index t: "t", or "t_plus_1", which DDIM's CelebA network was trained with.
    Raises FileNotFoundError for a file that is not there; ValueError, naming option or tensor, for a network that
    cannot be expressed, or weights that are damaged or do not fit config.json.
    """
    if time not in ("t", "t_plus_1"):
        raise ValueError(f"time must be t or t_plus_1 for a network of diffusers, got {time!r}")
    is_pipeline = (folder / "unet").is_dir()
    unet = folder / "unet" if is_pipeline else folder
    options = read_unet(unet / "config.json")
    sde, output = read_scheduler((folder / "scheduler" if is_pipeline else folder) / "scheduler_config.json", scheduler)
    model = model_of(options, time, output)
    path = unet / "diffusion_pytorch_model.safetensors"
    if not path.is_file() and path.with_suffix(".bin").is_file():
        raise FileNotFoundError(
            f"{path.with_suffix('.bin')} is a pickle, which can run code and is not read; save it as safetensors: "
            f"diffusers.UNet2DModel.from_pretrained({str(unet)!r}).save_pretrained({str(unet)!r})"
        )
    tensors = read_safetensors(path)
    try:
        params = translate(_rules(model, tensors, options["flip_sin_to_cos"]), tensors, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Weights("diffusers", str(path), model, sde, params)


def _rules(model: UNetConfig, tensors: Tensors, flip_sin_to_cos: bool) -> list[Rule]:
    rules = [
        *layer("embed_in", "time_embedding.linear_1", _cosines_first if flip_sin_to_cos else linear),
        *layer("embed_out", "time_embedding.linear_2", linear),
        *layer("conv_in", "conv_in", conv),
        *norm("norm_out", "conv_norm_out"),
        *layer("conv_out", "conv_out", conv),
    ]
    if model.num_classes:
        rules.append(Rule("embed_label.embedding", ("class_embedding.weight",)))
    for stage in stages(model):
        home, number = _place(stage, model)
        if stage.kind == "block":
            rules += _block(stage, home, number, tensors)
        else:
            sampler = "downsamplers" if stage.kind == "downsample" else "upsamplers"
            rules += layer(f"stages.{stage.name}.conv", f"{home}.{sampler}.{number}.conv", conv)
    return rules


def _place(stage: Stage, model: UNetConfig) -> tuple[str, int]:
    """The diffusers block that holds a stage, and its number there. A block of diffusers ends with the resampling
    to the next level."""
    assert model.image_size is not None
    way, number = stage.name.split("_")[0], stage.name.split("_")[-1]
    level = (model.image_size // stage.size).bit_length() - 1
    if way == "middle":
        return "mid_block", int(number)
    if way == "down":
        return (f"down_blocks.{level}", int(number)) if stage.kind == "block" else (f"down_blocks.{level - 1}", 0)
    up = len(model.multipliers) - 1 - level
    return (f"up_blocks.{up}", int(number)) if stage.kind == "block" else (f"up_blocks.{up - 1}", 0)


def _block(stage: Stage, home: str, number: int, tensors: Tensors) -> list[Rule]:
    ours, theirs = f"stages.{stage.name}", f"{home}.resnets.{number}"
    rules = [
        *norm(f"{ours}.norm_1", f"{theirs}.norm1"),
        *layer(f"{ours}.conv_1", f"{theirs}.conv1", conv),
        *layer(f"{ours}.embed", f"{theirs}.time_emb_proj", linear),
        *norm(f"{ours}.norm_2", f"{theirs}.norm2"),
        *layer(f"{ours}.conv_2", f"{theirs}.conv2", conv),
    ]
    if stage.n_in != stage.n_out:
        rules += layer(f"{ours}.shortcut", f"{theirs}.conv_shortcut", linear)
    if stage.attention:
        rules += _attention(f"{ours}.attention", f"{home}.attentions.{number}", tensors)
    return rules


def _attention(ours: str, theirs: str, tensors: Tensors) -> list[Rule]:
    """Older files have other names for the four layers, and may hold them as 1x1 convolutions."""
    old, new = ("query", "key", "value", "proj_attn"), ("to_q", "to_k", "to_v", "to_out.0")
    *qkv, out = old if f"{theirs}.query.weight" in tensors else new
    return [
        *norm(f"{ours}.norm", f"{theirs}.group_norm"),
        Rule(f"{ours}.qkv.kernel", tuple(f"{theirs}.{name}.weight" for name in qkv), _side_by_side),
        Rule(f"{ours}.qkv.bias", tuple(f"{theirs}.{name}.bias" for name in qkv), lambda *bias: np.stack(bias).ravel()),
        *layer(f"{ours}.out", f"{theirs}.{out}", linear),
    ]


def _cosines_first(weight: np.ndarray) -> np.ndarray:
    """Of a layer whose inputs are the cosines and then the sines; ours are the other way round."""
    return np.roll(linear(weight), weight.shape[1] // 2, axis=0)


def _side_by_side(*weights: np.ndarray) -> np.ndarray:
    return np.stack([linear(weight) for weight in weights], axis=1).reshape(weights[0].shape[1], -1)
