"""Classifier-free guidance inside an interval of noise levels.

    (1) x_guided = x_uncond + scale (x_cond - x_uncond)      where low <= logsnr_t <= high, else x_cond

Sources: Ho, Salimans 2207.12598 for guidance; Kynkaanniemi et al. 2404.07724 for the interval. x_hat is affine in v and
in eps at a given z_t, so guidance in x is guidance in either of them.
"""

import math
import numbers
from collections.abc import Sequence

import numpy as np

from keras_sid2.serialization import settings


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@settings
class Guidance:
    """Guidance scale (1 = none) and the interval of logsnr, ends included, in which it acts (None: everywhere).

    Raises ValueError unless scale is finite and >= 0 and the interval is (low, high) with low < high.
    """

    scale: float = 1.0
    interval: tuple[float, float] | None = None

    def __post_init__(self):
        if not _is_number(self.scale) or not 0 <= self.scale < math.inf:
            raise ValueError(f"The guidance scale must be a finite number >= 0 (1 is none), got {self.scale!r}.")
        if self.interval is None:
            return
        ends = tuple(self.interval) if isinstance(self.interval, Sequence) else ()
        if len(ends) != 2 or not all(map(_is_number, ends)) or not ends[0] < ends[1]:
            raise ValueError(
                f"The guidance interval must be (low, high) in logsnr with low < high, got {self.interval!r}."
            )
        object.__setattr__(self, "interval", ends)

    def steps(self, logsnr: np.ndarray) -> tuple[int, int]:
        """(start, stop): steps start <= i < stop are guided. `logsnr` [num_steps] rises from noise to clean."""
        if self.scale == 1.0:
            return 0, 0
        low, high = self.interval or (-math.inf, math.inf)
        return int(np.searchsorted(logsnr, low, "left")), int(np.searchsorted(logsnr, high, "right"))


def guide(x_cond, x_uncond, scale):
    """Eq. (1) inside the interval."""
    return x_uncond + scale * (x_cond - x_uncond)
