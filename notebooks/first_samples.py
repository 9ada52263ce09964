# %% [markdown]
# # First samples
#
# A trained network comes with the repository. In five cells: load it, choose a solver, draw, look, compare.
# Run it from the root of the repository; in Colab clone the repository, `%cd` into it and
# `!pip install -r requirements.txt` first.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import deis
from models.sampling.draw import load_trained
from models.sampling.source import SHIPPED, find
from models.score import eps_fn

source = find(str(SHIPPED), None, "outputs")
net = load_trained(source.path, source.step)
labels = jax.numpy.arange(10)  # one of each class of garments
network = eps_fn(net.network, net.sde, net.params, labels)
print(f"images {net.image_shape}, {net.num_classes} classes, times from {net.sde.T} down to {net.sde.t_0}")

# %% [markdown]
# A solver is a table with a row for each network call.

# %%
table = deis.tables.t_ab(net.sde, deis.timesteps(net.sde, 10), order=3)
print(table.name, table.nfe, "network calls")

# %% [markdown]
# One loop runs any table, from noise to images.

# %%
noise = net.sde.prior_sample(jax.random.key(0), (10, *net.image_shape))
x_0 = deis.sample(table, network, noise)


# %%
def show(rows):
    """Images, a row for each entry of the dict."""
    _, axes = plt.subplots(len(rows), 10, figsize=(10, 1.15 * len(rows)), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, loc="left", fontsize=9)
        for ax, image in zip(line, np.asarray(images), strict=True):
            ax.imshow(image[..., 0], cmap="gray", vmin=-1, vmax=1)
            ax.axis("off")


show({"tAB3, 10 calls": x_0})

# %% [markdown]
# The same noise through other solvers, in 5 calls. Nothing compiles again.

# %%
ts = deis.timesteps(net.sde, 5)
solvers = {"DDIM": deis.tables.ddim, "tAB3": deis.tables.t_ab, "iPNDM": deis.tables.ipndm}
show({f"{name}, 5 calls": deis.sample(solver(net.sde, ts), network, noise) for name, solver in solvers.items()})
