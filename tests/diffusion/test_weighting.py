import re

import numpy as np
import pytest
from helpers import gaussian_x_hat, images, run, sigmoid, to_numpy
from keras import ops
from scipy import optimize, stats

from keras_sid2 import threefry
from keras_sid2.diffusion import (
    ConstantEpsWeighting,
    ConstantVWeighting,
    ConstantXWeighting,
    CosineInterpolatedSchedule,
    CosineSchedule,
    EDMMonotonicWeighting,
    EDMWeighting,
    ShiftedCosineSchedule,
    SigmoidWeighting,
    convert,
    diffuse,
    loss_weight,
    to_x,
    velocity,
)

LOGSNR = np.linspace(-10.0, 10.0, 41)


def edm_on_eps(logsnr):
    """EDM's weighting on eps as 2303.00848 prints it, up to a factor."""
    return stats.norm.pdf(logsnr, 2.4, 2.4) * (np.exp(-logsnr) + 0.25)


EDM_PEAK = optimize.minimize_scalar(lambda at: -np.log(edm_on_eps(at)), bounds=(-20, 10), method="bounded").x


def edm_monotonic_on_eps(logsnr):
    return edm_on_eps(np.maximum(logsnr, EDM_PEAK)) / edm_on_eps(EDM_PEAK)


# The weight of the squared error in eps; 1 on v is 1 / alpha^2 on eps, 1 on x is sigma^2 / alpha^2 on eps.
ON_EPS = {
    "sigmoid": (SigmoidWeighting(-3.0), lambda logsnr: sigmoid(-3.0 - logsnr)),
    "constant x": (ConstantXWeighting(), lambda logsnr: np.exp(-logsnr)),
    "constant eps": (ConstantEpsWeighting(), np.ones_like),
    "constant v": (ConstantVWeighting(), lambda logsnr: 1.0 / sigmoid(logsnr)),
    "EDM": (EDMWeighting(), lambda logsnr: edm_on_eps(logsnr) / edm_on_eps(EDM_PEAK)),
    "EDM-monotonic": (EDMMonotonicWeighting(), edm_monotonic_on_eps),
}
every_weighting = pytest.mark.parametrize("weighting, on_eps", ON_EPS.values(), ids=ON_EPS)


def weight_of(weighting, logsnr):
    return to_numpy(weighting(ops.convert_to_tensor(logsnr, "float32"))).astype("float64")


def test_weights_on_x_at_logsnr_ln_3():
    """By hand: alpha^2 = 3/4, sigma^2 = 1/4; sigmoid(ln 3 - ln 3) = 1/2, exp(ln 3) = 3."""
    at = [np.log(3.0)]
    np.testing.assert_allclose(weight_of(SigmoidWeighting(np.log(3.0)), at), 1.5, rtol=1e-6)
    np.testing.assert_allclose(weight_of(ConstantXWeighting(), at), 1.0, rtol=1e-6)
    np.testing.assert_allclose(weight_of(ConstantEpsWeighting(), at), 3.0, rtol=1e-6)
    np.testing.assert_allclose(weight_of(ConstantVWeighting(), at), 4.0, rtol=1e-6)


@every_weighting
def test_weight_on_x_is_the_documented_one_on_eps(weighting, on_eps):
    np.testing.assert_allclose(weight_of(weighting, LOGSNR), np.exp(LOGSNR) * on_eps(LOGSNR), rtol=1e-5)


@every_weighting
def test_loss_in_x_eps_and_v_form_is_one_number(weighting, on_eps):
    logsnr = LOGSNR.astype("float32")
    x, eps, v_hat = (images(len(LOGSNR), 8, 8, 3, seed=seed) for seed in range(3))
    z_t = diffuse(x=x, eps=eps, logsnr=logsnr)

    def mse(target, kind):
        prediction = convert(v_hat, "v", kind, z_t=z_t, logsnr=logsnr)
        return ((to_numpy(prediction).astype("float64") - to_numpy(target)) ** 2).mean(axis=(1, 2, 3))

    loss = weight_of(weighting, LOGSNR) * mse(x, "x")
    np.testing.assert_allclose(on_eps(LOGSNR) * mse(eps, "eps"), loss, rtol=1e-5)
    on_v = sigmoid(LOGSNR) * on_eps(LOGSNR)  # mse_eps = alpha^2 mse_v
    np.testing.assert_allclose(on_v * mse(velocity(x=x, eps=eps, logsnr=logsnr), "v"), loss, rtol=1e-5)


# Three schedules from logsnr 10 to -10; a shift of -2 = 2 ln(r / 64) and of -ln 4 at the noisy end.
SAME_ENDS = {
    "cosine": CosineSchedule(),
    "shifted": ShiftedCosineSchedule(64 * np.exp(-1.0), 64, logsnr_min=-8.0, logsnr_max=12.0),
    "interpolated": CosineInterpolatedSchedule(64, low=32, logsnr_min=-10.0 + np.log(4.0)),
}
DATA_STD = 0.5


def without_derivative(t, *, schedule, weighting):
    return weighting(schedule.logsnr(t))


def mse_of_exact_denoiser(logsnr):
    """var(x | z_t) for x ~ N(0, DATA_STD^2)."""
    return DATA_STD**2 / (1 + DATA_STD**2 * np.exp(np.asarray(logsnr, "float64")))


def integral(on_x):
    """The expected loss of any schedule with these ends: half the integral of w mse over logsnr."""
    logsnr = np.linspace(-10.0, 10.0, 20_001)
    return 0.5 * np.trapezoid(on_x(logsnr) * mse_of_exact_denoiser(logsnr), logsnr)


def expected_losses(weight, weighting):
    """E_t[weight mse] under the three schedules, by the midpoint rule over t."""
    t = (np.arange(20_000, dtype="float32") + 0.5) / 20_000
    for schedule in SAME_ENDS.values():
        weights = to_numpy(weight(t, schedule=schedule, weighting=weighting)).astype("float64")
        yield (weights * mse_of_exact_denoiser(to_numpy(schedule.logsnr(t)))).mean()


@every_weighting
def test_expected_loss_does_not_depend_on_the_schedule(weighting, on_eps):
    expected = integral(lambda logsnr: np.exp(logsnr) * on_eps(logsnr))
    np.testing.assert_allclose(list(expected_losses(loss_weight, weighting)), expected, rtol=1e-3)


@every_weighting
def test_without_the_derivative_the_expected_loss_would_depend_on_it(weighting, on_eps):
    losses = list(expected_losses(without_derivative, weighting))
    assert max(losses) > 1.05 * min(losses)


@pytest.mark.parametrize("schedule", SAME_ENDS.values(), ids=SAME_ENDS)
def test_drawn_loss_is_the_expected_one_within_its_monte_carlo_error(schedule):
    """The equations as training strings them together: t, eps, z_t, an x_hat, the weighted error."""
    weighting, n = SigmoidWeighting(-1.0), 8000

    def losses(key):
        t = threefry.uniform(threefry.fold_in(key, 0), (n,))
        x, eps = (threefry.normal(threefry.fold_in(key, i), (n, 2, 2, 1)) for i in (1, 2))
        x, logsnr = DATA_STD * x, schedule.logsnr(t)
        z_t = diffuse(x=x, eps=eps, logsnr=logsnr)
        x_hat = gaussian_x_hat(z_t, logsnr, 0.0, DATA_STD)
        error = ops.mean(ops.square(x - x_hat), axis=(1, 2, 3))
        return loss_weight(t, schedule=schedule, weighting=weighting) * error

    drawn = run(losses, threefry.key(0)).astype("float64")
    expected = integral(lambda logsnr: np.exp(-1.0) * sigmoid(logsnr + 1.0))
    standard_error = drawn.std() / np.sqrt(n)
    assert standard_error < 0.03 * expected
    assert abs(drawn.mean() - expected) < 4 * standard_error


def test_edm_monotonic_is_flat_below_its_peak_and_edm_s_above():
    below, above = np.linspace(-15.0, EDM_PEAK - 0.01, 50), np.linspace(EDM_PEAK + 0.01, 10.0, 50)
    on_eps = weight_of(EDMMonotonicWeighting(), below) * np.exp(-below)
    np.testing.assert_allclose(on_eps, 1.0, rtol=1e-5)
    on_eps = weight_of(EDMMonotonicWeighting(), above) * np.exp(-above)
    np.testing.assert_allclose(on_eps, edm_on_eps(above) / edm_on_eps(EDM_PEAK), rtol=1e-5)
    assert (np.diff(on_eps) < 0).all()


def test_edm_monotonic_is_continuous_at_its_peak():
    near = EDM_PEAK + np.array([-1e-3, 1e-3])
    on_eps = weight_of(EDMMonotonicWeighting(), near) * np.exp(-near)
    np.testing.assert_allclose(*on_eps, rtol=1e-5)


@pytest.mark.parametrize("bias", [None, "a", "1", True, float("nan"), float("inf")])
def test_bias_that_is_no_number_is_refused(bias):
    with pytest.raises(ValueError, match="needs a finite number as bias, got"):
        SigmoidWeighting(bias)


@pytest.mark.parametrize("pixels, bias", [(128, 0.0), (256, -1.0), (512, -3.0), (1024, -4.0)])
def test_the_paper_s_bias(pixels, bias):
    assert SigmoidWeighting.for_image_shape((pixels, pixels, 3)) == SigmoidWeighting(bias)


@pytest.mark.parametrize("shape", [(2, 16, 256, 256, 3), (256, 256), (256.0, 256, 3), None])
def test_what_is_no_shape_of_images_has_no_bias(shape):
    with pytest.raises(ValueError, match=re.escape(f"these are of shape {shape!r}: pass weighting=")):
        SigmoidWeighting.for_image_shape(shape)


@pytest.mark.parametrize("shape", [(64, 64, 3), (256, 128, 3)])
def test_the_paper_has_no_bias_for_other_sizes(shape):
    with pytest.raises(ValueError, match=f"are {shape[0]} x {shape[1]}: pass weighting=SigmoidWeighting"):
        SigmoidWeighting.for_image_shape(shape)


def test_x_hat_of_a_perfect_v_has_no_loss():
    x, eps, logsnr = images(3, 2, 2, 1, seed=1), images(3, 2, 2, 1, seed=2), np.float32([-5.0, 0.0, 5.0])
    v, z_t = velocity(x=x, eps=eps, logsnr=logsnr), diffuse(x=x, eps=eps, logsnr=logsnr)
    np.testing.assert_allclose(to_numpy(to_x(v, "v", z_t=z_t, logsnr=logsnr)), x, atol=1e-6)
