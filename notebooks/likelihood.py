# %% [markdown]
# # Likelihood and encoding
#
# The probability-flow ODE can be walked both ways. From the data to the noise it encodes, and integrates the
# log-density on the way, by the same tables. With a mixture as the data both answers are known.

# %%
from functools import partial

import jax
import matplotlib.pyplot as plt
import numpy as np

import deis
from deis.likelihood import decode, encode, log_prob
from eval.exact.mixture import IN_2D

sde = deis.vp_linear()
network = jax.tree_util.Partial(IN_2D.eps_fn(sde))
x_0 = IN_2D.sample(jax.random.key(0), 256)
x_0 = sde.s(sde.t_0) * x_0 + sde.sigma(sde.t_0) * jax.random.normal(jax.random.key(1), x_0.shape)  # at t_0
exact = IN_2D.log_density(x_0, sde.s(sde.t_0), sde.sigma(sde.t_0))

# %% [markdown]
# ## Log-density by network calls

# %%
for name, solver in {
    "tAB3": deis.tables.t_ab,
    "rho3Kutta": partial(deis.tables.rho_rk, rk_method="3kutta"),
}.items():
    calls, errors = [], []
    for num_step in (6, 12, 24):
        flow = partial(encode, ts=deis.timesteps(sde, num_step, "log"), solver=solver)
        log_p, nfe = log_prob(sde, network, x_0, flow)
        calls.append(nfe)
        errors.append(float(np.abs(np.mean(log_p - exact))))
    plt.loglog(calls, errors, "o-", label=name)
plt.xlabel("network calls")
plt.ylabel("error of the mean log-density, nats")
_ = plt.legend()

# %% [markdown]
# ## There and back
#
# Encoding and decoding with the same nodes gives the data back, up to the error of the solver, which is not the same
# for all points.

# %%
ts = deis.timesteps(sde, 20, "log")
solver = partial(deis.tables.rho_rk, rk_method="3kutta")
x_T, calls = encode(sde, network, x_0, ts, solver)
back, _ = decode(sde, network, x_T, ts, solver)
distance = np.linalg.norm(back - x_0, axis=1)
print(f"{calls} calls each way, distance {np.median(distance):.1e} in the median, {distance.max():.1e} at most")

# %% [markdown]
# ## Between two points
#
# The way from one noise to another along the sphere (slerp), decoded: it passes through the data, and not between them.

# %%
one, two = x_T[0], x_T[1]
angle = np.arccos(np.vdot(one, two) / np.linalg.norm(one) / np.linalg.norm(two))
w = np.linspace(0, 1, 200)[:, None]
between = (np.sin((1 - w) * angle) * one + np.sin(w * angle) * two) / np.sin(angle)
path, _ = decode(sde, network, between, ts, solver)
plt.plot(*np.asarray(x_0).T, ".", color="lightgray")
plt.plot(*np.asarray(path).T, ".-", markersize=3)
_ = plt.axis("equal")
