"""Distances of two sets of features [N, D] and [M, D], in float64.

The Frechet distance of the sets taken as Gaussians, FID (Heusel et al. 1706.08500):

    (1) d^2 = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^1/2)
    (2) tr((C1 C2)^1/2) = sum of the singular values of L1^T L2,      with C1 = L1 L1^T, C2 = L2 L2^T

They are the roots of eigvalsh(C1^1/2 C2 C1^1/2), but there an eigenvalue's rounding of 1e-16 is 1e-8 in its root: with
2048 features that gave relative errors of d^2 of 3e-8 for sets of 500 images and of 1e-5 for nearly equal covariances
of condition number 1e12; Eq. (2) gives 2e-16 and 2e-13, in as much time.

The kernel distance, KID (Binkowski et al. 1801.01401), over random subsets, those that torch-fidelity draws:

    (3) k(x, y) = (x . y / D + 1)^3
    (4) MMD^2   = mean of k(x, x') + mean of k(y, y') - 2 mean of k(x, y),     x != x', y != y'

Eq. (4) is unbiased: sets of one distribution give 0 on average, whatever their sizes, so values below 0 occur.

Improved precision and recall (Kynkaanniemi et al. 1904.06991):

    (5) r(x; X)        = distance of x to its third nearest neighbour among the others in X
    (6) covered(y; X)  = |y - x| <= r(x; X) for any x in X
    (7) precision      = share of samples that the reference covers,     are the images good?
        recall         = share of the reference that the samples cover,  are all kinds of images there?
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_sid2.evaluation.statistics import FeatureStatistics, check_widths, finite_rows

_NEIGHBOURS = 3
_BLOCK = 1000  # rows of a matrix of distances that are in memory at once
# Squared distances below this share of the squared norms are those of one image twice: features come in float32.
_SAME = 1e-12


def frechet_distance(first: np.ndarray | FeatureStatistics, second: np.ndarray | FeatureStatistics) -> float:
    """d^2, Eq. (1), between two sets, each features [N, D] or their statistics; rounding may take it below 0.

    Sets of one distribution have more than 0, by an amount that falls like 1 / N and grows with D, so only distances of
    sets of the same size compare.

    Raises ValueError for features that are not finite, of other shapes, of fewer than 2 images, or of different widths.
    """
    first, second = (
        found if isinstance(found, FeatureStatistics) else FeatureStatistics.of(finite_rows(found, fewest=2))
        for found in (first, second)
    )
    check_widths(len(first.mean), len(second.mean))
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    overlap = np.linalg.svd(first.root.T @ second.root, compute_uv=False).sum()
    return float(difference @ difference + traces - 2.0 * overlap)


class KernelDistance(NamedTuple):
    """Mean and standard deviation over the subsets; the latter is no error of the mean, as subsets overlap."""

    mean: float
    std: float


def kernel_distance(
    first: np.ndarray, second: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> KernelDistance:
    """Eq. (4) between `subsets` random subsets of `subset_size` images of features [N, D] and [M, D].

    Within a subset no image is drawn twice, so with subset_size = N = M every subset is the whole set.

    Raises ValueError for features that are not finite, of other shapes, or of different widths; for fewer images than
    subset_size in either; for subset_size below 2 or subsets below 1.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"There must be at least 1 subset, of at least 2 images, got {subsets} of {subset_size}.")
    first, second = (finite_rows(features, fewest=subset_size) for features in (first, second))
    check_widths(first.shape[1], second.shape[1])
    random = np.random.RandomState(seed)

    def subset(features):
        return features[random.choice(len(features), subset_size, replace=False)]

    # The stream is in this order: a subset of the first, one of the second, the next of the first.
    distances = [_squared_discrepancy(subset(first), subset(second)) for _ in range(subsets)]
    return KernelDistance(float(np.mean(distances)), float(np.std(distances)))


def _squared_discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. (4) of [N, D] and [M, D]."""

    def kernel(a, b):
        base = a @ b.T / a.shape[1] + 1.0
        return base * base * base

    def mean_of_different(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return mean_of_different(x) + mean_of_different(y) - 2.0 * kernel(x, y).mean()


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1], Eq. (7). Both grow with the numbers of images: only sets of the same sizes compare."""

    precision: float
    recall: float


def precision_recall(samples: np.ndarray, reference: np.ndarray) -> PrecisionRecall:
    """Of features [N, D] of samples and [M, D] of real images.

    Raises ValueError for features that are not finite, of other shapes, of different widths, or of fewer than 4 images,
    which have no third neighbour.
    """
    samples, reference = (finite_rows(features, fewest=_NEIGHBOURS + 1) for features in (samples, reference))
    check_widths(samples.shape[1], reference.shape[1])
    centre = reference.mean(axis=0)  # distances stay the same, and lose fewer digits
    samples, reference = samples - centre, reference - centre
    return PrecisionRecall(_covered_share(samples, reference), _covered_share(reference, samples))


def _covered_share(points: np.ndarray, balls: np.ndarray) -> float:
    """Mean of Eq. (6) over the rows of `points`, X being `balls`."""
    # A row's smallest distance is 0, to itself: the third neighbour's is the one after three others.
    radii = [np.partition(block, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS] for block in _squared_distances(balls, balls)]
    radii = np.concatenate(radii)
    covered = [(block <= radii).any(axis=1) for block in _squared_distances(points, balls)]
    return float(np.concatenate(covered).mean())


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """|x_i - y_j|^2 of [N, D] and [M, D], in blocks of rows [at most _BLOCK, M]."""
    y_norms = np.square(y).sum(axis=1)
    for start in range(0, len(x), _BLOCK):
        block = x[start : start + _BLOCK]
        norms = np.square(block).sum(axis=1)[:, None] + y_norms
        squares = norms - 2.0 * block @ y.T
        yield np.where(squares > _SAME * norms, squares, 0.0)
