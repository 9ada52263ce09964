# %% [markdown]
# # Learned tables
#
# A table of 5 calls is some 30 numbers. They can be fitted to fine solutions of the network itself, without any data.
# The network here is the perfect one of a mixture in the plane; [few calls](../few_calls.md) does it for a checkpoint.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import deis
from eval.exact.mixture import IN_2D

sde = deis.vp_linear()
network = jax.tree_util.Partial(IN_2D.eps_fn(sde))
x_T = sde.prior_sample(jax.random.key(0), (256, 2))
fine = deis.tables.rho_rk(sde, deis.timesteps(sde, 100, "log"), "4rk")
x_0 = deis.sample(fine, network, x_T)

# %% [markdown]
# First the best of all untrained solvers and grids, then the table learned from it.

# %%
choices = deis.choose(sde, network, x_T[:64], x_0[:64], 5)
for choice in choices[:5]:
    about = choice.table.about
    print(f"{choice.table.name:12s} nodes {about['ts_phase']} {about.get('ts_order', '')}, distance {choice.error:.4f}")

# %%
base = choices[0].table
learned = deis.learn.fit(sde, network, base, x_T, x_0)

# %% [markdown]
# On noise that nothing was learned from: the median of the distances to the fine solution, and their root mean square,
# in which a few distant points count most.

# %%
new_x_T = sde.prior_sample(jax.random.key(1), (512, 2))
new_x_0 = deis.sample(fine, network, new_x_T)
ddim = deis.tables.build(sde, num_step=5, method="ddim")
for name, table in {"DDIM": ddim, "chosen": base, "learned": learned}.items():
    distance = np.linalg.norm(deis.sample(table, network, new_x_T) - new_x_0, axis=1)
    print(f"{name:8s} median {np.median(distance):.4f}, root mean square {np.sqrt(np.mean(distance**2)):.4f}")

# %%
_, axes = plt.subplots(1, 3, figsize=(9, 3), sharex=True, sharey=True)
for ax, (name, table) in zip(axes, {"fine": fine, "chosen": base, "learned": learned}.items(), strict=True):
    ax.plot(*np.asarray(deis.sample(table, network, new_x_T)).T, ".", markersize=2)
    ax.set_title(f"{name}, {table.nfe} calls")
