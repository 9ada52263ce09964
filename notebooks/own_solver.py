# %% [markdown]
# # Your own solver
#
# A solver is a function of (diffusion, nodes) that returns a table. Here is one made of a polynomial in a variable of
# our own, beside the paper's, and how it fares by the number of calls. The data are a mixture of four Gaussians in the
# plane, for which the perfect network is a formula, so that the solver alone is at fault.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import deis
from deis import tables
from deis.tables.multistep import lagrange, multistep
from eval.exact.mixture import IN_2D

sde = deis.vp_linear()
network = jax.tree_util.Partial(IN_2D.eps_fn(sde))
noise = sde.prior_sample(jax.random.key(0), (256, 2))
exact = deis.sample(tables.rho_rk(sde, deis.timesteps(sde, 250, "log"), "4rk"), network, noise)


# %% [markdown]
# Adams-Bashforth through the last predictions, as a polynomial in log(1 + rho): like rho near the data, where rho is
# small, and like log rho in the noise.


# %%
def soft_log_ab(sde, ts, order=3, **options):
    weights = lagrange(np.log1p)
    return multistep(f"softlogAB{order}", sde, ts, order, weights, weights, finite_at_zero=True, **options)


# %% [markdown]
# The weights of a row sum to DDIM's, since a constant prediction is integrated exactly by any of them.

# %%
ts = deis.timesteps(sde, 6)
table = soft_log_ab(sde, ts)
np.set_printoptions(precision=3, suppress=True)
print(table.P)
print("sums", table.P.sum(axis=1))
print("DDIM", np.diff(sde.rho(ts)))

# %%
calls = [5, 7, 10, 14, 20, 28, 40, 60]
for name, solver in {"DDIM": tables.ddim, "tAB3": tables.t_ab, "rhoAB3": tables.rho_ab, "ours": soft_log_ab}.items():
    rows = [solver(sde, deis.timesteps(sde, n)) for n in calls]
    error = [float(np.sqrt(np.mean((deis.sample(row, network, noise) - exact) ** 2))) for row in rows]
    plt.loglog(calls, error, "o-", label=name)
plt.xlabel("network calls")
plt.ylabel("root mean square error")
_ = plt.legend()
