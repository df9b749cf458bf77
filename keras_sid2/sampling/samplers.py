"""One step of a sampler, from z_t to z_s with s < t, given the estimate x_hat of the clean image.

    (1) flow     z_s = alpha_s x + sigma_s eps,  eps = (z_t - alpha_t x) / sigma_t
                 the probability-flow ODE, exact where x does not depend on z; its linear part always is
    (2) DDPM     z_s = mean + exp(1/2 ((1 - g) ln lower + g ln upper)) noise,  noise ~ N(0, I)
    (3) DDIM     z_s = alpha_s x_hat + sigma_s (sqrt(1 - eta^2 c) eps_hat + eta sqrt(c) noise);  eta = 0 is (1)
    (4) Heun     (1) with x = (x_hat(z_t) + x_hat(z_s')) / 2, where z_s' is (1) with x_hat(z_t)
    (5) 2M       (1) with x = x_hat + (x_hat - x_hat_before) h / (2 h_before),  h = logsnr_s - logsnr_t
    (6) EDM's    z_s / alpha_s = z_t / alpha_t + (r_s - r_t) (eps_hat(z_t) + eps_hat(z_s')) / 2,  r = sigma / alpha,
        Heun     where z_s' is (1) with x_hat(z_t)
    (7) churn    z_t / alpha_t + s sqrt(r_u^2 - r_t^2) noise at r_u = (1 + churn) r_t, then (6) from there

with mean, lower and upper variance and c of gaussian.posterior. (1) to (3) are of first order in the step, (4) to (6)
of second, (4) and (6) for two evaluations of the network and (5) for one. With exact denoisers (6) beats (4) on
uniform_t, the default, whose ends are steep: of second order from 32 steps on, (4) only above 300, with 3.5 to 5 times
the error of (6) at 256. On uniform_logsnr their errors are equal, on edm_rho (4) has 1.3 times that of (6).

Sources: (2) Ho, Jain, Abbeel 2006.11239 with the variance between its bounds as in Nichol, Dhariwal 2102.09672; (3)
Song, Meng, Ermon 2010.02502; (4) and (5) Lu et al. 2211.01095: their 2S with its inner point at the end of the step,
and their 2M; (6), (7) Karras et al. 2206.00364, Algorithms 1 and 2: d(z / alpha)/dr = eps_hat by Heun's rule.

A sampler is a frozen dataclass that owns its step:

    carry(z_t) -> carry         what it hands from a step to the next, tensors in tuples; all of them zeros where there
                                is no step before: at the start, and where guidance begins or ends
    step(denoise, z_t, carry, *, logsnr_t, logsnr_s, noise) -> (z_s, x_hat, carry)
                                denoise(z, logsnr) -> x_hat, noise() ~ N(0, I) like z_t, and logsnr float32 scalars;
                                x_hat is its newest estimate
    evaluations                 of the network in a step
"""

import math
import sys
import warnings
from typing import ClassVar

from keras import ops

from keras_sid2.config import settings
from keras_sid2.diffusion.gaussian import alpha_sigma, expand, posterior
from keras_sid2.shapes import is_number


def _check(sampler, field: str, most: float, wanted: str):
    """ValueError, which says what is wanted, unless the field is a number from 0 to `most`."""
    value = getattr(sampler, field)
    if not is_number(value) or not 0.0 <= value <= most:
        raise ValueError(f"{type(sampler).__name__}'s {field} must be {wanted}, got {value!r}.")


def flow(*, z_t, x, logsnr_t, logsnr_s):
    """Eq. (1)."""
    alpha_t, sigma_t = alpha_sigma(expand(logsnr_t, z_t))
    alpha_s, sigma_s = alpha_sigma(expand(logsnr_s, z_t))
    return alpha_s * x + sigma_s / sigma_t * (z_t - alpha_t * x)


class Sampler:
    """What most samplers share: no carry, one evaluation."""

    evaluations: ClassVar[int] = 1

    def carry(self, z_t) -> tuple:
        return ()


@settings
class DDPMSampler(Sampler):
    """Eq. (2). `variance` is g in [0, 1]: 0 the lower bound, 1 the upper one.

    The lineage uses 0.1, 0.2 and 0.3; which of them SiD2 used is not known: 0.2 is our choice. Low ones draw too little
    variance where data varies little: on pixels N(0, s^2), with the exact denoiser and 512 steps, 0.2 loses 1.1 % of it
    at s = 0.5, 5 % at 0.1 and 17 % at 0.03. benchmarks/README.md has a table, and sid2-evaluate sweeps it.
    """

    variance: float = 0.2

    def __post_init__(self):
        _check(self, "variance", 1.0, "in [0, 1]")

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        x_hat = denoise(z_t, logsnr_t)
        mean, lower, upper = posterior(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
        return mean + ops.sqrt(lower ** (1.0 - self.variance) * upper**self.variance) * noise(), x_hat, carry


@settings
class DDIMSampler(Sampler):
    """Eq. (3). `eta` in [0, 1]: 0 is deterministic, 1 is DDPM with the lower variance."""

    eta: float = 0.0

    def __post_init__(self):
        _check(self, "eta", 1.0, "in [0, 1]")

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        x_hat = denoise(z_t, logsnr_t)
        if not self.eta:
            return flow(z_t=z_t, x=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s), x_hat, carry
        logsnr_t, logsnr_s = expand(logsnr_t, z_t), expand(logsnr_s, z_t)
        alpha_t, sigma_t = alpha_sigma(logsnr_t)
        alpha_s, sigma_s = alpha_sigma(logsnr_s)
        c = -ops.expm1(logsnr_t - logsnr_s)
        eps_hat = (z_t - alpha_t * x_hat) / sigma_t
        mixed = ops.sqrt(1.0 - self.eta**2 * c) * eps_hat + self.eta * ops.sqrt(c) * noise()
        return alpha_s * x_hat + sigma_s * mixed, x_hat, carry


@settings
class HeunSampler(Sampler):
    """Eq. (4): deterministic, second order, two evaluations of the network a step. Not EDM's, see `EDMHeunSampler`."""

    evaluations: ClassVar[int] = 2

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        levels = {"z_t": z_t, "logsnr_t": logsnr_t, "logsnr_s": logsnr_s}
        x_hat = denoise(z_t, logsnr_t)
        x_hat_s = denoise(flow(x=x_hat, **levels), logsnr_s)
        return flow(x=0.5 * (x_hat + x_hat_s), **levels), x_hat_s, carry


@settings
class EDMHeunSampler(Sampler):
    """Eq. (6), and Eq. (7) where `churn` is above 0: second order, two evaluations of the network a step.

    Args:
        churn: by what share noise is raised before each step, >= 0; in EDM's words gamma = S_churn / number of steps,
            0.16 and 0.31 for ImageNet 64 and CIFAR-10 (at most sqrt(2) - 1 there). 0 is deterministic.
        noise_range: (low, high) of sigma / alpha within which it is raised, S_tmin and S_tmax.
        noise_scale: s, S_noise: slightly above 1 makes up for what denoisers take away.
    """

    churn: float = 0.0
    noise_range: tuple[float, float] = (0.05, 50.0)
    noise_scale: float = 1.003
    evaluations: ClassVar[int] = 2

    def __post_init__(self):
        object.__setattr__(self, "noise_range", tuple(self.noise_range))
        for field in ("churn", "noise_scale"):
            _check(self, field, sys.float_info.max, "a number >= 0")
        if len(self.noise_range) != 2 or not 0.0 <= self.noise_range[0] < self.noise_range[1]:
            wanted = "two numbers, 0 <= low < high"
            raise ValueError(f"EDMHeunSampler's noise_range must be {wanted}, got {self.noise_range!r}.")

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        if self.churn:
            z_t, logsnr_t = self._raised(z_t, logsnr_t, noise())
        x_hat = denoise(z_t, logsnr_t)
        alpha_t, sigma_t = alpha_sigma(logsnr_t)
        alpha_s, sigma_s = alpha_sigma(logsnr_s)
        eps_t = (z_t - alpha_t * x_hat) / sigma_t
        z_s = alpha_s * x_hat + sigma_s * eps_t
        x_hat_s = denoise(z_s, logsnr_s)
        eps_s = (z_s - alpha_s * x_hat_s) / sigma_s
        z_s = z_s + 0.5 * (sigma_s - alpha_s * sigma_t / alpha_t) * (eps_s - eps_t)
        return z_s, x_hat_s, carry

    def _raised(self, z_t, logsnr_t, noise):
        """(z_u, logsnr_u) of Eq. (7); the same as before outside the range."""
        ratio = ops.exp(-0.5 * logsnr_t)
        low, high = self.noise_range
        within = ops.logical_and(ratio >= low, ratio <= high)
        logsnr_u = logsnr_t - ops.where(within, 2.0 * math.log1p(self.churn), 0.0)
        alpha_t, _ = alpha_sigma(logsnr_t)
        alpha_u, sigma_u = alpha_sigma(logsnr_u)
        added = self.noise_scale * sigma_u * ops.sqrt(-ops.expm1(logsnr_u - logsnr_t))
        return alpha_u / alpha_t * z_t + added * noise, logsnr_u


@settings
class DPMSolver2MSampler(Sampler):
    """Eq. (5), DPM-Solver++ 2M: deterministic, second order, one evaluation of the network a step."""

    def carry(self, z_t):
        """x_hat and h of the step before."""
        return ops.zeros_like(z_t), ops.zeros((), "float32")

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        (x_hat_before, h_before), x_hat, h = carry, denoise(z_t, logsnr_t), logsnr_s - logsnr_t
        first = ops.equal(h_before, 0.0)
        ahead = ops.where(first, 0.0, 0.5 * h / ops.where(first, 1.0, h_before))
        x = x_hat + ahead * (x_hat - x_hat_before)
        return flow(z_t=z_t, x=x, logsnr_t=logsnr_t, logsnr_s=logsnr_s), x_hat, (x_hat, h)


SAMPLERS = {
    "ddpm": DDPMSampler,
    "ddim": DDIMSampler,
    "heun": HeunSampler,
    "dpmpp_2m": DPMSolver2MSampler,
    "edm_heun": EDMHeunSampler,
}


class _OfVersion01(Sampler):
    """A `function` (z_t, x_hat, logsnr_t, logsnr_s, ...) with `needs`, the contract of version 0.1."""

    def __init__(self, function):
        needs = getattr(function, "needs", ("noise",))
        if not set(needs) <= {"noise", "denoise"}:
            raise ValueError(f"A sampler that needs {', '.join(needs)} must have step() now: see sampling.samplers.")
        warnings.warn("Samplers have step() now, and __call__ no more: see sampling.samplers.", DeprecationWarning, 3)
        self.function, self._needs, self.evaluations = function, needs, 1 + ("denoise" in needs)

    def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
        estimates = [denoise(z_t, logsnr_t)]

        def again(z, logsnr):
            estimates.append(denoise(z, logsnr))
            return estimates[-1]

        extra = {"noise": noise, "denoise": lambda: again}
        levels = {"z_t": z_t, "logsnr_t": logsnr_t, "logsnr_s": logsnr_s}
        z_s = self.function(x_hat=estimates[0], **levels, **{name: extra[name]() for name in self._needs})
        return z_s, estimates[-1], carry


def get_sampler(sampler):
    """A sampler by name with its default settings, or `sampler` itself if it is one already."""
    if isinstance(sampler, str) and sampler in SAMPLERS:
        return SAMPLERS[sampler]()
    if isinstance(sampler, str | type) or not (hasattr(sampler, "step") or callable(sampler)):
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)} or a sampler object, got {sampler!r}.")
    return sampler if hasattr(sampler, "step") else _OfVersion01(sampler)


def evaluations(sampler) -> int:
    """Evaluations of the network a step."""
    return sampler.evaluations
