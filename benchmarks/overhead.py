"""What a sampler costs beside its network: set-up, compilation, a change of solver, and the loop.

    python -m benchmarks.overhead         a minute on two cores

Prints medians. What is compared takes turns, so that whatever else the machine does falls on all alike.
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

import deis
from deis import Table, tables
from models import unet
from models.config import UNetConfig
from models.score import eps_fn

SDE = deis.vp_linear()
METHODS: dict[str, Callable[..., Table]] = {
    "ddim": tables.ddim,
    "t_ab": tables.t_ab,
    "rho_ab": tables.rho_ab,
    "log_rho_ab": tables.log_rho_ab,
    "ipndm": tables.ipndm,
    "rho_rk": partial(tables.rho_rk, rk_method="2heun"),
    "dpm_solver": partial(tables.dpm_solver, order=2),
    "dpm_solver_pp": tables.dpm_solver_pp,
    "unipc": tables.unipc,
    "euler": tables.euler,
}
GRIDS = {
    "t": partial(deis.timesteps, phase="t", order=1.0),
    "t quadratic": partial(deis.timesteps, phase="t", order=2.0),
    "edm": partial(deis.timesteps, phase="edm"),
    "log": partial(deis.timesteps, phase="log"),
}
TWO_STAGES = ("rho_rk", "dpm_solver")

NETWORK = UNetConfig(
    channels=32, multipliers=[1, 2, 2], num_blocks=2, attention_resolutions=[16], image_size=32, image_channels=3
)
NUM_STEP = 10


def main() -> None:
    print("| what | measured | wanted |\n| --- | --- | --- |")
    for num_step, repeats, wanted in ((20, 51, 5), (1000, 11, 200)):
        print(
            f"| set-up of tAB3, {num_step:,} steps | {set_up(num_step, repeats):.2f} ms | < {wanted} ms |", flush=True
        )
    tables, compilations, change = sweep()
    print(f"| compilations in a sweep of {tables:,} tables | {compilations} | 1 |")
    print(f"| a change: build another table and run it on no network | {change:.2f} ms | < 1 ms |", flush=True)
    params = unet.init(NETWORK, jax.random.key(0))
    ratio, bare = loop_overhead(eps_fn(unet.network_of(NETWORK), SDE, params))
    what = f"sampler / {NUM_STEP} bare calls of {unet.num_params(params) / 1e6:.2f}M parameters, {bare:.2f} s"
    print(f"| {what} | {ratio:.4f} | < 1.02 |")


def set_up(num_step: int, repeats: int) -> float:
    """Milliseconds to get a tAB3 sampler."""
    return 1e3 * median(seconds(deis.get_sampler, SDE, no_network, num_step=num_step) for _ in range(repeats))


def sweep(nfes: Iterable[int] = range(4, 51)) -> tuple[int, int, float]:
    """(tables, compilations, milliseconds to build and run each after the first) over METHODS, GRIDS and nfes."""
    compilations = 0

    def count(event: str, duration_secs: float, **_: str | int) -> None:
        nonlocal compilations
        compilations += event == "/jax/core/compile/backend_compile_duration"

    def build_and_run(method: str, grid: str, nfe: int) -> jax.Array:
        num_step = nfe // 2 if method in TWO_STAGES else nfe
        return deis.sample(METHODS[method](SDE, GRIDS[grid](SDE, num_step)), no_network, x_T)

    x_T = np.ones((4, 8), np.float32)
    jax.monitoring.register_event_duration_secs_listener(count)
    times = [seconds(build_and_run, *choice) for choice in product(METHODS, GRIDS, nfes)]
    jax.monitoring.unregister_event_duration_listener(count)
    return len(times), compilations, 1e3 * median(times[1:])


def no_network(x: jax.Array, t: jax.Array) -> jax.Array:
    return x


def loop_overhead(network: Partial, batch: int = 4, rounds: int = 15) -> tuple[float, float]:
    """(time of `deis.sample` over that of as many bare calls, seconds of these): medians over the rounds."""
    table = deis.tables.t_ab(SDE, deis.timesteps(SDE, NUM_STEP))
    x_T = jax.random.normal(jax.random.key(1), (batch, 32, 32, 3))
    times = jnp.asarray(table.t[:-1], jnp.float32)

    @jax.jit
    def bare(network: Partial, x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, NUM_STEP, lambda i, x: network(x, times[i]), x)

    pair = (partial(deis.sample, table, network), partial(bare, network))
    for run in pair:
        run(x_T)  # compiles
    sampler, calls = zip(*((seconds(run, x_T) for run in pair) for _ in range(rounds)), strict=True)
    return median(a / b for a, b in zip(sampler, calls, strict=True)), median(calls)


def seconds(function: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args, **kwargs))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
