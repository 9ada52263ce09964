"""What a sampler costs beside its network: set-up, compilation, a change of solver, and the loop.

    python -m benchmarks.overhead         a minute on two cores

Prints medians. In the last comparison sampler and bare calls take turns in random order, on the same inputs and with a
network whose output is not 0. The bare calls take part twice: what they differ by from themselves is what the machine
can resolve, and a ratio of the sampler below 1 by more than that would be a fault of the measurement.
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
TABLE = tables.t_ab(SDE, deis.timesteps(SDE, NUM_STEP))


def main() -> None:
    print("| what | measured | wanted |\n| --- | --- | --- |")
    for num_step, repeats, wanted in ((20, 51, 5), (1000, 11, 200)):
        print(
            f"| set-up of tAB3, {num_step:,} steps | {set_up(num_step, repeats):.2f} ms | < {wanted} ms |", flush=True
        )
    count, compilations, change = sweep()
    print(f"| compilations in a sweep of {count:,} tables | {compilations} | 1 |")
    print(f"| a change: build another table and run it on no network | {change:.2f} ms | < 1 ms |", flush=True)
    params = random_params()
    network = eps_fn(unet.network_of(NETWORK), SDE, params)
    print(f"| the loop itself, {NUM_STEP} steps without a network | {loop_itself():.2f} ms | |", flush=True)
    times = take_turns(network)
    ratios = [f"{r:.4f}, 95 % in [{low:.4f}, {high:.4f}]" for r, low, high in (ratio(times, i) for i in (0, 2))]
    what = f"{NUM_STEP} calls of {unet.num_params(params) / 1e6:.2f}M parameters, {median(times[1]):.2f} s"
    print(f"| sampler / bare, {what} | {ratios[0]} | < 1.02 |\n| bare / bare | {ratios[1]} | 1 |")


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


def random_params() -> unet.Params:
    """Random parameters for NETWORK. As initialised, its last convolution is 0, and so is what it predicts."""
    params = unet.init(NETWORK, jax.random.key(0))
    kernel = params["conv_out"]["kernel"]
    return params | {
        "conv_out": params["conv_out"] | {"kernel": 0.1 * jax.random.normal(jax.random.key(1), kernel.shape)}
    }


def loop_itself(rounds: int = 101) -> float:
    """Milliseconds of `deis.sample` where the network costs nothing."""
    run = partial(deis.sample, TABLE, no_network, x_T())
    run()  # compiles
    return 1e3 * median(seconds(run) for _ in range(rounds))


def take_turns(network: Partial, rounds: int = 101) -> np.ndarray:
    """[3, rounds] seconds of `deis.sample`, of as many bare calls on the same inputs, and of these again."""
    inputs = deis.trajectory(TABLE, network, x_T())[0]
    times = jnp.asarray(TABLE.t, jnp.float32)

    @jax.jit
    def bare(network: Partial, inputs: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, NUM_STEP, lambda i, _: network(inputs[i], times[i]), inputs[0])

    runs = (partial(deis.sample, TABLE, network, x_T()), partial(bare, network, inputs), partial(bare, network, inputs))
    for run in runs:
        jax.block_until_ready(run())  # compiles
    rng, taken = np.random.default_rng(0), np.empty((len(runs), rounds))
    for i in range(rounds):
        for j in rng.permutation(len(runs)):
            taken[j, i] = seconds(runs[j])
    return taken


def ratio(times: np.ndarray, i: int) -> tuple[float, float, float]:
    """Median over the rounds of times[i] / times[1], and the 95 % interval of that median by the bootstrap."""
    ratios = times[i] / times[1]
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    return float(np.median(ratios)), *np.quantile(medians, [0.025, 0.975]).tolist()


def x_T() -> jax.Array:
    return jax.random.normal(jax.random.key(2), (1, 32, 32, 3))


def seconds(function: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args, **kwargs))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
