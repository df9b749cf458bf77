"""Where does moment matching come to rest, for data N(0, S) and a linear student?

    python benchmarks/distilling_rest.py                        # half a minute of one core, numpy alone

Of one dimension, x~ = G(t) z_t, all moments are closed forms, and so is the gradient of the student's loss with an
auxiliary network that is exact. G is moved along it until it rests; then the student draws in k steps. Printed is the
variance of what it draws, over S: 1 is right. x~ is a function of z_t, so that it cannot be E[x | z_t] near s = t and
have the variance S near s = 0; G is a compromise, which `bias`, levels and schedule decide.
"""

import itertools
import math

import numpy as np

LEVELS, STEPS, RATE = 80, 1500, 0.1


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def logsnr(t, shift: float, end: float = 12.0):
    low = math.atan(math.exp(-end / 2))
    return -2.0 * np.log(np.tan((math.atan(math.exp(end / 2)) - low) * t + low)) + 2.0 * math.log(shift)


def pairs(k: int, own_levels: bool) -> np.ndarray:
    """Shares [s, t] of the levels t that a level s is drawn with."""
    found, width = np.zeros((LEVELS, LEVELS)), LEVELS // k
    for i in range(LEVELS):
        for j in [(i // width + 1) * width - 1] if own_levels else range(i, i + width):
            found[i, min(j, LEVELS - 1)] += 1.0
    return found / found.sum(axis=1, keepdims=True)


def coefficients(logsnr_t, logsnr_s) -> tuple:
    """(a, b, v) of z_s = a z_t + b x~ + sqrt(v) noise, Eq. (5) of diffusion/gaussian.py."""
    c = np.maximum(-np.expm1(logsnr_t - logsnr_s), 0.0)
    alpha_s = np.sqrt(sigmoid(logsnr_s))
    return alpha_s * (1.0 - c) / np.sqrt(sigmoid(logsnr_t)), alpha_s * c, sigmoid(-logsnr_s) * c


def ratio(variance: float, k: int, bias: float, shift: float, own_levels: bool) -> float:
    """The variance of the drawn, over that of the data."""
    at_t = logsnr(np.arange(1, LEVELS + 1) / LEVELS, shift)
    at_s = logsnr((np.arange(LEVELS) + 0.5) / LEVELS, shift)[:, None]
    shares, weight = pairs(k, own_levels), math.exp(bias) * sigmoid(at_s - bias)
    a, b, v = coefficients(at_t, at_s)
    of_z = sigmoid(at_t) * variance + sigmoid(-at_t)
    of_data = np.sqrt(sigmoid(at_s)) * variance / (sigmoid(at_s) * variance + sigmoid(-at_s))
    gain = np.sqrt(sigmoid(at_t)) * variance / of_z  # the teacher's
    for _ in range(STEPS):
        total = a + b * gain
        of_student = (shares * gain * of_z * total).sum(1) / (shares * (total**2 * of_z + v)).sum(1)
        size = shares * weight * of_z * total
        gain = gain - RATE * (size * (of_student[:, None] - of_data)).sum(0) / np.maximum(size.sum(0), 1e-12)
    spread = 1.0
    for j in range(k, 1, -1):
        a, b, v = coefficients(logsnr(j / k, shift), logsnr((j - 1) / k, shift))
        spread = (a + b * gain[j * LEVELS // k - 1]) ** 2 * spread + v
    return gain[LEVELS // k - 1] ** 2 * spread / variance


def main():
    variances = (0.01, 0.0225, 0.0324, 0.16)
    print("schedule, levels, bias           k  " + "  ".join(f"S = {s:<6g}" for s in variances))
    ways = [(1.0, False, 0.0), (1.0, False, 4.0), (1.0, True, 4.0), (18.0, False, 5.0), (18.0, True, 5.0)]
    for (shift, own, bias), k in itertools.product(ways, (4, 8)):
        found = "  ".join(f"{ratio(s, k, bias, shift, own):<10.3f}" for s in variances)
        print(f"shift {shift:<4g} {'own' if own else 'all'} levels, bias {bias:<4g}  {k:2d}  {found}", flush=True)


if __name__ == "__main__":
    main()
