"""The sampling loop. It gets denoise functions, never a model.

    denoise(z_t [B, H, W, C], logsnr_t [B]) -> x_hat [B, H, W, C], all float32

Noise of example i at step n is a function of (keys[i], n) alone, so an image does not depend on its neighbours. The
interval of guidance is known before the loop starts and the steps are in order, so the loop is three loops: outside,
inside, outside; only the middle one pays for guidance.
"""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_sid2 import backend, random


def uniform_t(schedule, num_steps: int) -> np.ndarray:
    """logsnr at t = 1, 1 - 1/num_steps, ..., 0: float32 [num_steps + 1], rising."""
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps must be an integer >= 1, got {num_steps!r}.")
    return ops.convert_to_numpy(schedule.logsnr(np.linspace(1.0, 0.0, num_steps + 1, dtype="float32")))


def clipped(denoise: Callable) -> Callable:
    """`denoise` with x_hat clipped to [-1, 1], where images are."""
    return lambda z_t, logsnr_t: ops.clip(denoise(z_t, logsnr_t), -1.0, 1.0)


def sample(
    *,
    denoise: Callable,
    sampler: Callable,
    logsnr,
    keys,
    image_shape: tuple[int, ...],
    denoise_guided: Callable | None = None,
    guided_steps: tuple = (0, 0),
    on_step: Callable[[], None] | None = None,
):
    """Draws x, float32 [B, *image_shape], from noise.

    Args:
        denoise: used outside the interval of guidance.
        sampler: a step, see sampling.steps.
        logsnr: float32 [num_steps + 1], rising; sample starts from N(0, I) at logsnr[0].
        keys: int32 [B, 2], one random key an example.
        denoise_guided: used in steps guided_steps[0] <= i < guided_steps[1]; integers, or int32 scalars of the backend.
        on_step: called after each step where the loop is a Python loop (torch).

    The last x_hat is the result: stepping to z_0 would add noise of logsnr[-1] to it.
    """
    num_steps, batch = logsnr.shape[0] - 1, keys.shape[0]

    def segment(start, stop, denoise, carry):
        def body(i, carry):
            z_t, _ = carry
            x_hat = denoise(z_t, ops.broadcast_to(logsnr[i], (batch,)))
            noise = random.normal(keys, image_shape, index=i + 1) if sampler.stochastic else None
            z_s = sampler(z_t=z_t, x_hat=x_hat, logsnr_t=logsnr[i], logsnr_s=logsnr[i + 1], noise=noise)
            return z_s, x_hat

        return backend.loop(start, stop, body, carry, on_step)

    z = random.normal(keys, image_shape)
    carry = (z, ops.zeros_like(z))
    if denoise_guided is None:
        return segment(0, num_steps, denoise, carry)[1]
    start, stop = guided_steps
    carry = segment(0, start, denoise, carry)
    carry = segment(start, stop, denoise_guided, carry)
    return segment(stop, num_steps, denoise, carry)[1]
