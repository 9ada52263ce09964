"""Import of a `UNet2DModel` that diffusers saved with its scheduler, the format of many DDPM and DDIM checkpoints.

    config.json, diffusion_pytorch_model.safetensors, scheduler_config.json    in one folder, as on the hub, or
    unet/ with the first two, scheduler/ with the third                        as a pipeline saves itself

Neither diffusers nor torch is needed to read them.
"""

from pathlib import Path

import numpy as np

from formats.files import read_safetensors
from models.config import UNetConfig
from models.layout import Stage, stages
from models.published.diffusers_options import model_of, read_scheduler, read_unet
from models.published.network import PublishedNetwork
from models.published.options import Options
from models.published.translate import Rule, Tensors, block, torch_kernel, torch_layer, torch_norm, translate


def read_diffusers(folder: Path, scheduler: Options | None = None, time: str = "t") -> PublishedNetwork:
    """Read the network in a folder that diffusers saved, whose time is the index t of its discrete diffusion.

    scheduler: options of the diffusion, used instead of the folder's scheduler_config.json.
    time: the noise conditioning, "t", or "t_plus_1", which DDIM's CelebA network was trained with.
    Raises FileNotFoundError for a missing file; ValueError, naming the option or tensor, for a network that cannot be
    expressed here, or tensors that are damaged or do not fit config.json.
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
    return PublishedNetwork("diffusers", str(path), model, sde, params)


def _rules(model: UNetConfig, tensors: Tensors, flip_sin_to_cos: bool) -> list[Rule]:
    kernel, bias = torch_layer("embed_in", "time_embedding.linear_1")
    rules = [
        kernel._replace(convert=_cosines_first) if flip_sin_to_cos else kernel,
        bias,
        *torch_layer("embed_out", "time_embedding.linear_2"),
        *torch_layer("conv_in", "conv_in"),
        *torch_norm("norm_out", "conv_norm_out"),
        *torch_layer("conv_out", "conv_out"),
    ]
    if model.num_classes:
        rules.append(Rule("embed_label.embedding", ("class_embedding.weight",)))
    names = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"]
    for stage in stages(model):
        home, number = _place(stage, model)
        if stage.kind == "block":
            rules += block(stage, f"{home}.resnets.{number}", names, torch_layer, torch_norm)
        else:
            rules += torch_layer(f"stages.{stage.name}.conv", f"{home}.{stage.kind}rs.{number}.conv")
        if stage.attention:
            rules += _attention(f"stages.{stage.name}.attention", f"{home}.attentions.{number}", tensors)
    return rules


def _place(stage: Stage, model: UNetConfig) -> tuple[str, int]:
    """Return the diffusers block that holds a stage, and the stage's number in it.

    A block of diffusers ends with the resampling to the next level.
    """
    assert model.image_size is not None
    way, number = stage.name.split("_")[0], stage.name.split("_")[-1]
    level = (model.image_size // stage.size).bit_length() - 1
    if way == "middle":
        return "mid_block", int(number)
    index = level if way == "down" else len(model.multipliers) - 1 - level
    return (f"{way}_blocks.{index}", int(number)) if stage.kind == "block" else (f"{way}_blocks.{index - 1}", 0)


def _attention(ours: str, theirs: str, tensors: Tensors) -> list[Rule]:
    """Rules for an attention layer. Older files have other names, and may hold 1x1 convolutions."""
    old, new = ("query", "key", "value", "proj_attn"), ("to_q", "to_k", "to_v", "to_out.0")
    *qkv, out = old if f"{theirs}.query.weight" in tensors else new
    return [
        *torch_norm(f"{ours}.norm", f"{theirs}.group_norm"),
        *torch_layer(f"{ours}.qkv", *(f"{theirs}.{name}" for name in qkv)),
        *torch_layer(f"{ours}.out", f"{theirs}.{out}"),
    ]


def _cosines_first(weight: np.ndarray) -> np.ndarray:
    """Return the kernel of a layer whose inputs are the cosines and then the sines; here the sines come first."""
    return np.roll(torch_kernel(weight), weight.shape[1] // 2, axis=0)
