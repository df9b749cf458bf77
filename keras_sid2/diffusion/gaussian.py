"""Variance-preserving Gaussian diffusion, stated in logsnr_t = ln(alpha_t^2 / sigma_t^2).

    (1) alpha_t^2 = sigmoid(logsnr_t),  sigma_t^2 = sigmoid(-logsnr_t)
    (2) z_t = alpha_t x + sigma_t eps,  eps ~ N(0, I)
    (3) v   = alpha_t eps - sigma_t x
    (4) x   = (z_t - sigma_t eps) / alpha_t = alpha_t z_t - sigma_t v
    (5) q(z_s | z_t, x), s < t, with c = -expm1(logsnr_t - logsnr_s):
        mean     = alpha_s (z_t (1 - c) / alpha_t + c x)
        variance = sigma_s^2 c;  the upper bound, of z_s given z_t alone, is sigma_t^2 c

Sources: Kingma, Salimans, Poole, Ho 2107.00630 for (1), (2), (5); Salimans, Ho 2202.00512 for (3), (4).
Images are [B, H, W, C] float32, logsnr is [B] float32; every function is pure.
"""

from keras import ops

PREDICTIONS = ("x", "eps", "v")


def alpha_sigma(logsnr):
    """Eq. (1): (alpha, sigma), each of logsnr's shape."""
    return ops.sqrt(ops.sigmoid(logsnr)), ops.sqrt(ops.sigmoid(-logsnr))


def expand(values, like):
    """[B] -> [B, 1, ..., 1] with the rank of `like`; a scalar is left as it is."""
    values = ops.convert_to_tensor(values, "float32")
    return ops.expand_dims(values, tuple(range(1, len(like.shape)))) if len(values.shape) else values


def _coefficients(logsnr, like, at=None):
    return [expand(part, like) for part in (alpha_sigma(logsnr) if at is None else at)]


def diffuse(*, x, eps, logsnr=None, at=None):
    """Eq. (2): z_t; `at` is alpha_sigma(logsnr), where a caller has it."""
    alpha, sigma = _coefficients(logsnr, x, at)
    return alpha * x + sigma * eps


def velocity(*, x, eps, logsnr=None, at=None):
    """Eq. (3): v, what the network of SiD2 predicts; `at` as in `diffuse`."""
    alpha, sigma = _coefficients(logsnr, x, at)
    return alpha * eps - sigma * x


def to_x(prediction, kind: str, *, z_t, logsnr):
    """Eq. (4): x_hat from a prediction of `kind` "x", "eps" or "v"."""
    alpha, sigma = _coefficients(logsnr, z_t)
    if kind == "v":
        return alpha * z_t - sigma * prediction
    if kind == "eps":
        return (z_t - sigma * prediction) / alpha
    return _checked(kind, prediction)


def from_x(x_hat, kind: str, *, z_t, logsnr):
    """Eq. (4) solved for eps or v: the prediction of `kind` that means x_hat."""
    alpha, sigma = _coefficients(logsnr, z_t)
    if kind == "v":
        return (alpha * z_t - x_hat) / sigma
    if kind == "eps":
        return (z_t - alpha * x_hat) / sigma
    return _checked(kind, x_hat)


def convert(prediction, source: str, target: str, *, z_t, logsnr):
    """A prediction of kind `source` as one of kind `target`; every conversion goes through x."""
    x_hat = to_x(prediction, source, z_t=z_t, logsnr=logsnr)
    return from_x(x_hat, target, z_t=z_t, logsnr=logsnr)


def posterior(*, z_t, x_hat, logsnr_t, logsnr_s):
    """Eq. (5): (mean of z_t's shape, lower variance, upper variance), the variances shaped to broadcast with it."""
    alpha_t, sigma_t = _coefficients(logsnr_t, z_t)
    alpha_s, sigma_s = _coefficients(logsnr_s, z_t)
    c = -ops.expm1(expand(logsnr_t, z_t) - expand(logsnr_s, z_t))
    mean = alpha_s * (z_t * (1.0 - c) / alpha_t + c * x_hat)
    return mean, ops.square(sigma_s) * c, ops.square(sigma_t) * c


def _checked(kind, value):
    if kind not in PREDICTIONS:
        raise ValueError(f"A prediction is one of {PREDICTIONS}, got {kind!r}.")
    return value
