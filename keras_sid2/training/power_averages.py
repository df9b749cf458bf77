"""Power-function averages (EDM2: Karras et al. 2312.02696, section 3 and appendix C): after t steps, with the weights
theta_i behind step i,

    (1) average = sum_i p(i) theta_i,  p(i) = (i^(g + 1) - (i - 1)^(g + 1)) / t^(g + 1)
              = integral of (g + 1) tau^g / t^(g + 1) theta(tau),  theta(tau) = theta_i for i - 1 < tau <= i
    (2) average <- average + (1 - (1 - 1 / t)^(g + 1)) (theta_t - average)

so an average spans the same share of the training however long it is. Its width is the standard deviation of (1)'s
profile by t; g is the largest root of

    (3) width^2 = (g + 1) / ((g + 2)^2 (g + 3)),  g^3 + 7 g^2 + (16 - 1 / width^2) g + 12 - 1 / width^2 = 0

Averages of two widths, stored at several steps, are linear in the same theta_i, so that of another width is nearly a
combination of them: its profile is fitted by least squares, with inner products in closed form (the paper's appendix
C), under the constraint, which is ours, that the coefficients add up to 1: what does not move is kept exactly.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_sid2.shapes import is_number

WIDEST = 0.28  # g is near 0 there: all steps count alike
_RIDGE = 1e-9  # of the squared norm of the profile: keeps coefficients small where snapshots say nearly the same
REACH = 0.05  # of the norm of a profile may be missed. A random walk of weights is then met to about 1e-3 of its size


def as_widths(widths: Sequence) -> tuple[float, ...]:
    """Widths of averages, each once, narrow first; ValueError for others than numbers in (0, WIDEST]."""
    found = (widths,) if is_number(widths) else tuple(widths)
    if not all(is_number(width) and 0.0 < width <= WIDEST for width in found) or len({*found}) < len(found):
        got = ", ".join(map(str, found))
        raise ValueError(f"ema_widths must be different numbers in (0, {WIDEST}], such as 0.05 and 0.1, got {got}.")
    return tuple(sorted(map(float, found)))


def exponent(width: float) -> float:
    """g of Eq. (3)."""
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(max(root.real for root in roots if abs(root.imag) < 1e-9))


def newest_share(step, width: float):
    """What the weights of now count in Eq. (2), float32, for the step behind `step` others. 1 minus that, as a float32,
    would be wrong by a percent after a few million steps."""
    gone = ops.log1p(-1.0 / (ops.cast(step, "float32") + 1.0))
    return -ops.expm1((exponent(width) + 1.0) * gone)


def products(steps, exponents, others, their_exponents) -> np.ndarray:
    """float64 [n, m]: integrals of the products of n profiles with m others."""
    t, g = (np.asarray(values, "float64")[:, None] for values in (steps, exponents))
    u, h = (np.asarray(values, "float64")[None] for values in (others, their_exponents))
    both = np.minimum(t, u)
    return (g + 1) * (h + 1) / (g + h + 1) / both * (both / t) ** (g + 1) * (both / u) ** (h + 1)


class Fit(NamedTuple):
    """coefficients: float64 [steps, widths]; missed: the share of the profile's norm that they leave out."""

    coefficients: np.ndarray
    missed: float


def fitted(width: float, step: int, steps: Sequence[int], widths: Sequence[float]) -> Fit:
    """The average of `width` at `step` as a combination of those of `widths` at `steps`."""
    t, g = np.repeat(steps, len(widths)), np.tile([exponent(w) for w in widths], len(steps))
    wanted = [step], [exponent(width)]
    norm = products(*wanted, *wanted)[0, 0]
    gram, target = products(t, g, t, g) / norm, products(t, g, *wanted)[:, 0] / norm
    count = len(target)
    bordered = np.ones((count + 1, count + 1))
    bordered[:count, :count] = gram + _RIDGE * np.eye(count)
    bordered[count, count] = 0.0
    x = np.linalg.lstsq(bordered, np.append(target, 1.0), rcond=None)[0][:count]
    missed = math.sqrt(max(0.0, x @ gram @ x - 2.0 * x @ target + 1.0))
    return Fit(x.reshape(len(steps), len(widths)), missed)


def reach(step: int, steps: Sequence[int], widths: Sequence[float]) -> tuple[float, float]:
    """The narrowest and the widest average at `step` that are within REACH, to a twentieth."""
    ladder = [w for w in np.geomspace(0.004, WIDEST, 88) if fitted(w, step, steps, widths).missed <= REACH]
    return min([*ladder, *widths]), max([*ladder, *widths])
