"""EDM's networks in torch, to compare with: the structure, the names and the arithmetic of EDM's `SongUNet` and of its
preconditioners (arXiv 2206.00364, table 1 and appendix F), written anew, and pickled as EDM pickles them."""

import pickle
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")
F = torch.nn.functional
Module: Any = torch.nn.Module


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise AssertionError("must not run")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent(Module):
    """Pickles as a class by source and the attributes of the object."""

    def __init__(self, **kwargs: Any):
        super().__init__()
        self._init_args, self._init_kwargs = (), kwargs

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": type(self).__name__}
        return _reconstruct_persistent_obj, (meta | {"state": self.__dict__},)


class Linear(Persistent):
    def __init__(self, n_in: int, n_out: int, bias: bool = True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(n_out, n_in) * n_in**-0.5)
        self.bias = torch.nn.Parameter(torch.randn(n_out)) if bias else None

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight, self.bias)


class Conv2d(Persistent):
    def __init__(self, n_in: int, n_out: int, kernel: int, change: str = "", fir: Any = (1, 1), fused: bool = False):
        super().__init__()
        self.change, self.fused = change, fused
        self.weight = torch.nn.Parameter(torch.randn(n_out, n_in, kernel, kernel) * (n_in * kernel**2) ** -0.5)
        self.bias = torch.nn.Parameter(torch.randn(n_out))
        f = torch.tensor(fir, dtype=torch.float32)
        self.register_buffer("resample_filter", torch.outer(f, f)[None, None] / f.sum() ** 2 if change else None)

    def forward(self, x: Any) -> Any:
        edge = self.weight.shape[-1] // 2
        if self.fused:  # all padding first, and the filter last
            x = F.conv2d(x, self.weight, padding=edge + self.frame())
            return self.resample(x, padding=0) + self.bias[:, None, None]
        return F.conv2d(self.resample(x, self.frame()) if self.change else x, self.weight, self.bias, padding=edge)

    def frame(self) -> int:
        return (self.resample_filter.shape[-1] - 1) // 2

    def resample(self, x: Any, padding: int) -> Any:
        c = x.shape[1]
        each = self.resample_filter.repeat(c, 1, 1, 1)
        if self.change == "up":
            return F.conv_transpose2d(x, 4 * each, groups=c, stride=2, padding=padding)
        return F.conv2d(x, each, groups=c, stride=2, padding=padding)


class GroupNorm(Persistent):
    def __init__(self, channels: int):
        super().__init__()
        self.num_groups = min(32, channels // 4)
        self.weight = torch.nn.Parameter(1 + 0.3 * torch.randn(channels))
        self.bias = torch.nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Any) -> Any:
        return F.group_norm(x, self.num_groups, self.weight, self.bias, eps=1e-6)


class UNetBlock(Persistent):
    def __init__(self, n_in: int, n_out: int, emb: int, fir: Any, attention: bool = False, change: str = ""):
        super().__init__()
        self.n_in, self.skip_scale = n_in, np.sqrt(0.5)  # a NumPy scalar, as in EDM
        self.norm0, self.conv0 = GroupNorm(n_in), Conv2d(n_in, n_out, 3, change, fir)
        self.affine = Linear(emb, n_out)
        self.norm1, self.conv1 = GroupNorm(n_out), Conv2d(n_out, n_out, 3)
        self.skip = Conv2d(n_in, n_out, 1, change, fir) if n_in != n_out or change else None
        self.attention = attention
        if attention:
            self.norm2, self.qkv, self.proj = GroupNorm(n_out), Conv2d(n_out, 3 * n_out, 1), Conv2d(n_out, n_out, 1)

    def forward(self, x: Any, emb: Any) -> Any:
        h = self.conv0(F.silu(self.norm0(x)))
        h = self.conv1(F.silu(self.norm1(h + self.affine(emb)[:, :, None, None])))
        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if not self.attention:
            return x
        b, c, height, width = x.shape
        q, k, v = self.qkv(self.norm2(x)).reshape(b, c, 3, height * width).permute(2, 0, 3, 1)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return (self.proj(a) + x) * self.skip_scale


class PositionalEmbedding(Persistent):
    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, t: Any) -> Any:
        half = self.channels // 2
        angle = torch.outer(t, (1 / 10_000) ** (torch.arange(half) / (half - 1)))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(Persistent):
    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, t: Any) -> Any:
        angle = torch.outer(t, 2 * torch.pi * self.freqs)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class SongUNet(Persistent):
    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        k = types.SimpleNamespace(**kwargs)
        emb, noise = 4 * k.model_channels, k.channel_mult_noise * k.model_channels
        block = partial(UNetBlock, emb=emb, fir=k.resample_filter)
        self.map_noise = (PositionalEmbedding if k.embedding_type == "positional" else FourierEmbedding)(noise)
        self.map_label = Linear(k.label_dim, noise) if k.label_dim else None
        self.map_augment = Linear(k.augment_dim, noise, bias=False)
        self.map_layer0, self.map_layer1 = Linear(noise, emb), Linear(emb, emb)
        self.enc, self.dec = torch.nn.ModuleDict(), torch.nn.ModuleDict()
        width = k.model_channels
        kept = [width]
        for level, multiplier in enumerate(k.channel_mult):
            size = k.img_resolution >> level
            side = f"{size}x{size}"
            if level == 0:
                self.enc[f"{side}_conv"] = Conv2d(k.in_channels, width, 3)
                aux = k.in_channels
            else:
                self.enc[f"{side}_down"] = block(width, width, change="down")
                kept.append(width)
                if k.encoder_type == "residual":
                    self.enc[f"{side}_aux_residual"] = Conv2d(aux, width, 3, "down", k.resample_filter, fused=True)
                    aux = width
            for i in range(k.num_blocks):
                n_in, width = width, multiplier * k.model_channels
                self.enc[f"{side}_block{i}"] = block(n_in, width, attention=size in k.attn_resolutions)
                kept.append(width)
        for level, multiplier in reversed(list(enumerate(k.channel_mult))):
            size = k.img_resolution >> level
            side = f"{size}x{size}"
            if level == len(k.channel_mult) - 1:
                self.dec[f"{side}_in0"] = block(width, width, attention=True)
                self.dec[f"{side}_in1"] = block(width, width)
            else:
                self.dec[f"{side}_up"] = block(width, width, change="up")
            for i in range(k.num_blocks + 1):
                n_in, width = width + kept.pop(), multiplier * k.model_channels
                attention = i == k.num_blocks and size in k.attn_resolutions
                self.dec[f"{side}_block{i}"] = block(n_in, width, attention=attention)
        self.dec[f"{side}_aux_norm"], self.dec[f"{side}_aux_conv"] = GroupNorm(width), Conv2d(width, k.out_channels, 3)

    def forward(self, x: Any, t: Any, one_hot: Any) -> Any:
        cos, sin = self.map_noise(t).chunk(2, dim=1)
        emb = torch.cat([sin, cos], dim=1)
        if self.map_label is not None:
            emb = emb + self.map_label(one_hot * self.map_label.weight.shape[1] ** 0.5)
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        kept: list[Any] = []
        aux = x
        for name, layer in self.enc.items():
            if "aux" in name:
                x = kept[-1] = aux = (x + layer(aux)) * 0.5**0.5
            else:
                x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
                kept.append(x)
        for name, layer in self.dec.items():
            if "aux_norm" in name:
                x = F.silu(layer(x))
            elif "aux_conv" in name:
                x = layer(x)
            else:
                x = layer(x if x.shape[1] == layer.n_in else torch.cat([x, kept.pop()], dim=1), emb)
        return x


class _Precond(Persistent):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)."""

    def __init__(self, state: dict[str, Any], **kwargs: Any):
        super().__init__()
        for name, value in state.items():
            setattr(self, name, value)
        self.model = SongUNet(**kwargs)

    def forward(self, x: Any, sigma: Any, one_hot: Any) -> Any:
        c_skip, c_out, c_in, c_noise = self.scalings(sigma.reshape(-1, 1, 1, 1))
        return c_skip * x + c_out * self.model(c_in * x, c_noise.flatten(), one_hot)

    def scalings(self, sigma: Any) -> tuple[Any, Any, Any, Any]:
        raise NotImplementedError


class EDMPrecond(_Precond):
    def scalings(self, sigma: Any) -> tuple[Any, Any, Any, Any]:
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


class VPPrecond(_Precond):
    def scalings(self, sigma: Any) -> tuple[Any, Any, Any, Any]:
        t = ((self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min) / self.beta_d
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * t


class VEPrecond(_Precond):
    def scalings(self, sigma: Any) -> tuple[Any, Any, Any, Any]:
        return 1, sigma, 1, (0.5 * sigma).log()


def save(net: Any, path: Path) -> None:
    """As EDM's training does."""
    module = types.ModuleType("torch_utils.persistence")
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
        patch.setitem(sys.modules, "torch_utils.persistence", module)
        path.write_bytes(pickle.dumps({"ema": net, "dataset_kwargs": {"resolution": 16}}))
