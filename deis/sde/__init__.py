"""Diffusions with a scalar Gaussian kernel, as functions of time."""

from deis.sde.continuous import edm, flow, sub_vp, ve, vp_cosine, vp_linear, vp_zero_snr
from deis.sde.discrete import DiscreteVPSDE, discrete_vp
from deis.sde.kernel import SDE
from deis.sde.published import VPSDE, get_cos_alpha_fns, get_linear_alpha_fns

__all__ = ["SDE", "DiscreteVPSDE", "discrete_vp", "edm", "flow", "sub_vp", "ve", "vp_cosine", "vp_linear"]
__all__ += ["VPSDE", "get_cos_alpha_fns", "get_linear_alpha_fns", "vp_zero_snr"]
