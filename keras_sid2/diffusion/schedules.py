"""Noise schedules: logsnr as a function of t in [0, 1], 0 = clean, and its derivative in closed form.

    (1) cosine        logsnr(t) = -2 ln tan(a t + b),  b = arctan(exp(-logsnr_max / 2)),
                      a = arctan(exp(-logsnr_min / 2)) - b;   dlogsnr/dt = -4 a / sin(2 (a t + b))
    (2) shifted       cosine + shift(noise_resolution),  shift(r) = 2 ln(r / image_resolution)
    (3) interpolated  cosine + (1 - t) shift(high) + t shift(low)

Sources: (1) Nichol, Dhariwal 2102.09672 in the form of Kingma et al. 2107.00630; (2), (3) Hoogeboom et al. 2301.11093
and SiD2, 2410.19324, whose models use (3) with low = 32, high = the resolution, logsnr before the shift in [-10, 10].
SiD2's printed listing has the shift with the wrong sign and without the factor 2; taken literally, the mean of a 512 x
512 image is still visible at t = 1 (logsnr -7.2 in place of -15.5) and sampling from N(0, I) breaks. That form is
`literal_listing=True`, for comparison only.
"""

import math

from keras import ops

from keras_sid2.config import settings
from keras_sid2.shapes import square_side


@settings
class CosineSchedule:
    """Eq. (1), from logsnr_max at t = 0 to logsnr_min at t = 1; ValueError unless min < max, both finite."""

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self):
        if not -math.inf < self.logsnr_min < self.logsnr_max < math.inf:
            found = f"{self.logsnr_min} and {self.logsnr_max}"
            raise ValueError(f"logsnr_min must be below logsnr_max, both finite, got {found}.")

    def _angle(self, t):
        """(a, a t + b)."""
        b = math.atan(math.exp(-0.5 * self.logsnr_max))
        a = math.atan(math.exp(-0.5 * self.logsnr_min)) - b
        return a, a * ops.convert_to_tensor(t, "float32") + b

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        return -2.0 * ops.log(ops.tan(self._angle(t)[1]))

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`, negative everywhere."""
        a, angle = self._angle(t)
        return -4.0 * a / ops.sin(2.0 * angle)


class _Moved:
    """A schedule that moves the cosine one, by more or less at different t."""

    @property
    def _cosine(self) -> CosineSchedule:
        return CosineSchedule(self.logsnr_min, self.logsnr_max)


@settings
class ShiftedCosineSchedule(_Moved):
    """Eq. (2): the cosine schedule at `noise_resolution`, moved to `image_resolution` (pixels along one side).

    noise_resolution < image_resolution adds noise at every t. SiD1 used noise_resolution 32 or 64.
    """

    noise_resolution: float
    image_resolution: float
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self):
        if not (self.noise_resolution > 0 and self.image_resolution > 0):
            found = f"{self.noise_resolution} and {self.image_resolution}"
            raise ValueError(f"noise_resolution and image_resolution must be positive, got {found}.")
        _ = self._cosine  # checks the range

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        return self._cosine.logsnr(t) + 2.0 * math.log(self.noise_resolution / self.image_resolution)

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`; the shift does not enter it."""
        return self._cosine.dlogsnr_dt(t)


@settings
class CosineInterpolatedSchedule(_Moved):
    """Eq. (3), SiD2's schedule: noise resolution `high` at the clean end, `low` at the noisy end.

    Args:
        image_resolution: pixels along one side of the images, above 0.
        low, high: above 0, rising. The paper has 32 and the image's, as in its "cosine_interpolated_low_32_high_512" at
            512; high=None is image_resolution.
        logsnr_min, logsnr_max: the range of the cosine before the shift.
        literal_listing: take the paper's printed listing at its word (module docstring). Never for a real run.

    Raises ValueError for values outside.
    """

    image_resolution: float
    low: float = 32.0
    high: float | None = None
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    literal_listing: bool = False

    def __post_init__(self):
        high = self.image_resolution if self.high is None else self.high
        if not (self.image_resolution > 0 and 0 < self.low <= high):
            found = f"low={self.low}, high={high}, image_resolution={self.image_resolution}"
            raise ValueError(f"CosineInterpolatedSchedule needs 0 < low <= high and image_resolution > 0, got {found}.")
        _ = self._cosine  # checks the range

    @classmethod
    def for_image_shape(cls, image_shape: tuple[int, int, int]) -> "CosineInterpolatedSchedule":
        """The paper's schedule for square images of at least 32 pixels; ValueError for others."""
        side, told = square_side(image_shape)
        if side is None or side < 32:
            found = f"and these are {told}: pass schedule=, for example CosineSchedule()"
            raise ValueError(f"The paper's schedule is for square images of at least 32 pixels, {found}.")
        return cls(side)

    def shifts(self) -> tuple[float, float]:
        """(shift at t = 0, shift at t = 1)."""
        high = self.image_resolution if self.high is None else self.high
        factor = -1.0 if self.literal_listing else 2.0
        return tuple(factor * math.log(noise / self.image_resolution) for noise in (high, self.low))

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        clean, noisy = self.shifts()
        t = ops.convert_to_tensor(t, "float32")
        return self._cosine.logsnr(t) + (1.0 - t) * clean + t * noisy

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`."""
        clean, noisy = self.shifts()
        return self._cosine.dlogsnr_dt(t) + (noisy - clean)
