"""Sampler steps on data whose denoiser is known: the moments that a run of them leads to."""

import numpy as np
import pytest
from exact_data import MU, S, moments_after, stepped
from helpers import alpha_sigma_of, images, to_numpy
from keras import ops

from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule
from keras_sid2.sampling import (
    SAMPLERS,
    DDIMSampler,
    DDPMSampler,
    DPMSolver2MSampler,
    EDMHeunSampler,
    HeunSampler,
    evaluations,
    get_sampler,
    uniform_t,
)

STEPS = 512
RUNS = {
    "ddpm, lower variance": DDPMSampler(0.0),
    "ddpm": DDPMSampler(0.2),
    "ddpm, upper variance": DDPMSampler(1.0),
    "ddim": DDIMSampler(),
    "ddim, eta 1/2": DDIMSampler(0.5),
}
every_sampler = pytest.mark.parametrize("sampler", RUNS.values(), ids=RUNS)
SCHEDULES = {"cosine": CosineSchedule(), "shifted": CosineInterpolatedSchedule(128)}


def is_right(sampler, logsnr):
    mean, deviation = moments_after(sampler, logsnr)
    return abs(mean / MU - 1) < 0.01 and abs(deviation / S - 1) < 0.01


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@every_sampler
def test_512_steps_of_an_exact_denoiser_return_the_data_s_moments(sampler, schedule):
    assert is_right(sampler, uniform_t(schedule, STEPS))


@every_sampler
def test_the_error_of_the_deviation_is_of_first_order_in_the_step(sampler):
    errors = [moments_after(sampler, uniform_t(CosineSchedule(), n))[1] / S - 1 for n in (STEPS, 2 * STEPS)]
    assert 1.7 < errors[0] / errors[1] < 2.3


@every_sampler
def test_a_denoiser_that_knows_the_image_leads_to_it(sampler):
    """With x_hat = x, one step from any z_t to logsnr 30 is x."""
    x, z_t, noise = (ops.convert_to_tensor(images(3, 2, 2, 1, seed=seed)) for seed in range(3))
    z_s = stepped(sampler, z_t=z_t, x_hat=x, logsnr_t=np.float32(-4.0), logsnr_s=np.float32(30.0), noise=noise)
    # The lower variance vanishes there; the upper one is that of an image not known at all, about 1.
    atol = 1e-5 if getattr(sampler, "variance", 0.0) == 0.0 else 5.0 * np.exp(-15.0 * (1 - sampler.variance))
    np.testing.assert_allclose(to_numpy(z_s), to_numpy(x), atol=atol)


def test_variance_is_interpolated_in_logarithms():
    z_t, noise = images(4, 1, 1, 1, seed=1), np.ones((4, 1, 1, 1), "float32")
    t, s = np.float32([-6.0, -1.0, 2.0, 5.0]), np.float32([-5.5, 0.0, 4.0, 5.1])
    added = []
    for sampler in (DDPMSampler(0.0), DDPMSampler(0.25), DDPMSampler(1.0)):
        step = dict(z_t=ops.convert_to_tensor(z_t), x_hat=ops.convert_to_tensor(z_t), logsnr_t=t, logsnr_s=s)
        noisy, still = (stepped(sampler, **step, noise=ops.convert_to_tensor(n)) for n in (noise, 0 * noise))
        added.append(np.log(to_numpy(noisy - still).ravel()))
    np.testing.assert_allclose(added[1], 0.75 * added[0] + 0.25 * added[2], atol=1e-4)
    sigma_t, sigma_s = alpha_sigma_of(t)[1], alpha_sigma_of(s)[1]
    np.testing.assert_allclose(added[2] - added[0], np.log(sigma_t / sigma_s), atol=1e-4)


def test_ddim_keeps_the_noise_it_sees():
    """eps_hat, the noise in z_t by x_hat, is also the noise in z_s by x_hat."""
    z_t, x_hat = (images(3, 2, 2, 1, seed=seed).astype("float64") for seed in (1, 2))
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_of(-1.0), alpha_sigma_of(0.5)
    step = dict(logsnr_t=np.float32(-1.0), logsnr_s=np.float32(0.5))
    z_s = stepped(DDIMSampler(), z_t=ops.cast(z_t, "float32"), x_hat=ops.cast(x_hat, "float32"), **step)
    np.testing.assert_allclose(
        (to_numpy(z_s) - alpha_s * x_hat) / sigma_s, (z_t - alpha_t * x_hat) / sigma_t, atol=1e-5
    )


def test_edm_s_heun_is_algorithm_1_of_its_paper():
    """In its own terms: x = z / alpha, sigma the noise over the signal; float64."""
    z_t = images(3, 2, 2, 1).astype("float64")
    (alpha_t, noise_t), (alpha_s, noise_s) = alpha_sigma_of(-1.0), alpha_sigma_of(0.5)

    def denoise(z, logsnr):
        return 0.1 + 0.3 * z + 0.01 * logsnr

    x, sigma, sigma_next = z_t / alpha_t, noise_t / alpha_t, noise_s / alpha_s
    slope = (x - denoise(z_t, -1.0)) / sigma
    x_next = x + (sigma_next - sigma) * slope
    slope_next = (x_next - denoise(alpha_s * x_next, 0.5)) / sigma_next
    expected = alpha_s * (x + (sigma_next - sigma) * 0.5 * (slope + slope_next))
    z, levels = ops.cast(z_t, "float32"), dict(logsnr_t=np.float32(-1.0), logsnr_s=np.float32(0.5))
    drawn = stepped(EDMHeunSampler(), z_t=z, x_hat=denoise, **levels)
    np.testing.assert_allclose(to_numpy(drawn), expected, atol=1e-5)


@pytest.mark.parametrize("deviation, lost", [(0.5, 0.011), (0.3, 0.018), (0.1, 0.050), (0.03, 0.168)])
def test_how_much_variance_ddpm_loses_is_what_its_docstring_says(deviation, lost):
    """On N(0, s^2), 512 steps, by the recursion of variances in float64: z_s = g z_t + noise, x = k z of the last."""
    logsnr = to_numpy(uniform_t(CosineSchedule(), STEPS)).astype("float64")
    variance = 1.0
    for t, s in zip(logsnr[:-2], logsnr[1:], strict=False):
        (alpha_t, sigma_t), (alpha_s, sigma_s), c = alpha_sigma_of(t), alpha_sigma_of(s), -np.expm1(t - s)
        k = alpha_t * deviation**2 / (alpha_t**2 * deviation**2 + sigma_t**2)
        gain = alpha_s * ((1.0 - c) / alpha_t + c * k)
        variance = gain**2 * variance + c * sigma_s ** (2 * 0.8) * sigma_t ** (2 * 0.2)
    alpha, sigma = alpha_sigma_of(logsnr[-2])
    k = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
    assert 1.0 - k**2 * variance / deviation**2 == pytest.approx(lost, abs=0.002)
    measured = moments_after(DDPMSampler(0.2), to_numpy(uniform_t(CosineSchedule(), STEPS)))[1]
    assert deviation != S or 1.0 - (measured / S) ** 2 == pytest.approx(lost, abs=0.002)


@pytest.mark.parametrize("variance", [-0.1, 1.1, float("nan"), "a", None])
def test_variance_outside_its_bounds_is_refused(variance):
    with pytest.raises(ValueError, match=r"DDPMSampler's variance must be in \[0, 1\], got"):
        DDPMSampler(variance)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan"), "a"])
def test_eta_outside_its_bounds_is_refused(eta):
    with pytest.raises(ValueError, match=r"DDIMSampler's eta must be in \[0, 1\], got"):
        DDIMSampler(eta)


def test_a_history_of_equal_estimates_is_no_history():
    """2M extrapolates nothing where x_hat does not change, and at its first step."""
    z_t, x_hat, other = (ops.convert_to_tensor(images(3, 2, 2, 1, seed=seed)) for seed in range(3))
    step = dict(z_t=z_t, x_hat=x_hat, logsnr_t=np.float32(-1.0), logsnr_s=np.float32(0.5))
    expected = to_numpy(stepped(DDIMSampler(), **step))
    for carry in ((x_hat, np.float32(2.0)), (other, np.float32(0.0))):
        np.testing.assert_allclose(to_numpy(stepped(DPMSolver2MSampler(), **step, carry=carry)), expected, atol=1e-6)


@pytest.mark.parametrize("sampler", [DPMSolver2MSampler()])
def test_2m_extrapolates_over_the_ratio_of_its_two_steps(sampler):
    """The straight line in logsnr through both estimates, read half a step ahead, in float64."""
    z_t, x_hat, x_before = (images(3, 2, 2, 1, seed=seed).astype("float64") for seed in range(3))
    before, t, s = -3.0, -1.0, 0.5
    x = x_hat + (x_hat - x_before) / (t - before) * 0.5 * (s - t)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_of(t), alpha_sigma_of(s)
    expected = alpha_s * x + sigma_s / sigma_t * (z_t - alpha_t * x)
    z, hat, hat_before = (ops.cast(part, "float32") for part in (z_t, x_hat, x_before))
    levels = dict(logsnr_t=np.float32(t), logsnr_s=np.float32(s))
    z_s = stepped(sampler, z_t=z, x_hat=hat, carry=(hat_before, np.float32(t - before)), **levels)
    np.testing.assert_allclose(to_numpy(z_s), expected, atol=1e-5)


def test_churn_raises_the_noise_as_algorithm_2_of_edm_does():
    """In its own terms, float64: x_hat = x + S_noise sqrt(s_hat^2 - s^2) eps, s_hat = (1 + gamma) s; then Heun's."""
    z_t, eps = (images(3, 2, 2, 1, seed=seed).astype("float64") for seed in (1, 2))
    (alpha_t, noise_t), (alpha_s, noise_s) = alpha_sigma_of(-1.0), alpha_sigma_of(0.5)
    sigma, sigma_next, gamma = noise_t / alpha_t, noise_s / alpha_s, 0.4

    def denoise(x, sigma):  # of x = z / alpha
        return 0.1 + 0.3 * x / (1.0 + sigma)

    raised = sigma * (1.0 + gamma)
    x = z_t / alpha_t + 1.01 * np.sqrt(raised**2 - sigma**2) * eps
    slope = (x - denoise(x, raised)) / raised
    x_next = x + (sigma_next - raised) * slope
    slope_next = (x_next - denoise(x_next, sigma_next)) / sigma_next
    expected = alpha_s * (x + (sigma_next - raised) * 0.5 * (slope + slope_next))

    def ours(z, logsnr):
        return denoise(z / ops.sqrt(ops.sigmoid(logsnr)), ops.exp(-0.5 * logsnr))

    z, noise = ops.cast(z_t, "float32"), ops.cast(eps, "float32")
    levels = dict(logsnr_t=ops.convert_to_tensor(-1.0), logsnr_s=ops.convert_to_tensor(0.5))
    for edges, wanted in (((0.05, 50.0), expected), ((2.0, 50.0), None)):
        sampler = EDMHeunSampler(churn=gamma, noise_range=edges, noise_scale=1.01)
        if wanted is None:  # sigma is 1.65: below the range nothing is added
            wanted = to_numpy(stepped(EDMHeunSampler(), z_t=z, x_hat=ours, **levels))
        np.testing.assert_allclose(
            to_numpy(stepped(sampler, z_t=z, x_hat=ours, noise=noise, **levels)), wanted, atol=1e-5
        )


@pytest.mark.parametrize("field", [dict(churn=-0.1), dict(noise_range=(2.0, 1.0)), dict(noise_scale=float("nan"))])
def test_churn_outside_its_range_is_refused(field):
    with pytest.raises(ValueError, match=f"EDMHeunSampler's {next(iter(field))} must be"):
        EDMHeunSampler(**field)


def test_a_sampler_of_version_01_steps_as_before():
    """A function (z_t, x_hat, logsnr_t, logsnr_s, noise), and one that needs a second estimate."""
    z_t, noise = (ops.convert_to_tensor(images(3, 2, 2, 1, seed=seed)) for seed in (1, 2))

    def second(*, z_t, x_hat, logsnr_t, logsnr_s, denoise):
        return x_hat + denoise(z_t, logsnr_s)

    second.needs = ("denoise",)
    old = {lambda **given: given["z_t"] + given["x_hat"] + given["noise"]: z_t + 2.0 * z_t + noise, second: 4.0 * z_t}
    for function, expected in old.items():
        with pytest.warns(DeprecationWarning, match="step()"):
            sampler = get_sampler(function)
        z_s = stepped(sampler, z_t=z_t, x_hat=lambda z, _: 2.0 * z, noise=noise, logsnr_t=0.0, logsnr_s=1.0)
        np.testing.assert_allclose(to_numpy(z_s), to_numpy(expected), atol=1e-6)


def test_samplers_go_by_name():
    expected = {
        "ddpm": DDPMSampler(),
        "ddim": DDIMSampler(),
        "heun": HeunSampler(),
        "dpmpp_2m": DPMSolver2MSampler(),
        "edm_heun": EDMHeunSampler(),
    }
    assert {name: get_sampler(name) for name in SAMPLERS} == expected
    assert [evaluations(sampler) for sampler in expected.values()] == [1, 1, 2, 1, 2]
    assert get_sampler(DDPMSampler(0.3)) == DDPMSampler(0.3)


@pytest.mark.parametrize("name", ["euler", None, 3])
def test_unknown_sampler_is_refused(name):
    with pytest.raises(ValueError, match="sampler must be one of ddpm, ddim, heun, dpmpp_2m, edm_heun or a sampler"):
        get_sampler(name)
