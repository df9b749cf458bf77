"""Fields taken as one set: the power spectrum of each channel, and its values; and how far two sets are apart.

    (1) P(k) = mean of |F(ky, kx)|^2 / (H W)^2 over the ring |(ky, kx)| in [k - 1/2, k + 1/2),   k = 1, 2 ... S/2
    (2) log_spectral_distance = (mean over k of (10 log10 P(k) / P'(k))^2)^1/2                   in decibels
    (3) wasserstein = integral of |cdf(x) - cdf'(x)| dx                                          in the channel's unit

F is the discrete Fourier transform, ky and kx in cycles per S pixels, S the shorter side. Along axes that are not
periodic fields are first made to fade out at both ends, for a jump between these is power at all k: less their mean,
times w = sin^2(pi (i + 1/2) / n), and P is divided by the mean of w^2 (Hann's window).

(3) is scipy's, of at most so many values as are kept: a random choice, each pixel as likely.
"""

from collections.abc import Sequence

import numpy as np

_AXES = ("height", "width")
_SMALLEST = 1e-12  # of the power of all k: below is rounding of float32


def power_spectrum(fields: np.ndarray, periodic: Sequence[str] = _AXES) -> tuple[np.ndarray, np.ndarray]:
    """(k, float64 [K]; P, Eq. (1), float64 [..., K, C]) of fields [..., H, W, C]; ValueError for sides below 2 pixels
    and unknown axes."""
    fields = np.asarray(fields, "float64")
    height, width = fields.shape[-3:-1]
    side = min(height, width)
    if side < 2 or not set(periodic) <= set(_AXES):
        wanted = f"of at least 2 x 2 pixels, periodic along some of {', '.join(_AXES)}"
        raise ValueError(
            f"A spectrum is of fields {wanted}; got {height} x {width} and {', '.join(periodic) or 'none'}."
        )
    window = np.ones((height, width, 1))
    for axis, (name, size) in enumerate(zip(_AXES, (height, width), strict=True)):
        if name not in periodic:
            fades = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
            window = window * np.expand_dims(fades, (1 - axis, 2))
    if not {*_AXES} <= set(periodic):
        fields = (fields - fields.mean((-3, -2), keepdims=True)) * window
    power = np.abs(np.fft.fft2(fields, axes=(-3, -2))) ** 2 / ((height * width) ** 2 * np.square(window).mean())
    ky, kx = (side * np.fft.fftfreq(size) for size in (height, width))
    ring = np.floor(np.hypot(ky[:, None], kx) + 0.5).astype(int)
    rings = range(1, side // 2 + 1)
    return np.array(rings, "float64"), np.stack([power[..., ring == k, :].mean(-2) for k in rings], axis=-2)


class FieldStatistics:
    """What is kept of `add`ed fields: their mean spectrum, and at most `capacity` pixels with all their channels.

    `periodic` names the axes that are; `weights` [H, W] of pixels, of `pixel_weights`, count for values, not spectra.
    """

    def __init__(
        self,
        periodic: Sequence[str] = (),
        weights: np.ndarray | None = None,
        *,
        capacity: int = 200_000,
        seed: int = 0,
    ):
        self._periodic, self._weights, self._capacity = tuple(periodic), weights, capacity
        self._random, self._drawn = np.random.default_rng(seed), np.zeros(0)
        self._rows, self._power, self.wavenumbers, self.count = None, 0.0, None, 0

    def add(self, fields: np.ndarray):
        """float [N, H, W, C], all of one shape; ValueError where they are not, or not finite."""
        fields = np.asarray(fields, "float64")
        if fields.ndim != 4 or not np.isfinite(fields).all():
            raise ValueError(f"Fields must be finite, [N, H, W, C], got {list(fields.shape)} or values that are not.")
        self.wavenumbers, power = power_spectrum(fields, self._periodic)
        self._power, self.count = self._power + power.sum(0), self.count + len(fields)
        weights = np.ones(fields.shape[1:3]) if self._weights is None else self._weights
        weights = np.broadcast_to(weights[..., None], (*fields.shape[:3], 1))
        rows = np.concatenate([fields, weights], axis=-1).reshape(-1, fields.shape[-1] + 1)
        self._keep(rows)

    def _keep(self, rows: np.ndarray):
        """Those of the smallest random numbers, a number a row: so all are as likely, however they come in batches."""
        drawn = np.concatenate([self._drawn, self._random.random(len(rows))])
        rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        if len(rows) > self._capacity:
            kept = np.argpartition(drawn, self._capacity)[: self._capacity]
            drawn, rows = drawn[kept], rows[kept]
        self._drawn, self._rows = drawn, rows

    @property
    def spectrum(self) -> np.ndarray:
        """Eq. (1), mean over the fields, float64 [K, C]."""
        return self._power / self.count

    def distances(self, other: "FieldStatistics") -> dict[str, np.ndarray]:
        """(2) and (3) by name, float64 [C]."""
        from scipy import stats  # takes half a second

        here, there = (
            np.maximum(s, _SMALLEST * s.sum(0) + np.finfo("float64").tiny) for s in (self.spectrum, other.spectrum)
        )
        decibels = 10.0 * np.log10(here / there)
        (x, of_x), (y, of_y) = ((part._rows[:, :-1], part._rows[:, -1]) for part in (self, other))
        values = [stats.wasserstein_distance(a, b, of_x, of_y) for a, b in zip(x.T, y.T, strict=True)]
        return {"log_spectral_distance": np.sqrt(np.square(decibels).mean(0)), "wasserstein": np.array(values)}
