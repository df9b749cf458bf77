"""Loss weightings, all stated in x-space: w(logsnr) multiplies mean((x - x_hat)^2).

    (1) L = E_{t ~ U(0, 1), eps} [ -1/2 dlogsnr/dt w(logsnr) mean((x - x_hat)^2) ]
    (2) mse_x = sigma^2 mse_v = exp(-logsnr) mse_eps

    sigmoid         w = exp(b) sigmoid(logsnr - b)       on eps: sigmoid(b - logsnr)        SiD2 Eq. (4)
    constant on x   w = 1
    constant on eps w = exp(logsnr)                      the evidence lower bound
    constant on v   w = 1 / sigma^2 = 1 + exp(logsnr)
    EDM             on eps: N(logsnr; 2.4, 2.4^2) (exp(-logsnr) + 0.25), divided by its maximum  2206.00364
    EDM-monotonic   the same, held at its maximum below the argument of the maximum         2303.00848, sec. 5

The factor -1/2 dlogsnr/dt belongs to the schedule (`loss_weight`), so that the expected loss does not depend on which
schedule draws t, except through its two ends.
"""

import math

from keras import ops

from keras_sid2.config import settings
from keras_sid2.shapes import is_number, square_side

PAPER_BIAS = {128: 0.0, 256: -1.0, 512: -3.0, 1024: -4.0}  # grade p; "about" -4 at 1024


@settings
class SigmoidWeighting:
    """SiD2's weighting: exp(bias) sigmoid(logsnr - bias). The paper: bias 0 at 128, -1 at 256, -3 at 512 pixels."""

    bias: float

    def __post_init__(self):
        if not is_number(self.bias) or not math.isfinite(self.bias):
            raise ValueError(f"SigmoidWeighting needs a finite number as bias, got {self.bias!r}.")
        object.__setattr__(self, "bias", float(self.bias))

    @classmethod
    def for_image_shape(cls, image_shape: tuple[int, int, int]) -> "SigmoidWeighting":
        """The paper's weighting for square images of 128, 256, 512 or 1024 pixels; ValueError for others."""
        side, told = square_side(image_shape)
        if side not in PAPER_BIAS:
            known = ", ".join(map(str, PAPER_BIAS))
            found = f"and these are {told}: pass weighting=SigmoidWeighting(bias=...)"
            raise ValueError(f"The paper gives a bias for square images of {known} pixels only, {found}.")
        return cls(PAPER_BIAS[side])

    def __call__(self, logsnr):
        return math.exp(self.bias) * ops.sigmoid(logsnr - self.bias)


@settings
class ConstantXWeighting:
    """1: the squared error in x."""

    def __call__(self, logsnr):
        return ops.ones_like(logsnr)


@settings
class ConstantEpsWeighting:
    """exp(logsnr): the squared error in eps, DDPM's "simple" loss when t follows its schedule."""

    def __call__(self, logsnr):
        return ops.exp(logsnr)


@settings
class ConstantVWeighting:
    """1 + exp(logsnr): the squared error in v."""

    def __call__(self, logsnr):
        return 1.0 + ops.exp(logsnr)


# EDM, 2206.00364: ln sigma ~ N(-1.2, 1.2^2), that is logsnr ~ N(2.4, 2.4^2); sigma_data^2 = 0.25.
_EDM_MEAN, _EDM_STDDEV, _EDM_DATA_VARIANCE = 2.4, 2.4, 0.25
_EDM_PEAK = -3.3077775163808893  # where its weighting on eps is largest; the tests look for it anew


def _edm_log(logsnr, log, exp):
    return -0.5 * ((logsnr - _EDM_MEAN) / _EDM_STDDEV) ** 2 + log(exp(-logsnr) + _EDM_DATA_VARIANCE)


def _edm(logsnr, at):
    on_eps = ops.exp(_edm_log(at, ops.log, ops.exp) - _edm_log(_EDM_PEAK, math.log, math.exp))
    return ops.exp(logsnr) * on_eps


@settings
class EDMWeighting:
    """EDM's weighting and its noise levels together (Karras et al. 2206.00364); 1 on eps at its largest."""

    def __call__(self, logsnr):
        return _edm(logsnr, logsnr)


@settings
class EDMMonotonicWeighting:
    """EDM's weighting made monotonic in logsnr (Kingma, Gao 2303.00848); 1 on eps at the noisy end."""

    def __call__(self, logsnr):
        return _edm(logsnr, ops.maximum(logsnr, _EDM_PEAK))


def loss_weight(t, *, schedule, weighting, logsnr=None):
    """-1/2 dlogsnr/dt w(logsnr(t)), float32 [B]: what Eq. (1) multiplies the squared error in x with. `logsnr` is
    schedule.logsnr(t), where a caller has it."""
    return -0.5 * schedule.dlogsnr_dt(t) * weighting(schedule.logsnr(t) if logsnr is None else logsnr)
