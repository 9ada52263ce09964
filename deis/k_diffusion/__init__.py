"""Tables by the calling convention of k-diffusion and ComfyUI: a denoiser, and noise levels that end with 0.

x = deis.k_diffusion.sample_tab(model, x, deis.k_diffusion.get_sigmas(10, phase="rho", order=7.0), order=3)

model(x, sigma [batch]) answers x_0, where x = x_0 + sigma eps, and for flow matching x = (1 - sigma) x_0 + sigma eps.
"""

from deis.k_diffusion.sampling import sample_tab, sample_table
from deis.k_diffusion.sigmas import get_sigmas, latent_diffusion, sigmas_of

__all__ = ["get_sigmas", "latent_diffusion", "sample_tab", "sample_table", "sigmas_of"]
