"""DINOv2's vision transformers (Oquab et al., arXiv 2304.07193) as feature extractors.

Their Fréchet distance is FD-DINOv2, which agrees with people where FID does not (Stein et al., arXiv 2306.04675). Its
network is ViT-L/14; the weights are a file that the user has, and the file says how large the network is.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from data.config import DatasetConfig
from eval.features.config import ExtractorConfig
from eval.features.extractor import Extractor
from eval.features.layers import bicubic, network_extractor
from eval.features.weights import DINOV2_FILE, Tensors, dinov2_file, fault, read_tensors

SIZE, HEAD = 224, 64  # pixels a side of an image, features of an attention head
BATCH = 32
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
LETTERS = {384: "s", 768: "b", 1024: "l"}  # the published networks by width


class Block(nnx.Module):
    """Attention between the tokens, then two dense layers for each; both are scaled and added. Named as in torch."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        qkv, proj = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.attn = nnx.Dict(qkv=qkv, proj=proj)
        self.ls1 = nnx.Dict(gamma=nnx.Param(jnp.ones(width)))
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        fc1, fc2 = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.mlp = nnx.Dict(fc1=fc1, fc2=fc2)
        self.ls2 = nnx.Dict(gamma=nnx.Param(jnp.ones(width)))

    def __call__(self, x: Float[Array, "b tokens width"]) -> Float[Array, "b tokens width"]:
        """The tokens after this block."""
        heads = self.attn.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, -1, HEAD)
        mixed = jax.nn.dot_product_attention(*jnp.moveaxis(heads, 2, 0))
        x = x + self.ls1.gamma[...] * self.attn.proj(mixed.reshape(x.shape))
        return x + self.ls2.gamma[...] * self.mlp.fc2(jax.nn.gelu(self.mlp.fc1(self.norm2(x)), approximate=False))


class VisionTransformer(nnx.Module):
    """The network: patches of the image and a class token, with learned positions on a grid of `grid` x `grid`."""

    def __init__(self, width: int, depth: int, patch: int, grid: int, *, rngs: nnx.Rngs):
        proj = nnx.Conv(3, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs)
        self.patch_embed = nnx.Dict(proj=proj)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, width)))
        self.pos_embed = nnx.Param(jnp.zeros((1, 1 + grid**2, width)))
        self.mask_token = nnx.Param(jnp.zeros((1, width)))  # of training alone
        self.blocks = nnx.List([Block(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b size size 3"]) -> Float[Array, "b width"]:
        """The class token after the last norm."""
        patches = self.patch_embed.proj(pixels)
        place, (b, size, _, width) = self.pos_embed[0], patches.shape
        grid = round((len(place) - 1) ** 0.5)
        between = between_positions(grid, size)
        places = jnp.einsum("yh,hwc,xw->yxc", between, place[1:].reshape(grid, grid, width), between)
        first = jnp.broadcast_to(self.cls_token[...] + place[0], (b, 1, width))
        x = jnp.concatenate([first, (patches + places).reshape(b, size**2, width)], axis=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


def extractor(cfg: ExtractorConfig, dataset: DatasetConfig | None = None, batch_size: int = BATCH) -> Extractor:
    """The class token of the network in the file.

    Raises ValueError for a file of weights that is damaged or of another network; FileNotFoundError if it is not there.
    """
    network = read_dinov2(dinov2_file(cfg.weights))
    graphdef, params = nnx.split(network)
    patch, _, _, width = network.patch_embed.proj.kernel.shape

    def outputs(params: Any, images: Array) -> tuple[Array, None]:
        return features_of(nnx.merge(graphdef, params), images), None

    name = f"dinov2_vit{LETTERS.get(width, width)}{patch}"
    return network_extractor(name, "FD", outputs, params, width, batch_size, cfg.cache)


def features_of(network: VisionTransformer, images: UInt8[Array, "b h w c"]) -> Float[Array, "b width"]:
    """Features of grey or RGB images of any size, resized and scaled as Stein et al. (their dgm-eval) do."""
    with jax.default_matmul_precision("highest"):
        return network((bicubic(images, SIZE) / 255.0 - IMAGENET_MEAN) / IMAGENET_STD)


def read_dinov2(path: Path) -> VisionTransformer:
    """The network whose weights are in a file of torch hub's, or .safetensors with the same names.

    Raises FileNotFoundError if there is no such file; ValueError if it cannot be read, or is of another network.
    """
    tensors = read_tensors(path)
    sizes = sizes_of(tensors)
    if sizes is None:
        raise ValueError(f"{path} does not hold one of DINOv2's vision transformers; use {DINOV2_FILE}")
    graphdef, template = nnx.split(nnx.eval_shape(lambda: VisionTransformer(*sizes, rngs=nnx.Rngs(0))))
    for name in (name for name in tensors if name.endswith(".weight")):  # Flax has the outputs last
        tensors[name] = tensors[name].transpose(2, 3, 1, 0) if tensors[name].ndim == 4 else tensors[name].T
    if found := fault(tensors, {_name_in_torch(key): leaf.shape for key, leaf in jax.tree.leaves_with_path(template)}):
        raise ValueError(f"{path} {found}")
    params = jax.tree.map_with_path(lambda key, _: jnp.asarray(tensors[_name_in_torch(key)]), template)
    return nnx.merge(graphdef, params)


def _name_in_torch(key: tuple[Any, ...]) -> str:
    name = jax.tree_util.keystr(key, simple=True, separator=".").removesuffix(".value")
    return re.sub(r"\.(kernel|scale)$", ".weight", name)


def sizes_of(tensors: Tensors) -> tuple[int, int, int, int] | None:
    """(width, depth, pixels of a patch's side, positions of the grid's side) of the network; None if it is another."""
    patches, places = tensors.get("patch_embed.proj.weight"), tensors.get("pos_embed")
    if patches is None or patches.ndim != 4 or places is None or places.ndim != 3:
        return None
    width, patch, grid = patches.shape[0], patches.shape[3], round((places.shape[1] - 1) ** 0.5)
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    return None if width % HEAD or SIZE % patch or not depth else (width, depth, patch, grid)


def between_positions(grid: int, size: int) -> Float[np.ndarray, "size grid"]:
    """Weights of `grid` learned positions for `size` patches: cubic, with torch's a = -0.75, edges repeated.

    DINOv2 adds 0.1 to `size` when it scales, and was trained and published so.
    """
    if grid == size:
        return np.eye(grid, dtype=np.float32)
    weights, a = np.zeros((size, grid), np.float32), -0.75
    for patch, place in enumerate((np.arange(size) + 0.5) * grid / (size + 0.1) - 0.5):
        for position in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            x = abs(place - position)
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[patch, np.clip(position, 0, grid - 1)] += near if x <= 1 else far
    return weights
