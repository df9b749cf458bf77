"""Guidance inside an interval of noise levels.

    (1) x_guided = x_base + scale(logsnr_t) (x_cond - x_base)      where low <= logsnr_t <= high, else x_cond

x_base is the estimate without a class (classifier-free guidance, Ho, Salimans 2207.12598) or that of a guidance network
(autoguidance, Karras et al. 2406.02507); the interval is of Kynkaanniemi et al. 2404.07724. x_hat is affine in v and in
eps at a given z_t, so guidance in x is guidance in either of them.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from keras_sid2.config import settings
from keras_sid2.shapes import is_number


def _is_scale(value) -> bool:
    return is_number(value) and 0 <= value < math.inf


@settings
class ScaleCurve:
    """A guidance scale that varies: through `points` (logsnr, scale), straight between them, level beyond the ends.

    Called with logsnr float32 [B] it gives the scale float32 [B]. Raises ValueError unless there are at least two
    points, their logsnr rises, and the scales are finite and >= 0.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self):
        points = tuple(tuple(p) if isinstance(p, Sequence) else (p,) for p in self.points)
        valid = len(points) > 1 and all(len(p) == 2 and is_number(p[0]) and _is_scale(p[1]) for p in points)
        if not valid or any(a[0] >= b[0] for a, b in zip(points, points[1:], strict=False)):
            wanted = "at least two points (logsnr, scale) with rising logsnr and finite scales >= 0"
            raise ValueError(f"A ScaleCurve needs {wanted}, got {self.points!r}.")
        object.__setattr__(self, "points", points)

    def __call__(self, logsnr):
        scale = ops.full_like(logsnr, self.points[0][1])
        for (x0, y0), (x1, y1) in zip(self.points, self.points[1:], strict=False):
            scale = scale + (y1 - y0) / (x1 - x0) * ops.clip(logsnr - x0, 0.0, x1 - x0)
        return scale


@settings
class Guidance:
    """How strongly and where in noise samples are guided.

    Args:
        scale: 1 = none; or a function of logsnr, float32 [N] -> [N], such as a `ScaleCurve`. It is asked once, for the
            levels of all guided steps; where a sampler evaluates between two of them, the scale is straight there.
        interval: (low, high) in logsnr, ends included, in which it acts; None is everywhere.
        one_batch: evaluate both estimates as one batch of twice the size; False is one after the other, slower on
            accelerators and in half the memory. A guidance network is always evaluated by itself.

    Raises ValueError unless scale is finite and >= 0, and the interval is (low, high) with low < high.
    """

    scale: float | Callable = 1.0
    interval: tuple[float, float] | None = None
    one_batch: bool = True

    def __post_init__(self):
        if not callable(self.scale) and not _is_scale(self.scale):
            raise ValueError(f"The guidance scale must be a finite number >= 0 (1 is none), got {self.scale!r}.")
        if self.interval is None:
            return
        ends = tuple(self.interval) if isinstance(self.interval, Sequence | np.ndarray) else ()
        if len(ends) != 2 or not all(map(is_number, ends)) or not ends[0] < ends[1]:
            wanted = "(low, high) in logsnr with low < high"
            raise ValueError(f"The guidance interval must be {wanted}, got {self.interval!r}.")
        object.__setattr__(self, "interval", tuple(map(float, ends)))

    @property
    def acts(self) -> bool:
        """Whether it changes anything anywhere."""
        return callable(self.scale) or self.scale != 1.0

    def steps(self, logsnr: np.ndarray) -> tuple[int, int]:
        """(start, stop): steps start <= i < stop are guided. `logsnr` [num_steps] rises from noise to clean."""
        if not self.acts:
            return 0, 0
        low, high = self.interval or (-math.inf, math.inf)
        return int(np.searchsorted(logsnr, low, "left")), int(np.searchsorted(logsnr, high, "right"))

    def at(self, logsnr):
        """The scale float32 [B] at levels [B], as tensors: 1 outside of the interval."""
        low, high = self.interval or (-math.inf, math.inf)
        scale = self.scale(logsnr) if callable(self.scale) else ops.full_like(logsnr, self.scale)
        return ops.where(ops.logical_and(low <= logsnr, logsnr <= high), scale, ops.ones_like(logsnr))

    def scales(self, logsnr: np.ndarray, *, ends: bool) -> np.ndarray:
        """float32 [num_steps + 1] at the levels of a run: those of guided steps, with `ends` also at their ends.

        Elsewhere it is 1. ValueError unless a function gives finite numbers >= 0, one a level.
        """
        first, last = self.steps(logsnr[:-1])
        scales = np.ones(len(logsnr), "float32")
        if first == last:
            return scales
        at, found = logsnr[first : last + ends], self.scale
        if callable(found):
            found = ops.convert_to_numpy(found(ops.convert_to_tensor(at)))
        if np.shape(found) not in ((), at.shape):
            wanted = f"one number a level: {list(at.shape)}, got {list(np.shape(found))}"
            raise ValueError(f"A guidance scale that is a function of logsnr must give {wanted}.")
        scales[first : last + ends] = found
        for level, scale in zip(logsnr, scales, strict=True):
            if not 0.0 <= scale < math.inf:
                where = f"and is {scale} at logsnr {level:.4g}"
                raise ValueError(f"The guidance scale must be a finite number >= 0 (1 is none), {where}.")
        return scales


def guide(x_cond, x_base, scale):
    """Eq. (1) inside the interval; `scale` is a number or broadcasts with the images."""
    return x_base + scale * (x_cond - x_base)
