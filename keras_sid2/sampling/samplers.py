"""One step of a sampler, from z_t to z_s with s < t, given the estimate x_hat of the clean image.

    (1) flow     z_s = alpha_s x + sigma_s eps,  eps = (z_t - alpha_t x) / sigma_t
                 the probability-flow ODE, exact where x does not depend on z; its linear part always is
    (2) DDPM     z_s = mean + exp(1/2 ((1 - g) ln lower + g ln upper)) noise,  noise ~ N(0, I)
    (3) DDIM     z_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2 c) eps_hat + eta sqrt(c) noise);  eta = 0 is (1)
    (4) Heun     (1) with x = (x_hat(z_t) + x_hat(z_s')) / 2, where z_s' is (1) with x_hat(z_t)
    (5) 2M       (1) with x = x_hat + (x_hat - x_hat_before) h / (2 h_before),  h = logsnr_s - logsnr_t
    (6) EDM's    z_s / alpha_s = z_t / alpha_t + (r_s - r_t) (eps_hat(z_t) + eps_hat(z_s')) / 2,  r = sigma / alpha,
        Heun     where z_s' is (1) with x_hat(z_t)

with mean, lower and upper variance and c of gaussian.posterior. (1) to (3) are of first order in the step, (4) to (6)
of second, (4) and (6) for two evaluations of the network and (5) for one. Measured on a Gaussian and a mixture with
exact denoisers, cosine schedule: on uniform_t, whose ends are steep, (6) is of second order from 32 steps on, and (4)
only above 300 (1.5 at 32 steps, 1.8 at 256), with 3.5 to 5 times the error of (6) at 256; on uniform_logsnr their
errors are equal, on edm_rho (4) has 1.3 times that of (6). So (6) is the better one of them on the default grid.

Sources: (2) Ho, Jain, Abbeel 2006.11239 with the variance between its bounds as in Nichol, Dhariwal 2102.09672; (3)
Song, Meng, Ermon 2010.02502; (4) and (5) Lu et al. 2211.01095: their 2S with its inner point at the end of the step,
and their 2M; (6) Karras et al. 2206.00364, Algorithm 1, with S_churn = 0: d(z / alpha)/dr = eps_hat by Heun's rule.

A sampler is a frozen dataclass with `__call__(*, z_t, x_hat, logsnr_t, logsnr_s, ...)`, logsnr a float32 scalar or [B],
and `needs`, the names of what else it takes:
    noise     N(0, I) of z_t's shape
    denoise   the function (z, logsnr [B]) -> x_hat
    before    (x_hat, logsnr) of the step before; that step's logsnr is logsnr_t itself where there was none
One without `needs` is given noise.
"""

import numbers
from typing import ClassVar

from keras import ops

from keras_sid2.config import settings
from keras_sid2.diffusion.gaussian import alpha_sigma, expand, posterior


def is_share(value) -> bool:
    """Whether it is a number in [0, 1]."""
    return isinstance(value, numbers.Real) and 0.0 <= value <= 1.0


def _each(logsnr, z):
    """[B], the same for each example, from a scalar."""
    return ops.broadcast_to(logsnr, ops.shape(z)[:1])


def flow(*, z_t, x, logsnr_t, logsnr_s):
    """Eq. (1)."""
    alpha_t, sigma_t = alpha_sigma(expand(logsnr_t, z_t))
    alpha_s, sigma_s = alpha_sigma(expand(logsnr_s, z_t))
    return alpha_s * x + sigma_s / sigma_t * (z_t - alpha_t * x)


@settings
class DDPMSampler:
    """Eq. (2). `variance` is g in [0, 1]: 0 the lower bound, 1 the upper one.

    The lineage uses 0.1, 0.2 and 0.3; which of them SiD2 used is not known: 0.2 is our choice. Low ones draw too little
    variance where data varies little: on pixels N(0, s^2), with the exact denoiser and 512 steps of uniform_t on the
    cosine schedule, 0.2 loses 1.1 % of it at s = 0.5, 1.8 % at 0.3, 5 % at 0.1 and 17 % at 0.03. benchmarks/README.md
    has a table, and sid2-evaluate sweeps it.
    """

    variance: float = 0.2
    needs: ClassVar[tuple[str, ...]] = ("noise",)

    def __post_init__(self):
        if not is_share(self.variance):
            raise ValueError(f"DDPMSampler's variance must be in [0, 1], got {self.variance!r}.")

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise):
        mean, lower, upper = posterior(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
        return mean + ops.sqrt(lower ** (1.0 - self.variance) * upper**self.variance) * noise


@settings
class DDIMSampler:
    """Eq. (3). `eta` in [0, 1]: 0 is deterministic, 1 is DDPM with the lower variance."""

    eta: float = 0.0

    def __post_init__(self):
        if not is_share(self.eta):
            raise ValueError(f"DDIMSampler's eta must be in [0, 1], got {self.eta!r}.")

    @property
    def needs(self) -> tuple[str, ...]:
        return ("noise",) if self.eta else ()

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise=None):
        if not self.eta:
            return flow(z_t=z_t, x=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
        alpha_t, sigma_t = alpha_sigma(expand(logsnr_t, z_t))
        alpha_s, sigma_s = alpha_sigma(expand(logsnr_s, z_t))
        c = -ops.expm1(expand(logsnr_t, z_t) - expand(logsnr_s, z_t))
        eps_hat = (z_t - alpha_t * x_hat) / sigma_t
        return alpha_s * x_hat + sigma_s * (ops.sqrt(1.0 - self.eta**2 * c) * eps_hat + self.eta * ops.sqrt(c) * noise)


@settings
class HeunSampler:
    """Eq. (4): deterministic, second order, two evaluations of the network a step. Not EDM's, see `EDMHeunSampler`."""

    needs: ClassVar[tuple[str, ...]] = ("denoise",)

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, denoise):
        step = {"z_t": z_t, "logsnr_t": logsnr_t, "logsnr_s": logsnr_s}
        z_s = flow(x=x_hat, **step)
        x_hat_s = denoise(z_s, ops.broadcast_to(logsnr_s, ops.shape(z_s)[:1]))
        return flow(x=0.5 * (x_hat + x_hat_s), **step)


@settings
class EDMHeunSampler:
    """Eq. (6): deterministic, second order, two evaluations of the network a step."""

    needs: ClassVar[tuple[str, ...]] = ("denoise",)

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, denoise):
        alpha_t, sigma_t = alpha_sigma(expand(logsnr_t, z_t))
        alpha_s, sigma_s = alpha_sigma(expand(logsnr_s, z_t))
        eps_t = (z_t - alpha_t * x_hat) / sigma_t
        z_s = alpha_s * x_hat + sigma_s * eps_t
        eps_s = (z_s - alpha_s * denoise(z_s, _each(logsnr_s, z_s))) / sigma_s
        return z_s + 0.5 * (sigma_s - alpha_s * sigma_t / alpha_t) * (eps_s - eps_t)


@settings
class DPMSolver2MSampler:
    """Eq. (5), DPM-Solver++ 2M: deterministic, second order, one evaluation of the network a step."""

    needs: ClassVar[tuple[str, ...]] = ("before",)

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, before):
        x_hat_before, logsnr_before = before
        h_before = expand(logsnr_t, z_t) - expand(logsnr_before, z_t)
        h = expand(logsnr_s, z_t) - expand(logsnr_t, z_t)
        first = ops.equal(h_before, 0.0)
        ahead = ops.where(first, 0.0, 0.5 * h / ops.where(first, 1.0, h_before))
        return flow(z_t=z_t, x=x_hat + ahead * (x_hat - x_hat_before), logsnr_t=logsnr_t, logsnr_s=logsnr_s)


SAMPLERS = {
    "ddpm": DDPMSampler,
    "ddim": DDIMSampler,
    "heun": HeunSampler,
    "dpmpp_2m": DPMSolver2MSampler,
    "edm_heun": EDMHeunSampler,
}


def get_sampler(sampler):
    """A sampler by name with its default settings, or `sampler` itself if it is one already."""
    if callable(sampler) and not isinstance(sampler, type):
        return sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)} or a sampler object, got {sampler!r}.")
    return SAMPLERS[sampler]()


def needs(sampler) -> tuple[str, ...]:
    """What `sampler` takes beside z_t, x_hat, logsnr_t and logsnr_s."""
    return getattr(sampler, "needs", ("noise",))


def evaluations(sampler) -> int:
    """Evaluations of the network a step."""
    return 1 + ("denoise" in needs(sampler))
