"""A scheduler of diffusers that runs any table: one row is one network call is one `step`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from torch import Generator, Tensor

from deis.diffusers.middle import begun_at
from deis.diffusers.nodes import PREDICTION_TYPES, is_flow, nodes_of, sde_of
from deis.diffusers.run import Run
from deis.diffusers.translate import translated
from deis.errors import as_type, require, within
from deis.table import Table
from deis.tables import named_solver
from deis.torch import numbers
from deis.wrappers import AT_NOISE, thresholded


class TableScheduler(SchedulerMixin, ConfigMixin):
    """Any solver of `deis.tables`, or a learned table, as a scheduler of diffusers' pipelines.

        pipe.scheduler = TableScheduler.from_config(pipe.scheduler.config, method="t_ab")
        pipe.scheduler = TableScheduler.from_config(pipe.scheduler.config, table="learned.safetensors")

    method, options: a name of `deis.tables.METHODS`, or of the paper as "tab3", and that function's own options, as
        {"order": 2}. num_inference_steps counts its steps: methods with k calls a step make about k times as many.
    table: the file of a table, as `Table.save` writes it, instead of a method. It has its own times, whichever are
        given; num_inference_steps must be its number of calls. The configuration keeps the numbers, so that
        `save_pretrained` needs no other file.
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr: the diffusion that
        the model was trained under. prediction_type: "epsilon", "v_prediction", "sample" or "flow_prediction".
    timestep_spacing: "linspace", "leading" and "trailing" as in diffusers (arXiv 2305.08891, table 2), with
        steps_offset; or a phase of `deis.timesteps`, with ts_order. The default is that of `deis.torch.get_sampler`.
    final_sigmas_type: "sigma_min" ends at the first training time, "zero" at sigma = 0. A grid whose last network call
        is at the first training time ends at sigma = 0.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, sigma_min, sigma_max: the grid in sigma / s.
    use_flow_sigmas, flow_shift, use_dynamic_shifting, time_shift_type, shift_terminal: flow matching's grid. Its last
        step, to sigma = 0, is from the shifted 1 / num_train_timesteps, or with use_flow_sigmas one like the others.
    base_shift, max_shift, base_image_seq_len, max_image_seq_len: read by pipelines, to find mu; variance_type, to know
        whether the network's variance is for the scheduler, which drops it.
    clip_sample, clip_sample_range: clip the predicted x_0 at every call. thresholding, dynamic_thresholding_ratio,
        sample_max_value: threshold it dynamically (Imagen, arXiv 2205.11487, section 2.3).
    Raises ValueError for a name that is not allowed, FileNotFoundError or ValueError for a table that is missing,
    damaged or of another diffusion.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        method: str = "t_ab",
        options: dict[str, Any] | None = None,
        table: str | Path | dict[str, Any] | None = None,
        timestep_spacing: str = "t",
        ts_order: float = 2.0,
        steps_offset: int = 0,
        final_sigmas_type: str = "sigma_min",
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        use_flow_sigmas: bool = False,
        flow_shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        shift_terminal: float | None = None,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        variance_type: str | None = None,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
    ):
        within("dynamic_thresholding_ratio", dynamic_thresholding_ratio, 0.01, 1.0)
        has_method = method != "t_ab" or options
        require(table is None or not has_method, "give a table, or a method with its options, not both")
        self._understand()
        if PREDICTION_TYPES[prediction_type] not in AT_NOISE:
            self._sde.refuse_noise(f"prediction_type={prediction_type!r}, unlike sample and v_prediction,")
        self._unit = num_train_timesteps if is_flow(self.config) else 1  # of the network's times, in the SDE's
        self._fixed = None
        if table is not None:
            self._fixed = _read(table) if isinstance(table, Mapping) else Table.load(table)
            self._fixed.require_sde(self._sde)
            self.register_to_config(table=_written(self._fixed))
        else:
            calls = [self._solver(self._sde, np.linspace(self._sde.T, self._sde.t_0, n), False).nfe for n in (20, 21)]
            self.order = calls[1] - calls[0]  # network calls a step, once past the first ones
        self.init_noise_sigma = self._sde.prior_std
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps).flip(0)
        self._forget()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler for the model that any scheduler's configuration describes; `kwargs` come before it.

        Options of that scheduler's own solver have no effect, and a warning names them.
        Raises ValueError for models of another kind, as preconditioned ones of EDM.
        """
        return super().from_config(translated(config, kwargs, cls), return_unused_kwargs, **kwargs)

    def _understand(self) -> None:
        """What the configuration says, as functions, which do not pickle."""
        self._sde, self._solver = sde_of(self.config), named_solver(self.config.method, self.config.options or {})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_sde", "_solver")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._understand()

    @property
    def table(self) -> Table:
        """The table of this run, from its first network call. Raises ValueError before `set_timesteps`."""
        self._require_times()
        return self._table

    @property
    def alphas_cumprod(self) -> Tensor:
        """[num_train_timesteps] squares of the signal's scale at the training times, float32."""
        times = np.arange(self.config.num_train_timesteps) / self._unit
        return torch.from_numpy(self._sde.s(times) ** 2).float()

    @property
    def step_index(self) -> int | None:
        """Network calls made in this run, with those that it leaves out at its beginning; None before the first."""
        return None if self._run is None else self._first + self._run.calls

    @property
    def begin_index(self) -> int | None:
        """Where in `timesteps` the run begins, as `set_begin_index` says; None where the first step's time says it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int | None = 0) -> None:
        """Begin the run at this index of `timesteps`, as image-to-image does."""
        self._begin_index = as_type("begin_index", begin_index, int | None)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Tensor | Sequence[float] | None = None,
        sigmas: Tensor | Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Make the table for a run and its `timesteps`, one for each network call.

        timesteps: times of the steps as the network is told them. sigmas: the noise-to-signal ratios, or sigmas of
            flow matching before their shift. mu: logarithm of the shift under use_dynamic_shifting.
        Raises ValueError for times that cannot be, or another number of steps than a given table's.
        """
        times, levels = (None if given is None else numbers(given) for given in (timesteps, sigmas))
        if self._fixed is None:
            self._nodes, self._denoise = nodes_of(self.config, self._sde, num_inference_steps, times, levels, mu)
            self._table = self._solver(self._sde, self._nodes, self._denoise)
            self.num_inference_steps = len(self._nodes) - 1 + self._denoise
        else:
            given = len(next((one for one in (times, levels) if one is not None), ()))
            self._table, self.num_inference_steps = self._fixed, num_inference_steps or given
            if self.num_inference_steps != self._fixed.nfe:
                raise ValueError(
                    f"the table {self._fixed.name} makes {self._fixed.nfe} network calls: "
                    f"give num_inference_steps={self._fixed.nfe}, got {self.num_inference_steps}"
                )
        told = self._table.t[:-1] * self._unit
        whole = not is_flow(self.config) and np.array_equal(told, np.round(told))
        self.timesteps = torch.tensor(told, dtype=torch.int64 if whole else torch.float32, device=device)
        self.sigmas = torch.tensor(self._table.rho, dtype=torch.float32)
        if is_flow(self.config):
            self.sigmas = torch.cat([torch.tensor(told / self._unit, dtype=torch.float32), torch.zeros(1)])
        self._told = told
        self._forget()

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generator | list[Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """x_t at the next network call, or at last the sample, from the model's output at `sample`.

        timestep: read by the first step of a run alone; the others follow in order.
        sample: as the last step answered it, or changed, as inpainting does; a change moves the whole state.
        generator: of the noise of stochastic tables, one, or one for each sample.
        Sums are float32, or float64 for a float64 sample, whatever the dtype of sample and model.
        Raises ValueError for a time that is not of this run, before `set_timesteps` or after the last call.
        """
        run = self._run or self._begun(timestep)
        if run.calls == len(run.rows):
            raise ValueError(f"all {len(self.timesteps)} network calls of this run are made; call set_timesteps")
        if sample.ndim > 1 and model_output.shape[1] == 2 * sample.shape[1]:  # with a learned variance behind it
            model_output = model_output[:, : sample.shape[1]]
        if model_output.shape != sample.shape:
            raise ValueError(
                f"model_output must have the shape of sample, {tuple(sample.shape)}, got {tuple(model_output.shape)}"
            )
        answer = run.step(model_output, sample, generator)
        return SchedulerOutput(prev_sample=answer) if return_dict else (answer,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = s(t) x_0 + sigma(t) noise, at times [batch] as the network is told them."""
        s, sigma = self._marginal(original_samples, timesteps)
        return s * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as pipelines of flow matching call it."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v = s(t) noise - sigma(t) x_0, the target of v-prediction."""
        s, sigma = self._marginal(sample, timesteps)
        return s * noise - sigma * sample

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def _marginal(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, ...]:
        t = torch.as_tensor(timesteps).to(like.device, torch.float32) / self._unit
        shape = (-1, *[1] * (like.ndim - 1))
        return tuple(part.to(like.dtype).reshape(shape) for part in self._sde.marginal(t))

    def _forget(self) -> None:
        self._run: Run | None = None
        self.set_begin_index(None)

    def _require_times(self) -> None:
        if self.num_inference_steps is None:
            raise ValueError("no table yet: call set_timesteps first")

    def _begun(self, timestep: Any) -> Run:
        """Lay out the rows from where the run begins."""
        self._require_times()
        first = self._index_of(timestep) if self._begin_index is None else self._begin_index
        if not 0 <= first < self._table.nfe:
            raise ValueError(f"begin_index must be 0 to {self._table.nfe - 1} in this run, got {first}")
        config, bound = self.config, None
        if config.thresholding:
            bound = thresholded(100 * config.dynamic_thresholding_ratio, most=config.sample_max_value)
        elif config.clip_sample:
            bound = partial(torch.clamp, min=-config.clip_sample_range, max=config.clip_sample_range)
        self._table, self._first = begun_at(first, self._table, self._restarted), first
        self._run = Run(self._table, self._sde, PREDICTION_TYPES[config.prediction_type], bound)
        return self._run

    def _restarted(self, t: float) -> Table | None:
        """The method's table on the nodes from t on; None for a given table, and if t is no node."""
        if self._fixed is not None or t not in self._nodes:
            return None
        left = self._nodes[np.flatnonzero(self._nodes == t)[0] :]
        return self._solver(self._sde, left, self._denoise) if len(left) > 1 else None

    def _index_of(self, timestep: Any) -> int:
        told = numbers(timestep)
        require(told.size == 1, f"timestep must be one time for the whole batch, got shape {told.shape}")
        t = told.item()
        at = np.flatnonzero(np.isclose(self._told, t, rtol=1e-6, atol=0))
        if len(at) == 0:
            raise ValueError(f"timestep {t:g} is none of this run's, {', '.join(f'{t:g}' for t in self._told)}")
        return int(at[-1])  # the last of equal ones begins a step


def _written(table: Table) -> dict[str, Any]:
    """A table as plain JSON numbers, bit for bit."""
    columns = {name: getattr(table, name).tolist() for name in table.shapes()}
    return {"name": table.name, "about": dict(table.about), **columns}


def _read(written: Mapping[str, Any]) -> Table:
    columns = {name: np.asarray(value) for name, value in written.items() if name not in ("name", "about")}
    return Table(written["name"], **columns, about=written["about"])
