# %% [markdown]
# # From the ODE to tAB-DEIS
#
# What the paper (arXiv 2204.13902) puts together, one ingredient after the other, each with a plot of what it gains.
# The data are four clusters in the plane, for which the perfect network is a formula.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import deis
from deis import tables
from eval.exact.discretisation import FINE_STEPS, extrapolation_error, fine_trajectory, relative_change
from eval.exact.mixture import IN_2D

sde = deis.vp_linear(t_0=1e-3)
network = jax.tree_util.Partial(IN_2D.eps_fn(sde))
noise = sde.prior_sample(jax.random.key(0), (128, 2))
path = fine_trajectory(sde, network, noise)  # all but exact: 1,000 steps


def error(table):
    """Root mean square distance of the samples to the exact ones."""
    return float(np.sqrt(np.mean((np.asarray(deis.sample(table, network, noise)) - path.x[-1]) ** 2)))


# %% [markdown]
# ## 1. The linear part is known
#
# The probability-flow ODE has a part linear in x, which is known, and the network. Euler's method approximates both; an
# exponential integrator solves the linear part exactly and approximates the network alone:
#
#     x(t') = Psi(t', t) x(t) + integral of Psi(t', tau) (g^2 / 2 sigma)(tau) eps(x(tau), tau) dtau
#
# In v = x / s, and with the noise-to-signal ratio rho = sigma / s as the time, all of this is `dv/drho = eps`.
#
# ## 2. What is held still must change slowly
#
# A step holds something as it was at its beginning. The score grows towards the data as 1 / sigma; eps, which is -sigma
# times the score, stays of size 1 and changes less on most of the way. So hold eps. (At the left end it is the other
# way round: there sigma is below the width of the clusters.)

# %%
for name, values in {"eps": path.eps, "score": path.score}.items():
    change = relative_change(values, FINE_STEPS // 50)
    plt.semilogy(path.t[:: FINE_STEPS // 50][: len(change)], change, label=name)
plt.xlabel("t")
plt.ylabel("relative change over 1/50 of the grid")
_ = plt.legend()

# %% [markdown]
# An exponential integrator that holds the score is worse than Euler's method, which is the paper's warning. Holding eps
# instead is DDIM, and makes up for most of it:

# %%
ts = deis.timesteps(sde, 10)
for solver in (tables.euler, tables.ei_score, tables.ddim):
    print(f"{solver.__name__:9s} error in 10 calls {error(solver(sde, ts)):.3f}")

# %% [markdown]
# ## 3. A polynomial instead of a constant
#
# The last predictions are known. Put a polynomial in t through them and go on with it over the step. The error of this
# extrapolation, in the mean over the trajectories, by the degree:

# %%
every = FINE_STEPS // 10
for order in range(4):
    values = extrapolation_error(path.t[:-1], path.eps, every, order).reshape(10, every).mean(axis=1)
    plt.semilogy(path.t[:-1:every], values, "o-", label=f"degree {order}")
plt.xlabel("t at the beginning of the step")
plt.ylabel("error of eps, mean over the step")
_ = plt.legend()

# %% [markdown]
# The integral of that polynomial is a sum of the last predictions with weights that the network has nothing to do with:
# `P[n, j] = integral of the Lagrange polynomial L_j(t(rho)) drho`. This is tAB-DEIS, and these are all its numbers:

# %%
np.set_printoptions(precision=3, suppress=True, linewidth=100)
print(tables.t_ab(sde, ts, order=3).P)

# %% [markdown]
# ## 4. Where the nodes are
#
# Near the data things change fast, so that steps there are to be short: nodes even in the root of t, not in t. All
# ingredients together, error by calls:

# %%
calls = [5, 7, 10, 14, 20, 30, 50]
ingredients = {
    "Euler, even in t": (tables.euler, 1),
    "exponential, score": (tables.ei_score, 1),
    "+ eps: DDIM": (tables.ddim, 1),
    "+ polynomial: tAB3": (tables.t_ab, 1),
    "+ nodes even in root t": (tables.t_ab, 2),
}
for name, (solver, order) in ingredients.items():
    plt.loglog(calls, [error(solver(sde, deis.timesteps(sde, n, "t", order))) for n in calls], "o-", label=name)
plt.xlabel("network calls")
plt.ylabel("root mean square error")
_ = plt.legend()
