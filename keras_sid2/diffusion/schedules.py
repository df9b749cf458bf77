"""Noise schedules: logsnr as a function of t in [0, 1], 0 = clean, and its derivative in closed form.

    (1) cosine        logsnr(t) = -2 ln tan(a t + b),  b = arctan(exp(-logsnr_max / 2)),
                      a = arctan(exp(-logsnr_min / 2)) - b;   dlogsnr/dt = -4 a / sin(2 (a t + b))
    (2) shifted       cosine + shift(noise_resolution),  shift(r) = 2 ln(r / image_resolution)
    (3) interpolated  cosine + (1 - t) shift(high) + t shift(low)

Sources: (1) Nichol, Dhariwal 2102.09672 in the form of Kingma et al. 2107.00630; (2), (3) Hoogeboom et al. 2301.11093
and SiD2, 2410.19324, whose models use (3) with low = 32, high = the resolution, logsnr before the shift in [-10, 10].
SiD2's printed listing has the shift with the wrong sign and without the factor 2; taken literally, the mean of a 512 x
512 image is still visible at t = 1 (logsnr -7.2 in place of -15.5) and sampling from N(0, I) breaks. The correct form
is the default here; `literal_listing=True` gives the printed one, for comparison only.
"""

import math

from keras import ops

from keras_sid2.config import settings
from keras_sid2.shapes import square_side


def _require(condition: bool, message: str):
    if not condition:
        raise ValueError(message)


def _time(t):
    return ops.convert_to_tensor(t, "float32")


@settings
class CosineSchedule:
    """Eq. (1). `logsnr(t)` falls from logsnr_max at t = 0 to logsnr_min at t = 1.

    Raises ValueError unless logsnr_min < logsnr_max, both finite.
    """

    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self):
        _require(
            -math.inf < self.logsnr_min < self.logsnr_max < math.inf,
            f"logsnr_min must be below logsnr_max, both finite, got {self.logsnr_min} and {self.logsnr_max}.",
        )

    def _angles(self) -> tuple[float, float]:
        start = math.atan(math.exp(-0.5 * self.logsnr_max))
        return math.atan(math.exp(-0.5 * self.logsnr_min)) - start, start

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        a, b = self._angles()
        return -2.0 * ops.log(ops.tan(a * _time(t) + b))

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`, negative everywhere."""
        a, b = self._angles()
        return -4.0 * a / ops.sin(2.0 * (a * _time(t) + b))


@settings
class ShiftedCosineSchedule:
    """Eq. (2): the cosine schedule at `noise_resolution`, moved to `image_resolution` (pixels along one side).

    noise_resolution < image_resolution adds noise at every t. SiD1 used noise_resolution 32 or 64.
    """

    noise_resolution: float
    image_resolution: float
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0

    def __post_init__(self):
        _require(
            self.noise_resolution > 0 and self.image_resolution > 0,
            "noise_resolution and image_resolution must be positive, "
            f"got {self.noise_resolution} and {self.image_resolution}.",
        )
        CosineSchedule(self.logsnr_min, self.logsnr_max)

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        shift = 2.0 * math.log(self.noise_resolution / self.image_resolution)
        return CosineSchedule(self.logsnr_min, self.logsnr_max).logsnr(t) + shift

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`; the shift does not enter it."""
        return CosineSchedule(self.logsnr_min, self.logsnr_max).dlogsnr_dt(t)


@settings
class CosineInterpolatedSchedule:
    """Eq. (3), SiD2's schedule: noise resolution `high` at the clean end, `low` at the noisy end.

    Args:
        image_resolution: pixels along one side of the images.
        low: noise resolution at t = 1; 32 in the paper.
        high: noise resolution at t = 0; None is image_resolution, as in the paper's
            "cosine_interpolated_low_32_high_512" at 512.
        logsnr_min, logsnr_max: the range of the cosine before the shift.
        literal_listing: take the paper's printed listing at its word (module docstring). Never for a real run.

    Raises ValueError unless 0 < low <= high and image_resolution > 0.
    """

    image_resolution: float
    low: float = 32.0
    high: float | None = None
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    literal_listing: bool = False

    def __post_init__(self):
        high = self.image_resolution if self.high is None else self.high
        _require(
            self.image_resolution > 0 and 0 < self.low <= high,
            "CosineInterpolatedSchedule needs 0 < low <= high and image_resolution > 0, "
            f"got low={self.low}, high={high}, image_resolution={self.image_resolution}.",
        )
        CosineSchedule(self.logsnr_min, self.logsnr_max)

    @classmethod
    def for_image_shape(cls, image_shape: tuple[int, int, int]) -> "CosineInterpolatedSchedule":
        """The paper's schedule for square images of at least 32 pixels; ValueError for others."""
        side, told = square_side(image_shape)
        if side is None or side < 32:
            raise ValueError(
                "The paper's schedule is for square images of at least 32 pixels, and these are "
                f"{told}: pass schedule=, for example CosineSchedule()."
            )
        return cls(side)

    def _shifts(self) -> tuple[float, float]:
        """(shift at t = 0, shift at t = 1)."""
        high = self.image_resolution if self.high is None else self.high
        factor = -1.0 if self.literal_listing else 2.0
        return tuple(factor * math.log(noise / self.image_resolution) for noise in (high, self.low))

    def logsnr(self, t):
        """logsnr of t, both float32 [B] (or a scalar)."""
        clean, noisy = self._shifts()
        t = _time(t)
        return CosineSchedule(self.logsnr_min, self.logsnr_max).logsnr(t) + (1.0 - t) * clean + t * noisy

    def dlogsnr_dt(self, t):
        """The derivative of `logsnr`."""
        clean, noisy = self._shifts()
        return CosineSchedule(self.logsnr_min, self.logsnr_max).dlogsnr_dt(t) + (noisy - clean)
