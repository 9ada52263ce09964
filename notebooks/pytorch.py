# %% [markdown]
# # PyTorch and diffusers
#
# The same tables run on tensors, and JAX need not be installed. Any network of diffusers is one function away.
# This notebook needs torch, and diffusers for its second half (`make test-peers` sets up both).

# %%
import numpy as np
import torch
from diffusers import UNet2DModel

import deis
import deis.torch

sde = deis.discrete_vp("linear", 1e-4, 0.02)  # DDPM's 1,000 whole times


def network(x, t):
    """The perfect prediction for Gaussian data of standard deviation 0.5, in place of a U-Net."""
    s, sigma = float(sde.s(np.asarray(float(t)))), float(sde.sigma(np.asarray(float(t))))
    return x * sigma / (s**2 * 0.25 + sigma**2)


# %%
table = deis.tables.t_ab(sde, deis.timesteps(sde, 10, "uniform"), order=3)
noise = torch.randn(2000, 3, 2, 2, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    x_0 = deis.torch.sample(table, network, noise)
print(f"standard deviation {x_0.std():.3f}, of the data 0.5, in {table.nfe} calls")

# %% [markdown]
# With a `UNet2DModel` of diffusers the function is `lambda x, t: unet(x, t).sample`. Here one with random weights, of
# the size of a toy, so that nothing is downloaded:

# %%
torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8,
    block_out_channels=(16, 16),
    down_block_types=("DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D"),
    norm_num_groups=8,
).eval()
noise = torch.randn(4, 3, 8, 8)
with torch.no_grad():
    x_0 = deis.torch.sample(table, lambda x, t: unet(x, t).sample, noise)
print(tuple(x_0.shape), bool(x_0.isfinite().all()))
