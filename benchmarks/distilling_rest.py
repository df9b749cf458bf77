"""Where does moment matching come to rest, for data N(m, S) and a linear student?

    python benchmarks/distilling_rest.py                        # a minute of one core, numpy alone

Of one dimension, x~ = G(t) z_t + h(t), all moments are closed forms, and so is the gradient of the student's loss with
an auxiliary network that is exact. G and h are moved along it until they rest; then the student draws in k steps.
Printed is the variance of what it draws, over S: 1 is right. x~ is a function of z_t, so that it cannot be E[x | z_t]
near s = t and have the variance S near s = 0; G is a compromise, which `bias`, levels and schedule decide.

Then, of a teacher that is guided with scale 2 to N(2 m, S), the mean of what it draws, over 2 m. With z_t of data in
training, the student's mean is right for z_t that it does not meet when it draws; with z_t of its own chain it does.
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


def rest(variance, k, bias, shift, own_levels, *, mean=0.0, scale=1.0, own_chain=False) -> tuple[float, float]:
    """(variance, mean) of the drawn, over the right ones, of N(scale * mean, variance); of data N(mean, variance)."""
    at_t = logsnr(np.arange(1, LEVELS + 1) / LEVELS, shift)
    at_s = logsnr((np.arange(LEVELS) + 0.5) / LEVELS, shift)[:, None]
    shares, weight = pairs(k, own_levels), math.exp(bias) * sigmoid(at_s - bias)
    a, b, v = coefficients(at_t, at_s)
    alpha_t, alpha_s, right = np.sqrt(sigmoid(at_t)), np.sqrt(sigmoid(at_s)), scale * mean
    middle, of_z = alpha_t * mean, sigmoid(at_t) * variance + sigmoid(-at_t)  # mean and variance of z_t
    of_teacher = alpha_s * variance / (sigmoid(at_s) * variance + sigmoid(-at_s))
    gain = alpha_t * variance / of_z  # x~ = x + gain (z_t - middle), at first the teacher's
    x = right + gain * (middle - alpha_t * right)
    for _ in range(STEPS):
        if own_chain:
            before, (middle, of_z) = middle, _chain(gain, x, middle, k, shift)
            x = x + gain * (middle - before)
        total = a + b * gain
        z = a * middle + b * x
        x_mean, z_mean = (shares * x).sum(1, keepdims=True), (shares * z).sum(1, keepdims=True)
        joint = (shares * (gain * of_z * total + (x - x_mean) * (z - z_mean))).sum(1, keepdims=True)
        of_student = joint / (shares * (total**2 * of_z + v + (z - z_mean) ** 2)).sum(1, keepdims=True)
        apart = x_mean + of_student * (z - z_mean) - right - of_teacher * (z - alpha_s * right)  # auxiliary - teacher
        size = shares * weight * of_z * total
        gain = gain - RATE * (size * (of_student - of_teacher)).sum(0) / np.maximum(size.sum(0), 1e-12)
        x = x - RATE * (shares * weight * apart).sum(0) / np.maximum((shares * weight).sum(0), 1e-12)
    drawn, spread = _chain(gain, x, middle, k, shift, drawn=True)
    return spread / variance, drawn / right if right else 1.0


def _chain(gain, x, middle, k: int, shift: float, drawn: bool = False) -> tuple:
    """(mean, variance) of z_t at each of LEVELS, of which the student's own are filled in; or of what it draws."""
    means, variances, z, spread = np.zeros(LEVELS), np.ones(LEVELS), 0.0, 1.0
    for j in range(k, 0, -1):
        i = j * LEVELS // k - 1
        means[i], variances[i] = z, spread
        x_hat = x[i] + gain[i] * (z - middle[i])
        a, b, v = (0.0, 1.0, 0.0) if j == 1 else coefficients(logsnr(j / k, shift), logsnr((j - 1) / k, shift))
        z, spread = a * z + b * x_hat, (a + b * gain[i]) ** 2 * spread + v
    return (z, spread) if drawn else (means, variances)


def _told(values) -> str:
    return "  ".join(f"{value:<10.3f}" for value in values)


def main():
    variances = (0.01, 0.0225, 0.0324, 0.16)
    columns = "  ".join(f"S = {s:<6g}" for s in variances)
    print(f"variances\nschedule, levels, bias           k  {columns}")
    ways = [(1.0, False, 0.0), (1.0, False, 4.0), (1.0, True, 4.0), (18.0, False, 5.0), (18.0, True, 5.0)]
    for (shift, own, bias), k in itertools.product(ways, (4, 8)):
        found = _told(rest(s, k, bias, shift, own)[0] for s in variances)
        print(f"shift {shift:<4g} {'own' if own else 'all'} levels, bias {bias:<4g}  {k:2d}  {found}", flush=True)
    print(f"means, guided with scale 2\nschedule, levels, z_t            k  {columns}")
    ways = [(1.0, False, False, 0.0), (18.0, False, False, 5.0), (18.0, True, False, 5.0), (18.0, True, True, 5.0)]
    for (shift, own, own_chain, bias), k in itertools.product(ways, (1, 2, 4, 8)):
        guided = {"mean": 0.2, "scale": 2.0, "own_chain": own_chain}
        found = _told(rest(s, k, bias, shift, own, **guided)[1] for s in variances)
        way = f"{'own' if own else 'all'} levels, {'own' if own_chain else 'data'}"
        print(f"shift {shift:<4g} {way:<21}  {k:2d}  {found}", flush=True)


if __name__ == "__main__":
    main()
