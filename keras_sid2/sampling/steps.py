"""One step of a sampler, from z_t to z_s with s < t, given the estimate x_hat of the clean image.

    (1) ancestral (DDPM)  z_s = mean + exp(1/2 ((1 - g) ln lower + g ln upper)) noise,  noise ~ N(0, I)
    (2) DDIM              z_s = alpha_s x_hat + sigma_s eps_hat,  eps_hat = (z_t - alpha_t x_hat) / sigma_t

with mean, lower and upper variance of gaussian.posterior. Sources: (1) Ho, Jain, Abbeel 2006.11239 with the variance
between its bounds as in Nichol, Dhariwal 2102.09672; (2) Song, Meng, Ermon 2010.02502. A sampler is a frozen dataclass
with `stochastic` and `__call__(*, z_t, x_hat, logsnr_t, logsnr_s, noise)`; logsnr is a float32 scalar or [B].
"""

from typing import ClassVar

from keras import ops

from keras_sid2.diffusion.gaussian import alpha_sigma, expand, posterior
from keras_sid2.serialization import settings


@settings
class DDPMSampler:
    """Eq. (1). `variance` is g in [0, 1]: 0 the lower bound, 1 the upper one.

    The lineage uses 0.1, 0.2 and 0.3; which of them SiD2 used is not known: 0.2 is our choice.
    """

    variance: float = 0.2
    stochastic: ClassVar[bool] = True

    def __post_init__(self):
        if not 0.0 <= self.variance <= 1.0:
            raise ValueError(f"DDPMSampler's variance must be in [0, 1], got {self.variance!r}.")

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise):
        mean, lower, upper = posterior(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
        return mean + ops.sqrt(lower ** (1.0 - self.variance) * upper**self.variance) * noise


@settings
class DDIMSampler:
    """Eq. (2): deterministic, first order in the step; `noise` is not looked at."""

    stochastic: ClassVar[bool] = False

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise=None):
        alpha_t, sigma_t = alpha_sigma(expand(logsnr_t, z_t))
        alpha_s, sigma_s = alpha_sigma(expand(logsnr_s, z_t))
        return alpha_s * x_hat + sigma_s / sigma_t * (z_t - alpha_t * x_hat)


SAMPLERS = {"ddpm": DDPMSampler, "ddim": DDIMSampler}


def get_sampler(sampler):
    """A sampler by name with its default settings, or `sampler` itself if it is one already."""
    if callable(sampler) and not isinstance(sampler, type):
        return sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)} or a sampler object, got {sampler!r}.")
    return SAMPLERS[sampler]()
