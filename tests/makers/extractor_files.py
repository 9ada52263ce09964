"""State_dicts of feature extractors with random weights that keep activations of a size through a deep network."""

import numpy as np

from eval.features.layers import kernel_shapes
from eval.features.weights import Shapes, Tensors


def random_inception(seed: int = 0) -> Tensors:
    """InceptionV3's tensors under pytorch-fid's names, drawn in alphabetical order."""
    from eval.features.inception import SIZE, inception

    kernels = dict(sorted(kernel_shapes(inception, SIZE).items()))
    return random_state(kernels, "{}.conv.weight", "{}.bn", "fc", (1008, 2048), seed)


def random_state(
    kernels: Shapes, weight: str, norm: str, head: str, head_shape: tuple[int, int], seed: int = 0
) -> Tensors:
    """weight, norm: a convolution's tensor and its batch norm, with {} for the convolution's name."""
    rng = np.random.default_rng(seed)
    state: Tensors = {}
    for name, (h, w, inputs, outputs) in kernels.items():
        gain = np.sqrt(2 / (h * w * inputs))
        state[weight.format(name)] = gain * rng.standard_normal((outputs, inputs, h, w), np.float32)
        state[f"{norm.format(name)}.weight"] = rng.uniform(0.5, 1.5, outputs)
        state[f"{norm.format(name)}.bias"] = 0.1 * rng.standard_normal(outputs)
        state[f"{norm.format(name)}.running_mean"] = 0.1 * rng.standard_normal(outputs)
        state[f"{norm.format(name)}.running_var"] = rng.uniform(0.5, 1.5, outputs)
    state[f"{head}.weight"] = rng.standard_normal(head_shape, np.float32) / np.sqrt(head_shape[1])
    state[f"{head}.bias"] = rng.standard_normal(head_shape[0])
    return {name: np.asarray(tensor, np.float32) for name, tensor in state.items()}


def random_dinov2(width: int = 128, depth: int = 2, patch: int = 14, grid: int = 37, seed: int = 0) -> Tensors:
    """A vision transformer's tensors under torch hub's names; every part changes the features."""
    rng = np.random.default_rng(seed)

    def tensor(*shape: int, scale: float = 0.3, shift: float = 0.0) -> np.ndarray:
        return (shift + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name: str, outputs: int, *inputs: int) -> Tensors:
        weight = tensor(outputs, *inputs, scale=float(np.prod(inputs)) ** -0.5)
        return {f"{name}.weight": weight, f"{name}.bias": tensor(outputs)}

    def norm(name: str) -> Tensors:
        return {f"{name}.weight": tensor(width, shift=1.0), f"{name}.bias": tensor(width)}

    state = {
        "cls_token": tensor(1, 1, width),
        "pos_embed": tensor(1, 1 + grid**2, width),
        "mask_token": tensor(1, width),
        **dense("patch_embed.proj", width, 3, patch, patch),
        **norm("norm"),
    }
    for block in (f"blocks.{i}" for i in range(depth)):
        state |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        state |= {f"{block}.{name}.gamma": tensor(width, shift=0.5) for name in ("ls1", "ls2")}
        state |= dense(f"{block}.attn.qkv", 3 * width, width) | dense(f"{block}.attn.proj", width, width)
        state |= dense(f"{block}.mlp.fc1", 4 * width, width) | dense(f"{block}.mlp.fc2", width, 4 * width)
    return state
