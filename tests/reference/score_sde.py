"""DDPM, DDPM++ and NCSN++ of score_sde (arXiv 2011.13456, appendix H) in NumPy: two levels, one block each, no loop.

Written from the names of score_sde's tensors, which say what stands where. w: {"Conv_0/kernel": array, ...};
images x [b, h, w, c] in [-1, 1]; attention at half their size; label: 999 t, or sigma for a Fourier embedding.
"""

import numpy as np
from scipy.signal import upfirdn

Weights = dict[str, np.ndarray]

SQRT_2 = np.sqrt(2)


def ddpm(w: Weights, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    def block(number: int, h: np.ndarray) -> np.ndarray:
        return _block(_below(w, f"ResnetBlockDDPM_{number}"), h, emb, groups=32)

    def attention(number: int, h: np.ndarray) -> np.ndarray:
        return _attention(_below(w, f"AttnBlock_{number}"), h, groups=32)

    emb = _embedding(w, label)
    skip_0 = _conv(x, w["Conv_0/kernel"], w["Conv_0/bias"])
    skip_1 = block(0, skip_0)
    padded = np.pad(skip_1, [(0, 0), (0, 1), (0, 1), (0, 0)])
    skip_2 = _conv(padded, w["Downsample_0/Conv_0/kernel"], w["Downsample_0/Conv_0/bias"], pad=0)[:, ::2, ::2]
    skip_3 = attention(0, block(1, skip_2))

    h = block(3, attention(1, block(2, skip_3)))

    h = block(4, _beside(h, skip_3))
    h = attention(2, block(5, _beside(h, skip_2)))
    h = _conv(_up(h, fir=False), w["Upsample_0/Conv_0/kernel"], w["Upsample_0/Conv_0/bias"])
    h = block(6, _beside(h, skip_1))
    h = block(7, _beside(h, skip_0))
    h = _silu(_norm(h, w["GroupNorm_0/scale"], w["GroupNorm_0/bias"], groups=32))
    return _conv(h, w["Conv_1/kernel"], w["Conv_1/bias"])


def ddpmpp(w: Weights, x: np.ndarray, label: np.ndarray, fir: bool = False) -> np.ndarray:
    """Without the division by sigma (scale_by_sigma) at its end."""

    def block(number: int, h: np.ndarray, resample: str = "") -> np.ndarray:
        return _block(_below(w, f"ResnetBlockBigGANpp_{number}"), h, emb, None, resample, fir) / SQRT_2

    def attention(number: int, h: np.ndarray) -> np.ndarray:
        return _attention(_below(w, f"AttnBlockpp_{number}"), h, None) / SQRT_2

    emb = _embedding(w, label)
    skip_0 = _conv(x, w["Conv_0/kernel"], w["Conv_0/bias"])
    skip_1 = block(0, skip_0)
    skip_2 = block(1, skip_1, "down")
    if "Downsample_0/Conv2d_0/weight" in w:  # progressive_input = "residual"
        smooth = _fir(x, start=1)[:, : x.shape[1] + 1, : x.shape[2] + 1]
        low = _conv(smooth, w["Downsample_0/Conv2d_0/weight"], w["Downsample_0/Conv2d_0/bias"], pad=0)
        skip_2 = (low[:, ::2, ::2] + skip_2) / SQRT_2
    skip_3 = attention(0, block(2, skip_2))

    h = block(4, attention(1, block(3, skip_3)))

    h = block(5, _beside(h, skip_3))
    h = attention(2, block(6, _beside(h, skip_2)))
    h = block(7, h, "up")
    h = block(8, _beside(h, skip_1))
    h = block(9, _beside(h, skip_0))
    h = _silu(_norm(h, w["GroupNorm_0/scale"], w["GroupNorm_0/bias"], None))
    return _conv(h, w["Conv_1/kernel"], w["Conv_1/bias"])


def _embedding(w: Weights, label: np.ndarray) -> np.ndarray:
    if "GaussianFourierProjection_0/W" in w:
        angle = 2 * np.pi * np.log(label)[:, None] * w["GaussianFourierProjection_0/W"]
    else:
        half = len(w["Dense_0/kernel"]) // 2
        angle = label[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    emb = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    emb = _silu(emb @ w["Dense_0/kernel"] + w["Dense_0/bias"])
    return _silu(emb @ w["Dense_1/kernel"] + w["Dense_1/bias"])


def _block(
    w: Weights, x: np.ndarray, emb: np.ndarray, groups: int | None, resample: str = "", fir: bool = False
) -> np.ndarray:
    h = _silu(_norm(x, w["GroupNorm_0/scale"], w["GroupNorm_0/bias"], groups))
    if resample == "up":
        h, x = _up(h, fir), _up(x, fir)
    if resample == "down":
        h, x = _down(h, fir), _down(x, fir)
    h = _conv(h, w["Conv_0/kernel"], w["Conv_0/bias"])
    h = h + (emb @ w["Dense_0/kernel"] + w["Dense_0/bias"])[:, None, None, :]
    h = _silu(_norm(h, w["GroupNorm_1/scale"], w["GroupNorm_1/bias"], groups))
    h = _conv(h, w["Conv_1/kernel"], w["Conv_1/bias"])
    if "Conv_2/kernel" in w:
        x = x @ w["Conv_2/kernel"][0, 0] + w["Conv_2/bias"]
    if "NIN_0/W" in w:
        x = x @ w["NIN_0/W"] + w["NIN_0/b"]
    return x + h


def _attention(w: Weights, x: np.ndarray, groups: int | None) -> np.ndarray:
    h = _norm(x, w["GroupNorm_0/scale"], w["GroupNorm_0/bias"], groups).reshape(len(x), -1, x.shape[-1])
    q, k, v = (h @ w[f"NIN_{i}/W"] + w[f"NIN_{i}/b"] for i in range(3))
    weight = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(x.shape[-1]))
    h = weight / weight.sum(axis=-1, keepdims=True) @ v
    return x + (h @ w["NIN_3/W"] + w["NIN_3/b"]).reshape(x.shape)


def _norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, groups: int | None) -> np.ndarray:
    """groups: None for those of DDPM++, a quarter of the channels but 32 at most."""
    b, height, width, c = x.shape
    grouped = x.reshape(b, height * width, groups or min(c // 4, 32), -1)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    variance = (centred**2).mean(axis=(1, 3), keepdims=True)
    return (centred / np.sqrt(variance + 1e-6)).reshape(x.shape) * scale + bias


def _conv(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, pad: int = 1) -> np.ndarray:
    """3x3, with a frame of `pad` zeros."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    height, width = x.shape[1] - 2, x.shape[2] - 2
    return bias + sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def _up(x: np.ndarray, fir: bool) -> np.ndarray:
    if not fir:
        return x.repeat(2, axis=1).repeat(2, axis=2)
    return 4 * _fir(x, up=2, start=1)[:, : 2 * x.shape[1], : 2 * x.shape[2]]


def _down(x: np.ndarray, fir: bool) -> np.ndarray:
    if not fir:
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return _fir(x, start=2)[:, : x.shape[1] : 2, : x.shape[2] : 2]


def _fir(x: np.ndarray, start: int, up: int = 1) -> np.ndarray:
    """`up` - 1 zeros put behind each pixel, and all filtered by 1, 3, 3, 1 over 8, without the first `start` values."""
    for axis in (1, 2):
        x = upfirdn(np.array([1, 3, 3, 1]) / 8, x, up=up, axis=axis)
    return x[:, start:, start:]


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def _beside(h: np.ndarray, skip: np.ndarray) -> np.ndarray:
    return np.concatenate([h, skip], axis=-1)


def _below(w: Weights, module: str) -> Weights:
    return {name.removeprefix(f"{module}/"): value for name, value in w.items() if name.startswith(f"{module}/")}
