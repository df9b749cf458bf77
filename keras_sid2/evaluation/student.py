"""The quantile of Student's t that a 95 % interval needs, without scipy.

With d degrees of freedom, a an angle and t = d^1/2 tan(a) (Abramowitz and Stegun, 26.7.3 and 26.7.4):

    (1) P(|T| <= t) = 2 / pi (a + sin a (cos a + 2/3 cos^3 a + ... + (2 4 ... d-3) / (3 5 ... d-2) cos^(d-2) a)), d odd
    (2) P(|T| <= t) = sin a (1 + 1/2 cos^2 a + ... + (1 3 ... d-3) / (2 4 ... d-2) cos^(d-2) a),                  d even
"""

import math

_HALVINGS = 60  # of the right angle: float64 has no more digits


def quantile(degrees: int, inside: float = 0.95) -> float:
    """t with P(|T| <= t) = `inside`, a share in (0, 1), of at least 1 degree of freedom; 2.262 of 9."""
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, degrees) < inside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _inside(angle: float, degrees: int) -> float:
    """Eq. (1) or (2)."""
    odd = degrees % 2
    power, total = (math.cos(angle) if odd else 1.0), 0.0
    for factor in range(2 + odd, degrees + 1, 2):
        total += power
        power *= (factor - 1) / factor * math.cos(angle) ** 2
    return 2.0 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
