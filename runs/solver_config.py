"""The options of SDEs and samplers as typed schemas; the files in conf/sde and conf/sampler explain them."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class VPLinearConfig:
    name: str = "vp_linear"
    beta_0: float = MISSING
    beta_1: float = MISSING
    t_0: float = MISSING
    T: float = MISSING


@dataclass
class VPCosineConfig:
    name: str = "vp_cosine"
    offset: float = MISSING
    t_0: float = MISSING
    T: float = MISSING


@dataclass
class VEConfig:
    name: str = "ve"
    sigma_min: float = MISSING
    sigma_max: float = MISSING
    t_0: float = MISSING
    T: float = MISSING


@dataclass
class EDMConfig:
    name: str = "edm"
    t_0: float = MISSING
    T: float = MISSING


@dataclass
class DiscreteVPConfig:
    name: str = "discrete_vp"
    schedule: str = MISSING
    beta_start: float = MISSING
    beta_end: float = MISSING
    num_times: int = MISSING


@dataclass
class SamplerConfig:
    """What every solver has; the classes below add the keyword arguments of the solvers in `deis.tables`."""

    method: str = MISSING
    nfe: int = MISSING
    round_nfe: bool = False
    ts_phase: str = MISSING
    ts_order: float = MISSING
    t_0: float | None = None


@dataclass
class MultistepConfig(SamplerConfig):
    lower_order_final: bool = False
    corrector: bool = False
    denoise: bool = False


@dataclass
class OrderConfig(MultistepConfig):
    order: int = MISSING


@dataclass
class IPNDMConfig(OrderConfig):
    variable_step: bool = False


@dataclass
class UniPCConfig(OrderConfig):
    variant: str = MISSING
    prediction: str = MISSING


@dataclass
class SingleStepConfig(SamplerConfig):
    order: int = MISSING
    denoise: bool = False


@dataclass
class RungeKuttaConfig(SamplerConfig):
    rk_method: str = MISSING


@dataclass
class ChurnConfig(SamplerConfig):
    denoise: bool = True
    s_churn: float = 0.0
    s_noise: float = 1.0


@dataclass
class DDIMEtaConfig(SamplerConfig):
    eta: float = MISSING
    denoise: bool = False


@dataclass
class DDPMConfig(SamplerConfig):
    variance: str = MISSING
    denoise: bool = False


@dataclass
class TABSDEConfig(SamplerConfig):
    order: int = MISSING
    lam: float = MISSING
    lower_order_final: bool = False
    denoise: bool = False


@dataclass
class DPMSDEConfig(SamplerConfig):
    eta: float = MISSING
    variant: str = MISSING
    lower_order_final: bool = False
    denoise: bool = False


SAMPLERS = {
    "plain": SamplerConfig,
    "multistep": MultistepConfig,
    "order": OrderConfig,
    "ipndm": IPNDMConfig,
    "unipc": UniPCConfig,
    "single_step": SingleStepConfig,
    "runge_kutta": RungeKuttaConfig,
    "churn": ChurnConfig,
    "ddim_eta": DDIMEtaConfig,
    "ddpm": DDPMConfig,
    "t_ab_sde": TABSDEConfig,
    "dpm_sde": DPMSDEConfig,
}
