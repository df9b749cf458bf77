"""Denoise functions and what wraps them. All tensors are float32:

    denoise(z_t [B, H, W, C], logsnr_t [B]) -> x_hat [B, H, W, C]

Dynamic thresholding is Saharia et al. 2205.11487, section 2.3: where guidance drives more than 1 - q of an image's
values out of [-1, 1], the image is scaled back instead of being cut off, so that it does not saturate.
"""

import math
import numbers
from collections.abc import Callable

from keras import ops

from keras_sid2.diffusion import guide, to_x
from keras_sid2.diffusion.gaussian import expand


def denoiser(predict: Callable, kind: str = "v") -> Callable:
    """The denoise function of a network `predict(z_t, logsnr_t)` that predicts `kind`: "x", "eps" or "v"."""

    def denoise(z_t, logsnr_t):
        return to_x(ops.cast(predict(z_t, logsnr_t), "float32"), kind, z_t=z_t, logsnr=logsnr_t)

    return denoise


def clipped(denoise: Callable) -> Callable:
    """`denoise` with x_hat clipped to [-1, 1], where images are; what is not finite becomes NaN, and stays one."""

    def denoise_within(z_t, logsnr_t):
        x_hat = denoise(z_t, logsnr_t)
        return ops.clip(x_hat, -1.0, 1.0) + 0.0 * x_hat  # else infinity would be white

    return denoise_within


def clipped_between(denoise: Callable, low, high) -> Callable:
    """`clipped` for limits of each channel, float32 [C], infinite where there is none."""

    def denoise_within(z_t, logsnr_t):
        x_hat = denoise(z_t, logsnr_t)
        within = ops.minimum(ops.maximum(x_hat, ops.convert_to_tensor(low)), ops.convert_to_tensor(high))
        return within + 0.0 * x_hat

    return denoise_within


def thresholded(denoise: Callable, quantile: float) -> Callable:
    """`denoise` with x_hat clipped to [-s, s] and divided by s = max(1, the `quantile` of an image's |x_hat|).

    What is not finite becomes NaN. `quantile` is in (0, 1]; Imagen has 0.995. ValueError otherwise.
    """
    if not isinstance(quantile, numbers.Real) or not 0.0 < quantile <= 1.0:
        raise ValueError(f"dynamic_threshold must be a quantile in (0, 1], got {quantile!r}.")

    def denoise_within(z_t, logsnr_t):
        x_hat = denoise(z_t, logsnr_t)
        size = math.prod(x_hat.shape[1:])
        ordered = ops.sort(ops.reshape(ops.abs(x_hat), (-1, size)), axis=-1)
        limit = expand(ops.maximum(ordered[:, math.ceil(quantile * size) - 1], 1.0), x_hat)
        return ops.clip(x_hat, -limit, limit) / limit + 0.0 * x_hat

    return denoise_within


def guided(denoise: Callable, base: Callable, scale) -> Callable:
    """Guidance away from `base`: `scale` is a number, a scalar tensor, or a function of logsnr_t [B] -> [B]."""

    def denoise_guided(z_t, logsnr_t):
        return guide(denoise(z_t, logsnr_t), base(z_t, logsnr_t), _scale_at(scale, z_t, logsnr_t))

    return denoise_guided


def guided_in_one_batch(denoise_both: Callable, scale) -> Callable:
    """As `guided`, where denoise_both takes [2 B]: first the guided half, then the base."""

    def denoise_guided(z_t, logsnr_t):
        both = denoise_both(ops.concatenate([z_t, z_t]), ops.concatenate([logsnr_t, logsnr_t]))
        return guide(*ops.split(both, 2), _scale_at(scale, z_t, logsnr_t))

    return denoise_guided


def _scale_at(scale, z_t, logsnr_t):
    return expand(scale(logsnr_t), z_t) if callable(scale) else scale


def scale_between(logsnr, scales) -> Callable:
    """A guidance scale as `guided` takes it, from its values at rising levels, both float32 [n], straight between."""
    rise = scales[1:] - scales[:-1]
    run = logsnr[1:] - logsnr[:-1]
    slopes = ops.pad(ops.where(run > 0.0, rise / ops.where(run > 0.0, run, 1.0), 0.0), [[0, 1]])

    def scale(logsnr_t):
        at = logsnr_t + 0.0  # torch's search wants its own memory, not one number seen as many
        below = ops.maximum(ops.searchsorted(logsnr, at, side="right") - 1, 0)
        low, slope, start = (ops.take(values, below) for values in (scales, slopes, logsnr))
        return low + slope * (logsnr_t - start)

    return scale
