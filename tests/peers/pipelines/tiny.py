"""Pipelines of diffusers with tiny random networks, in float64: what each draws, and the network inside it.

Each is a function from a scheduler to a `Tiny`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor

EMBEDS = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NEGATIVE = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
POOLED = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
GUIDANCE = 3.0


class Tiny(NamedTuple):
    """A pipeline with its network as a function.

    draw(steps, latents, generators): the pipeline's result as latents [2, ...].
    network(x, t): what the pipeline hands to its scheduler, at x and the time t that the network is told.
    module: whose calls are the network calls.
    """

    pipe: Any
    draw: Callable[[int, Tensor, list[torch.Generator]], Tensor]
    network: Callable[[Tensor, Tensor], Tensor]
    module: torch.nn.Module
    shape: tuple[int, ...]


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe.to(torch.float64)


def autoencoder() -> Any:
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(
        latent_channels=4, block_out_channels=(8,), norm_num_groups=4, sample_size=8, layers_per_block=1
    )


def ddpm(scheduler: Any) -> Tiny:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    pipe = quiet(diffusers.DDPMPipeline(unet, scheduler))

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        drawn = pipe(2, generator=generators, num_inference_steps=steps, output_type="np").images  # draws its own noise
        return torch.from_numpy(2 * drawn - 1).permute(0, 3, 1, 2)

    return Tiny(pipe, draw, lambda x, t: unet(x, t).sample, unet, (3, 8, 8))


def unet_2d_condition() -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )


def guided_unet(unet: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def network(x: Tensor, t: Tensor) -> Tensor:
        both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([NEGATIVE, EMBEDS])).sample
        without, having = both.chunk(2)
        return without + GUIDANCE * (having - without)

    return network


PROMPTS = {"prompt_embeds": EMBEDS, "negative_prompt_embeds": NEGATIVE, "guidance_scale": GUIDANCE}


def stable_diffusion(scheduler: Any) -> Tiny:
    unet = unet_2d_condition()
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = diffusers.StableDiffusionPipeline(
        vae=autoencoder(), unet=unet, scheduler=scheduler, requires_safety_checker=False, **parts
    )
    quiet(pipe)

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        return pipe(
            latents=latents, num_inference_steps=steps, generator=generators, output_type="latent", **PROMPTS
        ).images

    return Tiny(pipe, draw, guided_unet(unet), unet, (4, 8, 8))


def image_to_image(scheduler: Any, strength: float = 0.6) -> Tiny:
    """Its latents are a random image's; the noise that it adds is the first draw of the generators."""
    unet = unet_2d_condition()
    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        vae=autoencoder(), unet=unet, scheduler=scheduler, requires_safety_checker=False, **parts
    )
    quiet(pipe)

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        return pipe(
            image=latents,
            strength=strength,
            num_inference_steps=steps,
            generator=generators,
            output_type="latent",
            **PROMPTS,
        ).images

    return Tiny(pipe, draw, guided_unet(unet), unet, (4, 8, 8))


def class_conditional(scheduler: Any) -> Tiny:
    """DiT, whose network answers a learned variance as well."""
    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=4,
        num_layers=1,
        patch_size=2,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        num_embeds_ada_norm=10,
    )
    pipe = quiet(diffusers.DiTPipeline(transformer, autoencoder(), scheduler))
    decoded: list[Tensor] = []
    decode = pipe.vae.decode

    def recorded(latents: Tensor) -> Any:
        decoded.append(latents)
        return decode(latents)

    pipe.vae.decode = recorded

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        pipe([3, 7], guidance_scale=1.0, num_inference_steps=steps, generator=generators, output_type="np")
        return decoded[-1] * pipe.vae.config.scaling_factor

    def network(x: Tensor, t: Tensor) -> Tensor:
        return transformer(x, timestep=t.expand(2), class_labels=torch.tensor([3, 7])).sample[:, :4]

    return Tiny(pipe, draw, network, transformer, (4, 4, 4))


def stable_diffusion_3(scheduler: Any) -> Tiny:
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=8,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
    )
    names = [f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3")]
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=scheduler, vae=autoencoder(), **dict.fromkeys(names)
    )
    quiet(pipe)

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        return pipe(
            latents=latents,
            num_inference_steps=steps,
            generator=generators,
            output_type="latent",
            height=8,
            width=8,
            pooled_prompt_embeds=POOLED[0],
            negative_pooled_prompt_embeds=POOLED[1],
            **PROMPTS,
        ).images

    def network(x: Tensor, t: Tensor) -> Tensor:
        both = transformer(
            hidden_states=torch.cat([x, x]),
            timestep=t.expand(4),
            encoder_hidden_states=torch.cat([NEGATIVE, EMBEDS]),
            pooled_projections=torch.cat([POOLED[1], POOLED[0]]),
        ).sample
        without, having = both.chunk(2)
        return without + GUIDANCE * (having - without)

    return Tiny(pipe, draw, network, transformer, (4, 8, 8))


def flux(scheduler: Any) -> Tiny:
    """Its latents are packed, [batch, tokens, channels]; it gives sigmas of its own and mu by the image's size."""
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(2, 2, 4),
    )
    names = [f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2")]
    vae = autoencoder()
    pipe = diffusers.FluxPipeline(transformer=transformer, scheduler=scheduler, vae=vae, **dict.fromkeys(names))
    quiet(pipe)

    def draw(steps: int, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        return pipe(
            latents=latents,
            num_inference_steps=steps,
            generator=generators,
            output_type="latent",
            height=8,
            width=8,
            prompt_embeds=EMBEDS,
            pooled_prompt_embeds=POOLED[0],
        ).images

    def network(x: Tensor, t: Tensor) -> Tensor:
        side = int(x.shape[1] ** 0.5)
        return transformer(
            hidden_states=x,
            timestep=t.expand(2) / 1000,
            encoder_hidden_states=EMBEDS,
            pooled_projections=POOLED[0],
            txt_ids=torch.zeros(7, 3, dtype=torch.float64),
            img_ids=pipe._prepare_latent_image_ids(2, side, side, x.device, x.dtype),
        ).sample

    return Tiny(pipe, draw, network, transformer, (16, 4))
