"""Error against network calls from pure noise: our tables on flow models beside the schedulers of diffusers.

    PYTHONPATH=tests .venv-peers/bin/python -m benchmarks.flow > docs/flow.md      two minutes on two cores

The data are the Gaussian mixtures of `problems`, whose x_0 given x is known exactly; the error is the root mean square
distance to the exact solution of the probability-flow ODE, as a geometric mean over the mixtures. All start from one
noise at t = 1 and end at sigma = 0. The multistep schedulers have no sigma = 1, and move it to 0.999 or 1 - 1e-6.
Nothing is fitted. Where diffusers is not installed, ours are printed alone.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from reference import problem
from reference.mixture import Mixture

import deis
from benchmarks.problems import DATA
from deis import SDE, Table, tables

NFES = (4, 5, 6, 8, 10, 15, 20, 30, 50)
SHIFTS = (1.0, 3.0)
END = 1e-4  # time whose exact x stands for x_0: it moves by 1e-6 from there
SOLVERS: dict[str, Callable[..., Table]] = {
    "Euler (DDIM)": tables.ddim,
    **{f"tAB{k}": partial(tables.t_ab, order=k) for k in (1, 2, 3)},
    **{f"iPNDM{k}": partial(tables.ipndm, order=k) for k in (2, 3, 4)},
    "rhoAB2": partial(tables.rho_ab, order=2),
    "logrhoAB2": partial(tables.log_rho_ab, order=2),
    **{f"DPM++{k}M": partial(tables.dpm_solver_pp, order=k) for k in (2, 3)},
    **{f"UniPC{k}": partial(tables.unipc, order=k) for k in (2, 3)},
    **{f"rhoRK {name}": partial(tables.rho_rk, rk_method=name) for name in ("2heun", "3kutta", "4rk")},
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "Heun": ("FlowMatchHeunDiscreteScheduler", {}),
    **{f"DEIS{k}": ("DEISMultistepScheduler", {"solver_order": k}) for k in (2, 3)},
    **{f"DPM++{k}M": ("DPMSolverMultistepScheduler", {"solver_order": k}) for k in (2, 3)},
    **{f"UniPC{k}": ("UniPCMultistepScheduler", {"solver_order": k}) for k in (2, 3)},
}

Errors = dict[tuple[str, int], float]


def noise(data: Mixture) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(64, data.mean.shape[1]))


def exact(data: Mixture) -> np.ndarray:
    """x_0 of the probability-flow ODE from `noise`, under every flow SDE and to 1e-5."""
    sde = deis.flow()
    x = data.flow(sde, noise(data), np.array([1.0, END]))[-1]
    return data.x_0(x, 1 - END, END)


def our_errors(data: Mixture, sde: SDE, order: float) -> Errors:
    x_0 = exact(data)
    errors: Errors = {}
    for name, solver in SOLVERS.items():
        for nfe in NFES:
            table = _with_nfe(partial(_on_grid, solver, sde, order), nfe)
            if table is not None:
                errors[name, nfe] = _rms(problem.run(table, data.eps_fn(sde), noise(data)) - x_0)
    return errors


def their_errors(data: Mixture, shift: float) -> Errors:
    import diffusers
    import torch

    x_0 = exact(data)
    errors: Errors = {}
    for name, (scheduler, options) in PEERS.items():
        for nfe in NFES:
            is_flow = scheduler.startswith("Flow")
            flow: dict[str, Any] = {"shift": shift} if is_flow else {"use_flow_sigmas": True, "flow_shift": shift}
            flow |= {} if is_flow else {"prediction_type": "flow_prediction"}
            flow |= {} if is_flow or "DEIS" in name else {"final_sigmas_type": "zero"}
            made = getattr(diffusers, scheduler)(**options, **flow)
            made.set_timesteps(nfe // 2 + 1 if name == "Heun" else nfe)
            x = torch.from_numpy(noise(data))
            if len(made.timesteps) > nfe:
                continue
            for i, t in enumerate(made.timesteps):
                sigma = float(made.sigmas[i])
                eps_minus_x_0 = data.eps(x.numpy(), 1 - sigma, sigma) - data.x_0(x.numpy(), 1 - sigma, sigma)
                x = made.step(torch.from_numpy(eps_minus_x_0), t, x).prev_sample.double()
            errors[name, nfe] = _rms(x.numpy() - x_0)
    return errors


def _on_grid(solver: Callable[..., Table], sde: SDE, order: float, num_step: int) -> Table:
    return solver(sde, deis.timesteps(sde, num_step, "t", order))


def _with_nfe(table: Callable[[int], Table], nfe: int) -> Table | None:
    found = table(tables.fewest_steps(table, nfe))
    return found if found.nfe == nfe else None


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


def section(title: str, found: list[Errors]) -> str:
    """A table of the geometric means; the smallest of each column is bold."""
    errors = {key: float(np.exp(np.mean([np.log(one[key]) for one in found]))) for key in found[0]}
    rows = [f"| {title} | " + " | ".join(map(str, NFES)) + " |", "| --- " * (len(NFES) + 1) + "|"]
    best = {nfe: min(error for (_, n), error in errors.items() if n == nfe) for nfe in NFES}
    for name in dict.fromkeys(name for name, _ in errors):
        cells = [errors.get((name, nfe)) for nfe in NFES]
        shown = ["" if e is None else f"{e:.4f}" for e in cells]
        bold = [f"**{s}**" if e == best[nfe] else s for s, e, nfe in zip(shown, cells, NFES, strict=True)]
        rows.append(f"| {name} | " + " | ".join(bold) + " |")
    return "\n".join(rows)


def main() -> None:
    print("# " + (__doc__ or "").strip() + "\n")
    for shift in SHIFTS:
        print(f"## {'Linear grid' if shift == 1 else f'Linear grid with the shift {shift:g}'}\n")
        sde = deis.flow(shift)
        print(section("ours", [our_errors(data, sde, 1.0) for data in DATA.values()]) + "\n")
        if find_spec("diffusers"):
            print(section("diffusers", [their_errors(data, shift) for data in DATA.values()]) + "\n")
    print('## Other grids of ours\n\n`ts_order` 2 of the grid "t": shorter steps near t = 0.\n')
    print(section("ours, quadratic", [our_errors(data, deis.flow(), 2.0) for data in DATA.values()]))


if __name__ == "__main__":
    main()
