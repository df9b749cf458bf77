"""Vorticity of a decaying two-dimensional flow on a periodic square, and what is seen of it from afar.

    d omega / dt + u . grad omega = nu laplace omega,    u = (d psi / dy, -d psi / dx),    laplace psi = -omega

Pseudo-spectral: derivatives by Fourier, products on the pixels with modes above a third left out, time by the classical
Runge-Kutta rule. Incompressible Navier-Stokes (fluid of density 1, side 2 pi).
"""

import numpy as np


def vorticity(count: int, side: int = 32, *, times=(2.0, 3.0, 4.0, 5.0), seed=0, nu=8e-3, dt=0.02) -> np.ndarray:
    """float32 [count, len(times), side, side, 1], of `count` random beginnings with velocities of order one."""
    k = np.fft.fftfreq(side, 1 / side)
    kx, ky = k[None, :], k[:, None]
    k2 = kx**2 + ky**2
    inverse, kept = 1.0 / np.maximum(k2, 1.0), (np.maximum(np.abs(kx), np.abs(ky)) < side / 3)

    def slope(w):
        psi = w * inverse
        u, v, wx, wy = (np.fft.ifft2(part).real for part in (1j * ky * psi, -1j * kx * psi, 1j * kx * w, 1j * ky * w))
        return -np.fft.fft2(u * wx + v * wy) * kept - nu * k2 * w

    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(count, side, side)))
    w = noise * kept * k2**0.5 * np.exp(-0.5 * (k2**0.5 - 3.0) ** 2)
    speed2 = (np.abs(w) ** 2 * inverse).sum((1, 2), keepdims=True) / side**4
    w, found = w / np.sqrt(speed2), []
    for step in range(1, round(times[-1] / dt) + 1):
        a = slope(w)
        b = slope(w + 0.5 * dt * a)
        c = slope(w + 0.5 * dt * b)
        w = w + dt / 6.0 * (a + 2.0 * b + 2.0 * c + slope(w + dt * c))
        if any(round(time / dt) == step for time in times):
            found.append(np.fft.ifft2(w).real.astype("float32"))
    return np.stack(found, axis=1)[..., None]


def coarse(fields: np.ndarray, factor: int = 4) -> np.ndarray:
    """Means over factor x factor pixels of [N, H, W, C]."""
    n, height, width, channels = fields.shape
    blocks = fields.reshape(n, height // factor, factor, width // factor, factor, channels)
    return blocks.mean((2, 4), dtype="float64").astype("float32")


def bicubic(fields: np.ndarray, factor: int = 4) -> np.ndarray:
    """[N, H, W, 1] enlarged by Pillow's bicubic rule, of fields that go round at their edges."""
    from PIL import Image

    _, height, width, _ = fields.shape
    border = 2 * factor
    size = ((width + 4) * factor, (height + 4) * factor)
    padded = np.pad(fields[..., 0].astype("float32"), [(0, 0), (2, 2), (2, 2)], mode="wrap")
    large = [np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in padded]
    return np.stack(large)[:, border:-border, border:-border, None]
