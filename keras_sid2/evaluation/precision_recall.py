"""Improved precision and recall (Kynkaanniemi et al. 1904.06991).

    (1) r(x; X)        = distance of x to its third nearest neighbour among the others in X
    (2) covered(y; X)  = |y - x| <= r(x; X) for any x in X
    (3) precision      = share of samples that the reference covers,     are the images good?
        recall         = share of the reference that the samples cover,  are all kinds of images there?

Both grow with the numbers of images, so only sets of the same sizes compare. Distances are in float64 and a block of
rows at a time, so that memory is that of a block of rows by all images.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_sid2.evaluation.statistics import check_widths, finite_rows

_NEIGHBOURS = 3
_BLOCK = 1000
# Squared distances below this share of the squared norms are those of one image twice: features come in float32.
_SAME = 1e-12


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1], Eq. (3)."""

    precision: float
    recall: float


def precision_recall(samples: np.ndarray, reference: np.ndarray) -> PrecisionRecall:
    """Of features [N, D] of samples and [M, D] of real images.

    Raises:
        ValueError: features that are not finite, of other shapes, of different widths, or of fewer than 4 images, which
            have no third neighbour.
    """
    samples, reference = (finite_rows(features, fewest=_NEIGHBOURS + 1) for features in (samples, reference))
    check_widths(samples.shape[1], reference.shape[1])
    centre = reference.mean(axis=0)  # distances stay the same, and lose fewer digits
    samples, reference = samples - centre, reference - centre
    return PrecisionRecall(_covered_share(samples, reference), _covered_share(reference, samples))


def _covered_share(points: np.ndarray, balls: np.ndarray) -> float:
    """Mean of Eq. (2) over the rows of `points`, X being `balls`."""
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
