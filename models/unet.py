"""The score networks of DDPM, DDPM++, NCSN++ and EDM as one U-Net in Flax NNX, chosen by `UNetConfig`.

DDPM: Ho et al., arXiv 2006.11239. DDPM++ and NCSN++: Song et al., arXiv 2011.13456, appendix H; Karras et al.,
arXiv 2206.00364, train these with other widths.
"""

import dataclasses
import math
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from models.config import UNetConfig
from models.layers import (
    ZEROS,
    Block,
    Downsample,
    Fourier,
    Images,
    PyramidDown,
    Upsample,
    conv,
    embedding,
    from_patches,
    group_norm,
    linear,
    norm_silu,
    time_embedding,
    to_patches,
)
from models.layout import stages
from models.score import Network

Params = dict[str, Any]
_Options = tuple[tuple[str, Any], ...]  # of a UNetConfig, to be looked up by

_KINDS = {"block": Block, "downsample": Downsample, "upsample": Upsample}


def init(cfg: UNetConfig, key: PRNGKeyArray) -> Params:
    """Fresh parameters, a function of the key: nested dicts of float32 arrays."""
    return params_of(UNet(cfg, nnx.Rngs(key)))


def shapes(cfg: UNetConfig) -> Params:
    """The parameters' shapes and dtypes, with nothing computed."""
    return _shapes(_options(cfg))


def network_of(cfg: UNetConfig) -> Network:
    """The network that `cfg` describes, the same object for an equal `cfg`, so that compiled code is found again."""
    return _network(_options(cfg))


def params_of(module: "UNet") -> Params:
    """The parameters of a U-Net: nested dicts of arrays."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def as_network(module: "UNet") -> Network:
    """The U-Net as a pure function of its parameters.

    Any layer of the module may have been replaced by another nnx module whose only state is `nnx.Param`.
    """
    graph, template = nnx.split(module, nnx.Param)
    cfg = module.cfg

    def apply(
        params: Params,
        x: Images,
        t: Float[Array, " b"],
        label: Int[Array, " b"] | None = None,
        dropout_keys: PRNGKeyArray | None = None,
    ) -> Images:
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)(x, t, label, dropout_keys)

    null_label = cfg.num_classes if cfg.null_class else None
    return Network(apply, cfg.time, cfg.input, cfg.output, cfg.sigma_data, null_label)


def num_params(params: Params) -> int:
    """The number of parameters, of arrays or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _options(cfg: UNetConfig) -> _Options:
    values = dataclasses.asdict(cfg).items()
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in values)


@lru_cache
def _shapes(options: _Options) -> Params:
    return params_of(abstract(UNetConfig(**dict(options))))


@lru_cache
def _network(options: _Options) -> Network:
    return as_network(abstract(UNetConfig(**dict(options))))


def abstract(cfg: UNetConfig) -> "UNet":
    """The U-Net with shapes and dtypes in the place of its parameters."""
    rngs, key = nnx.Rngs(), jax.random.key(0)
    setattr(rngs, "params", lambda: key)  # noqa: B010 - a traced nnx.Rngs that counts takes quadratic time
    return nnx.eval_shape(lambda: UNet(cfg, rngs))


def _keys_of_stages(keys: PRNGKeyArray | None, count: int) -> list[PRNGKeyArray | None]:
    """Keys [b] of every stage, from those of the images."""
    return [None] * count if keys is None else list(jax.vmap(partial(jax.random.split, num=count), out_axes=1)(keys))


@jax.jit  # to be traced once for all stages that are alike
def _run(stage: Any, h: Images, emb: Float[Array, "b e"], keys: PRNGKeyArray | None) -> Images:
    return stage(h, emb, keys)


class UNet(nnx.Module):
    """The stages of `models.layout` between a first convolution and a last one."""

    def __init__(self, cfg: UNetConfig, rngs: nnx.Rngs):
        assert cfg.image_channels is not None
        self.cfg, self.order = cfg, tuple(stages(cfg))
        self.fourier = Fourier(cfg, rngs) if cfg.embedding == "fourier" else None
        features, emb = cfg.channels * (1 if self.fourier is None else 2), 4 * cfg.channels
        self.embed_in, self.embed_out = (linear(n, emb, jnp.float32, rngs) for n in (features, emb))
        label_features = emb if cfg.class_embedding == "after" else features
        num_labels = cfg.num_classes + cfg.null_class
        self.embed_label = embedding(num_labels, label_features, rngs) if num_labels else None

        values = cfg.image_channels * cfg.patch_size**2
        self.conv_in = conv(values, cfg.channels, cfg.dtype, rngs)
        self.stages = nnx.Dict({stage.name: _KINDS[stage.kind](cfg, stage, rngs) for stage in self.order})
        widths = [values] + [stage.n_out for stage in self.order if stage.pyramid]
        names = [stage.name for stage in self.order if stage.pyramid]
        self.pyramid = nnx.Dict(
            {name: PyramidDown(cfg, widths[i], widths[i + 1], rngs) for i, name in enumerate(names)}
        )
        self.norm_out = group_norm(cfg, self.order[-1].n_out)
        self.conv_out = conv(self.order[-1].n_out, values, jnp.float32, rngs, kernel_init=ZEROS)

    def __call__(
        self, x: Images, t: Float[Array, " b"], label: Int[Array, " b"] | None, dropout_keys: PRNGKeyArray | None
    ) -> Images:
        emb = self.embed(t, label)
        keys = _keys_of_stages(dropout_keys, len(self.order))
        image = to_patches(x, self.cfg.patch_size)
        h = self.conv_in(image)
        kept = [h]
        for stage, key in zip(self.order, keys, strict=True):
            run = jax.checkpoint(_run) if self.cfg.remat else _run
            if stage.takes:
                h = jnp.concatenate([h, kept.pop()], axis=-1)
            h = run(self.stages[stage.name], h, emb, key)
            if stage.pyramid:
                image = self.pyramid[stage.name](image)
                h = image = (image + h) * (math.sqrt(0.5) if self.cfg.skip_rescale else 1.0)
            if stage.keeps:
                kept.append(h)
        return from_patches(self.conv_out(norm_silu(self.norm_out, h)).astype(jnp.float32), self.cfg.patch_size)

    def embed(self, t: Float[Array, " b"], label: Int[Array, " b"] | None) -> Float[Array, "b e"]:
        """The conditioning embedding of every residual block: noise conditioning and class label, through an MLP."""
        if label is not None and self.embed_label is None:
            raise ValueError("this network is without classes: give no labels")
        if label is None and self.embed_label is not None:
            raise ValueError("this network has classes: give a label for every image")
        added = self.embed_label(label) if label is not None and self.embed_label is not None else 0.0
        before, after = (added, 0.0) if self.cfg.class_embedding == "before" else (0.0, added)
        features = (
            time_embedding(t, self.cfg.channels, self.cfg.freq_shift) if self.fourier is None else self.fourier(t)
        )
        return nnx.silu(self.embed_out(nnx.silu(self.embed_in(features + before))) + after)
