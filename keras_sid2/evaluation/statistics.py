"""Mean and covariance of features, gathered piece by piece.

Pieces g of n_g images with mean m_g and scatter S_g = sum (x - m_g)(x - m_g)^T make a whole with (Chan, Golub and
LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979, for any number of pieces):

    (1) n = sum n_g,    m = sum (n_g / n) m_g
    (2) S = sum S_g + sum n_g (m_g - m)(m_g - m)^T
    (3) C = S / (n - 1)                             unbiased
    (4) C = L L^T,      L = V E^1/2                 of its eigenvectors V and eigenvalues E

All in float64. No large numbers are subtracted from one another, as they are in the mean of x x^T less m m^T.
"""

import dataclasses
import functools

import numpy as np


def finite_rows(values: np.ndarray, fewest: int = 0, *, what: str = "Features") -> np.ndarray:
    """`values` as float64 [N, D]; ValueError unless they are finite, D at least 1 and N at least `fewest`."""
    values = np.asarray(values, "float64")
    finite = np.isfinite(values).all()
    if values.ndim != 2 or not values.shape[1] or len(values) < fewest or not finite:
        rows = f"at least {fewest}" if fewest else "N"
        remark = "" if finite else " with values that are not"
        raise ValueError(f"{what} must be finite, of shape [{rows}, D], got shape {list(values.shape)}{remark}.")
    return values


def check_widths(first: int, second: int):
    """ValueError unless both sets have as many features."""
    if first != second:
        raise ValueError(f"Both sets need as many features, got {first} and {second}.")


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What the Frechet distance needs of a set of features; ValueError for other shapes, or a negative count.

    The number of images; their mean, float64 [D], zeros of no images; their scatter S, float64 [D, D].
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    def __post_init__(self):
        if self.count < 0 or self.mean.ndim != 1 or self.scatter.shape != 2 * self.mean.shape:
            found = f"count {self.count}, mean {list(self.mean.shape)} and scatter {list(self.scatter.shape)}"
            raise ValueError(f"Statistics need a count of at least 0, a mean [D] and a scatter [D, D], got {found}.")

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureStatistics":
        """Of finite features [N, D], N at least 0; ValueError for anything else."""
        features = finite_rows(features)
        mean = features.sum(0) / max(len(features), 1)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merged(self, *others: "FeatureStatistics") -> "FeatureStatistics":
        """Of all images together, Eqs. (1) and (2); ValueError if the numbers of features differ."""
        pieces = (self, *others)
        for other in others:
            check_widths(len(self.mean), len(other.mean))
        counts, means = np.array([p.count for p in pieces]), np.stack([p.mean for p in pieces])
        mean = (counts / max(counts.sum(), 1)) @ means
        deviations = np.sqrt(counts)[:, None] * (means - mean)
        scatter = deviations.T @ deviations
        for piece in pieces:
            scatter += piece.scatter
        return FeatureStatistics(int(counts.sum()), mean, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """Eq. (3), float64 [D, D]; ValueError for fewer than 2 images."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 images, got {self.count}.")
        return self.scatter / (self.count - 1)

    @functools.cached_property
    def root(self) -> np.ndarray:
        """L of Eq. (4), float64 [D, rank]; ValueError for fewer than 2 images. It is worked out once.

        Directions of less variance than D 2e-16 of the largest count as none: with 2048 features, 2e-9 of the trace.
        """
        values, vectors = np.linalg.eigh(self.covariance)
        # Smaller ones are eigh's own rounding: their roots, 1e-8 of the largest, would add up.
        real = values > len(values) * np.finfo("float64").eps * values[-1]
        return vectors[:, real] * np.sqrt(values[real])
