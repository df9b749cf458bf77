"""Data whose denoiser is known in closed form, and what samplers make of it.

p(x) = sum_k w_k N(mu_k, S_k)
E[x | z] = sum_k r_k (mu_k + alpha S_k (alpha^2 S_k + sigma^2)^-1 (z - alpha mu_k)),
r_k proportional to w_k N(z; alpha mu_k, alpha^2 S_k + sigma^2)
"""

import dataclasses

import numpy as np
from helpers import alpha_sigma_of, gaussian_x_hat, to_numpy
from keras import ops

from keras_sid2 import backend
from keras_sid2.sampling import SamplingLoop

MU, S = 0.5, 0.5
SHAPE = (2, 2, 1)


def exact(z_t, logsnr_t):
    """E[x | z_t] of pixels N(MU, S^2)."""
    return gaussian_x_hat(z_t, logsnr_t, MU, S)


@dataclasses.dataclass
class Mixture:
    """Weights [K], means [K, 4] and covariances [K, 4, 4] of images 2 x 2 x 1."""

    weights: np.ndarray
    means: np.ndarray
    covariances: np.ndarray

    def denoise(self, z_t, logsnr_t):
        """E[x | z_t] on keras.ops, in the covariances' eigenvectors."""
        alpha2, sigma2 = (ops.reshape(ops.sigmoid(sign * logsnr_t), (-1, 1)) for sign in (1.0, -1.0))
        alpha, z, parts, logits = ops.sqrt(alpha2), ops.reshape(z_t, (-1, 4)), [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            values, vectors, mean = (ops.cast(part, "float32") for part in (*np.linalg.eigh(covariance), mean))
            variance = alpha2 * values + sigma2
            y = ops.matmul(z - alpha * mean, vectors)
            parts.append(mean + ops.matmul(alpha * values / variance * y, ops.transpose(vectors)))
            logits.append(np.log(weight) - 0.5 * ops.sum(ops.log(variance) + y * y / variance, axis=1))
        r = ops.exp(ops.stack(logits, axis=1) - ops.logsumexp(ops.stack(logits, axis=1), axis=1, keepdims=True))
        return ops.reshape(sum(r[:, k : k + 1] * part for k, part in enumerate(parts)), (-1, *SHAPE))

    def x_hat(self, z, logsnr: float):
        """E[x | z] for z [B, 4] in float64 numpy, by inverting matrices."""
        alpha, sigma = alpha_sigma_of(logsnr)
        parts, logits = [], []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            total = alpha**2 * covariance + sigma**2 * np.eye(4)
            y = (z - alpha * mean) @ np.linalg.inv(total)
            parts.append(mean + alpha * y @ covariance)
            logits.append(np.log(weight) - 0.5 * np.linalg.slogdet(total)[1] - 0.5 * (y * (z - alpha * mean)).sum(1))
        r = np.exp(np.array(logits) - np.max(logits, axis=0))
        return np.einsum("kb,kbd->bd", r / r.sum(0), np.array(parts))

    def flow(self, z, start: float, end: float, steps: int = 1000, known=None):
        """z [B, 4] along the probability-flow ODE, by the classical Runge-Kutta rule.

        `known` (x [B, 4], mask [4]): there the estimate is x, so that these values follow alpha x + sigma eps.

        With l = logsnr: dalpha/dl = alpha sigma^2 / 2, dsigma/dl = -sigma alpha^2 / 2 and
        dz/dl = dalpha/dl x_hat + dsigma/dl (z - alpha x_hat) / sigma = alpha / 2 x_hat - alpha^2 / 2 z.
        """

        def slope(z, logsnr):
            alpha, _ = alpha_sigma_of(logsnr)
            x_hat = self.x_hat(z, logsnr)
            if known is not None:
                x_hat = np.where(known[1], known[0], x_hat)
            return 0.5 * alpha * x_hat - 0.5 * alpha**2 * z

        h = (end - start) / steps
        for logsnr in start + h * np.arange(steps):
            a = slope(z, logsnr)
            b = slope(z + 0.5 * h * a, logsnr + 0.5 * h)
            c = slope(z + 0.5 * h * b, logsnr + 0.5 * h)
            z = z + h / 6.0 * (a + 2.0 * b + 2.0 * c + slope(z + h * c, logsnr + h))
        return z

    def nearest(self, x):
        """The component that each x [N, 4] most likely is of."""
        logits = []
        for weight, mean, covariance in zip(self.weights, self.means, self.covariances, strict=True):
            y = (x - mean) @ np.linalg.inv(covariance)
            logits.append(np.log(weight) - 0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * (y * (x - mean)).sum(1))
        return np.argmax(logits, axis=0)


def turned_covariance(scales, angle: float) -> np.ndarray:
    """[4, 4] with the given standard deviations along axes that are turned in three planes."""
    turned = np.eye(4)
    for i in range(3):
        plane = np.eye(4)
        plane[i : i + 2, i : i + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        turned = turned @ plane
    return turned @ np.diag(np.square(scales)) @ turned.T


GAUSSIAN = Mixture(np.ones(1), np.array([[0.3, -0.2, 0.5, 0.0]]), turned_covariance([0.6, 0.3, 0.15, 0.4], 0.7)[None])
MIXTURE = Mixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[0.9, 0.0, -0.4, 0.2], [-0.8, 0.6, 0.3, -0.5], [-0.2, -0.9, 0.7, 0.6]]),
    np.array([turned_covariance([0.25, 0.12, 0.2, 0.1], angle) for angle in (0.4, 1.1, 2.0)]),
)


def final_z(loop: SamplingLoop) -> np.ndarray:
    """float64 [B, 4]: z at logsnr[-1], compiled where the backend compiles."""

    def run(logsnr, keys):
        settings = dataclasses.replace(loop, logsnr=logsnr, keys=keys)
        return settings.advance(settings.start(), 0, settings.num_steps)[0]

    program = backend.compiled(run, [], jit_compile=False)
    z = program([], ops.convert_to_tensor(loop.logsnr), ops.convert_to_tensor(loop.keys))
    return to_numpy(z).reshape(-1, 4).astype("float64")


def final_x(loop: SamplingLoop) -> np.ndarray:
    """float64 [B, 4]: the result, compiled where the backend compiles."""

    def run(logsnr, keys, known):
        settings = dataclasses.replace(loop, logsnr=logsnr, keys=keys, known=known)
        return settings.result(settings.advance(settings.start(), 0, settings.num_steps))

    tensors = (*map(ops.convert_to_tensor, (loop.logsnr, loop.keys)), loop.known)
    return to_numpy(backend.compiled(run, [], jit_compile=False)([], *tensors)).reshape(-1, 4).astype("float64")


def stepped(sampler, *, z_t, x_hat, noise=None, carry=None, **levels):
    """z_s of one step of a sampler whose denoise function says x_hat, which may be a function itself."""
    denoise = x_hat if callable(x_hat) else lambda z, logsnr: x_hat
    carry = sampler.carry(z_t) if carry is None else carry
    return sampler.step(denoise, z_t, carry, noise=lambda: noise, **levels)[0]


def column(values):
    """[n] as n one-pixel images."""
    return ops.reshape(ops.convert_to_tensor(values, "float32"), (-1, 1, 1, 1))


def moments_after(sampler, logsnr):
    """(mean, standard deviation) of the last x_hat on N(MU, S^2) without Monte Carlo error, for first-order samplers.

    With this denoiser each step is affine in (z_t, noise). Three probes of all steps at once give the
    coefficients; the moments follow in float64.
    """
    logsnr_t, logsnr_s = (ops.convert_to_tensor(part) for part in (logsnr[:-1], logsnr[1:]))

    def probe(z, noise):
        z_t, noise = (column(np.full(len(logsnr) - 1, value)) for value in (z, noise))
        x_hat = exact(z_t, logsnr_t)
        z_s = stepped(sampler, z_t=z_t, x_hat=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s, noise=noise)
        return to_numpy(z_s).ravel().astype("float64"), to_numpy(x_hat).ravel().astype("float64")

    (offset, x_offset), (moved, x_moved), (noisy, _) = probe(0.0, 0.0), probe(1.0, 0.0), probe(0.0, 1.0)
    mean, variance = 0.0, 1.0
    for a, b, n in list(zip(moved - offset, offset, noisy - offset, strict=True))[:-1]:
        mean, variance = a * mean + b, a**2 * variance + n**2
    gain = (x_moved - x_offset)[-1]
    return gain * mean + x_offset[-1], abs(gain) * variance**0.5
