"""Data N(MU, S^2), whose denoiser is known in closed form, and what a sampler makes of it."""

import numpy as np
from helpers import gaussian_x_hat, to_numpy
from keras import ops

MU, S = 0.5, 0.5


def exact(z_t, logsnr_t):
    """E[x | z_t]."""
    return gaussian_x_hat(z_t, logsnr_t, MU, S)


def column(values):
    """[n] as n one-pixel images."""
    return ops.reshape(ops.convert_to_tensor(values, "float32"), (-1, 1, 1, 1))


def moments_after(sampler, logsnr):
    """(mean, standard deviation) of the last x_hat without Monte Carlo error.

    With this denoiser each step is affine in (z_t, noise). Three probes of all steps at once give the
    coefficients; the moments follow in float64.
    """
    logsnr_t, logsnr_s = (ops.convert_to_tensor(part) for part in (logsnr[:-1], logsnr[1:]))

    def probe(z, noise):
        z_t, noise = (column(np.full(len(logsnr) - 1, value)) for value in (z, noise))
        x_hat = exact(z_t, logsnr_t)
        z_s = sampler(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s, noise=noise)
        return to_numpy(z_s).ravel().astype("float64"), to_numpy(x_hat).ravel().astype("float64")

    (offset, x_offset), (moved, x_moved), (noisy, _) = probe(0.0, 0.0), probe(1.0, 0.0), probe(0.0, 1.0)
    mean, variance = 0.0, 1.0
    for a, b, n in list(zip(moved - offset, offset, noisy - offset, strict=True))[:-1]:
        mean, variance = a * mean + b, a**2 * variance + n**2
    gain = (x_moved - x_offset)[-1]
    return gain * mean + x_offset[-1], abs(gain) * variance**0.5
