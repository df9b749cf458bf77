"""Where a sampler's steps lie: logsnr from t_start (noise) to t = 0 (clean), float32 [num_steps + 1], rising.

    (1) uniform_t       t_i = t_start (1 - i / n), logsnr(t_i); the paper's
    (2) uniform_logsnr  logsnr_i between logsnr(t_start) and logsnr(0), evenly
    (3) edm_rho         sigma_i^(1/rho) between its ends for i < n, evenly, where sigma = exp(-logsnr / 2) is noise over
                        signal; Karras et al. 2206.00364, Eq. (5)

The network is evaluated at logsnr[0] to logsnr[n - 1], by samplers of two evaluations also at the end of each step,
and the last x_hat is the result: no step is taken to z_0, which would add the noise of logsnr(0) back. (3), as in its
paper, evaluates at logsnr(0) itself, so its last two points are one. Noise levels are any function (schedule,
num_steps, t_start) of this kind.
"""

import numbers

import numpy as np
from keras import ops

from keras_sid2.shapes import whole_number

_BLOCK = 128


def uniform_t(schedule, num_steps: int, t_start: float = 1.0) -> np.ndarray:
    """Eq. (1)."""
    _check(num_steps, t_start)
    t = np.linspace(t_start, 0.0, num_steps + 1, dtype="float32")
    padded = np.pad(t, (0, -len(t) % _BLOCK), mode="edge")  # jax compiles each operation for each shape, and keeps it
    return ops.convert_to_numpy(schedule.logsnr(padded))[: len(t)]


def uniform_logsnr(schedule, num_steps: int, t_start: float = 1.0) -> np.ndarray:
    """Eq. (2)."""
    return np.linspace(*_ends(schedule, num_steps, t_start), num_steps + 1).astype("float32")


def edm_rho(schedule, num_steps: int, t_start: float = 1.0, rho: float = 7.0) -> np.ndarray:
    """Eq. (3)."""
    if not rho > 0:
        raise ValueError(f"rho must be positive, got {rho!r}.")
    noisy, clean = (np.exp(-0.5 * end / rho) for end in _ends(schedule, num_steps, t_start))
    logsnr = -2.0 * rho * np.log(np.linspace(noisy, clean, num_steps))
    return np.append(logsnr, logsnr[-1]).astype("float32")


NOISE_LEVELS = {"uniform_t": uniform_t, "uniform_logsnr": uniform_logsnr, "edm_rho": edm_rho}


def get_noise_levels(noise_levels):
    """Noise levels by name, or `noise_levels` itself if it is a function already."""
    if callable(noise_levels):
        return noise_levels
    if isinstance(noise_levels, str) and noise_levels in NOISE_LEVELS:
        return NOISE_LEVELS[noise_levels]
    known = ", ".join(NOISE_LEVELS)
    raise ValueError(f"noise_levels must be one of {known} or a function of this kind, got {noise_levels!r}.")


def logsnr_of(noise_levels, schedule, num_steps: int, t_start: float = 1.0) -> np.ndarray:
    """What `noise_levels`, a name or a function, gives: float32 [num_steps + 1]; ValueError if it is another."""
    _check(num_steps, t_start)
    logsnr = np.asarray(get_noise_levels(noise_levels)(schedule, num_steps, t_start), "float32")
    if logsnr.shape != (num_steps + 1,) or not np.isfinite(logsnr).all() or (np.diff(logsnr) < 0).any():
        wanted = f"{num_steps + 1} finite values of logsnr for {num_steps} steps, none below the one before it"
        raise ValueError(f"noise_levels must give {wanted}; got shape {list(logsnr.shape)}, {logsnr}.")
    return logsnr


def _check(num_steps, t_start):
    whole_number("num_steps", num_steps)
    if not isinstance(t_start, numbers.Real) or not 0.0 < t_start <= 1.0:
        raise ValueError(f"t_start must be in (0, 1], got {t_start!r}.")


def _ends(schedule, num_steps: int, t_start: float) -> tuple[float, float]:
    """float64 logsnr at t_start and at 0."""
    return tuple(uniform_t(schedule, num_steps, t_start)[[0, -1]].astype("float64"))
