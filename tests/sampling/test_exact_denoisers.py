"""Every sampler on data whose denoiser is known in closed form: where it ends, and how fast it gets there."""

import numpy as np
import pytest
from exact_data import GAUSSIAN, MIXTURE, MU, SHAPE, Mixture, S, final_x, final_z, moments_after
from helpers import alpha_sigma_of, keys, to_numpy
from keras import ops

from keras_sid2 import DDIMSampler, DDPMSampler, DPMSolver2MSampler, EDMHeunSampler, HeunSampler, threefry
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.sampling import SamplingLoop, guided, uniform_logsnr, uniform_t

SAMPLERS = {
    "ddpm": (DDPMSampler(), 512),
    "ddpm, upper variance": (DDPMSampler(1.0), 512),
    "ddim": (DDIMSampler(), 512),
    "ddim, eta 1/2": (DDIMSampler(0.5), 512),
    "heun": (HeunSampler(), 64),
    "edm's heun": (EDMHeunSampler(), 64),
    "2m": (DPMSolver2MSampler(), 96),
}
every_sampler = pytest.mark.parametrize("sampler, num_steps", SAMPLERS.values(), ids=SAMPLERS)
COUNT = 6000


def drawn(sampler, num_steps, denoise, count=COUNT, grid=uniform_t):
    """float64 [count, 4]."""
    logsnr = grid(CosineSchedule(), num_steps)
    loop = SamplingLoop(denoise=denoise, sampler=sampler, logsnr=logsnr, keys=to_numpy(keys(count)), image_shape=SHAPE)
    return final_z(loop)


def deviations(x, mixture: Mixture, sigma2: float = np.exp(-10.0)) -> np.ndarray:
    """How far weights, means and covariances of x are from the mixture's, in standard errors."""
    nearest, found = mixture.nearest(x), []
    for k, (weight, mean, covariance) in enumerate(
        zip(mixture.weights, mixture.means, mixture.covariances, strict=True)
    ):
        part, covariance = x[nearest == k], covariance + sigma2 * np.eye(4)
        variances = np.diag(covariance)
        found.append(np.sqrt(len(x)) * (len(part) / len(x) - weight) / np.sqrt(max(weight * (1 - weight), 1e-12)))
        found.extend(np.sqrt(len(part)) * (part.mean(0) - mean) / np.sqrt(variances))
        errors = np.cov(part, rowvar=False) - covariance
        found.extend((np.sqrt(len(part)) * errors / np.sqrt(np.outer(variances, variances) + covariance**2)).ravel())
    return np.abs(found)


@every_sampler
def test_a_mixture_of_gaussians_comes_out_with_its_weights_means_and_covariances(sampler, num_steps):
    assert deviations(drawn(sampler, num_steps, MIXTURE.denoise), MIXTURE).max() < 4.5


@every_sampler
def test_a_guided_mixture_is_the_tilted_one(sampler, num_steps):
    """Where class and component are independent and covariances are equal, p_class^w p^(1-w) is a mixture again.

    The first two pixels are a mixture in every class; the class moves the mean of the others.
    """
    covariance = np.zeros((4, 4))
    covariance[:2, :2], covariance[2:, 2:] = [[0.03, 0.01], [0.01, 0.02]], [[0.05, -0.02], [-0.02, 0.04]]

    def mixture(class_mean):
        means = np.array([[0.7, -0.3, *class_mean], [-0.6, 0.5, *class_mean]])
        return Mixture(np.array([0.6, 0.4]), means, np.array([covariance, covariance]))

    everything, of_class, scale = np.array([0.1, -0.1]), np.array([0.4, 0.2]), 1.8
    denoise = guided(mixture(of_class).denoise, mixture(everything).denoise, scale)
    tilted = mixture(everything + scale * (of_class - everything))
    assert deviations(drawn(sampler, num_steps, denoise), tilted).max() < 4.5


def errors(sampler, numbers, mixture, grid=uniform_logsnr, count=64) -> np.ndarray:
    """Distance, for each number of steps, from the probability-flow ODE solved by another rule in float64.

    The median: a few images start beside the border between two components, where any error is the whole way.
    """
    logsnr = grid(CosineSchedule(), 1)
    start = to_numpy(threefry.normal(keys(count), SHAPE)).reshape(-1, 4).astype("float64")
    expected = mixture.flow(start, *logsnr.astype("float64"))
    ends = [drawn(sampler, n, mixture.denoise, count=count, grid=grid) for n in numbers]
    return np.array([np.median(np.abs(end - expected).max(1)) for end in ends])


def order(sampler, mixture, numbers=(64, 128, 256), grid=uniform_logsnr) -> float:
    """The measured order of convergence: the slope of log error over log steps, reversed."""
    return -np.polyfit(np.log(numbers), np.log(errors(sampler, numbers, mixture, grid)), 1)[0]


def uneven_grid(schedule, num_steps, t_start=1.0):
    """Short and long steps in turn; on a smooth grid, any multistep sampler takes two steps in a row for equal."""
    steps = np.where(np.arange(num_steps) % 2, 1.5, 0.5)
    return (-10.0 + 20.0 * np.append(0.0, np.cumsum(steps)) / steps.sum()).astype("float32")


def test_2m_keeps_its_order_where_steps_differ():
    assert abs(order(DPMSolver2MSampler(), MIXTURE, grid=uneven_grid) - 2.0) < 0.2


ORDERS = {
    "ddim": (DDIMSampler(), 1),
    "heun": (HeunSampler(), 2),
    "edm's heun": (EDMHeunSampler(), 2),
    "2m": (DPMSolver2MSampler(), 2),
}


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("sampler, expected", ORDERS.values(), ids=ORDERS)
def test_the_order_of_convergence_on_the_flow(sampler, expected, data):
    assert abs(order(sampler, data) - expected) < 0.2


def errors_of_images(sampler, data, numbers=(64, 128, 256)) -> np.ndarray:
    """As `errors`, of the estimate that is returned, on the paper's grid."""
    count, schedule = 64, CosineSchedule()
    ends = uniform_t(schedule, 1).astype("float64")
    start = to_numpy(threefry.normal(keys(count), SHAPE)).reshape(-1, 4).astype("float64")
    expected = data.x_hat(data.flow(start, *ends), ends[1])
    errors = []
    for n in numbers:
        settings = dict(logsnr=uniform_t(schedule, n), keys=to_numpy(keys(count)), image_shape=SHAPE)
        loop = SamplingLoop(denoise=data.denoise, sampler=sampler, **settings)
        errors.append(np.median(np.abs(final_x(loop) - expected).max(1)))
    return np.array(errors)


def slope(errors, numbers=(64, 128, 256)) -> float:
    return -np.polyfit(np.log(numbers), np.log(errors), 1)[0]


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_the_image_that_heun_returns_is_of_second_order_on_the_paper_s_grid(data):
    """Or nearly: the grid's ends are steep, 1.7 and 1.75 here. From the estimate at the step's start: 1.4 and 1.5."""
    assert slope(errors_of_images(HeunSampler(), data)) > 1.6


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_edm_s_heun_is_of_second_order_on_the_paper_s_grid_and_better(data):
    edm = errors_of_images(EDMHeunSampler(), data)
    assert slope(edm) > 1.9
    assert 3.0 * edm[-1] < errors_of_images(HeunSampler(), data, (256,))[0]


@pytest.mark.parametrize("sampler, expected", ORDERS.values(), ids=ORDERS)
def test_known_pixels_leave_the_order_as_it_is(sampler, expected):
    numbers, count, mask = (64, 128, 256), 64, np.array([True, False, False, True])
    known = np.tile([0.4, 0.0, 0.0, -0.3], (count, 1))
    logsnr = uniform_logsnr(CosineSchedule(), 1).astype("float64")
    noise = to_numpy(threefry.normal(keys(count), SHAPE)).reshape(-1, 4).astype("float64")
    alpha, sigma = alpha_sigma_of(logsnr[0])
    start = np.where(mask, alpha * known + sigma * noise, noise)
    end = GAUSSIAN.flow(start, *logsnr, known=(known, mask))
    parts = [ops.convert_to_tensor(a.reshape(-1, *SHAPE)) for a in (known.astype("float32"), mask[None])]
    errors = []
    for n in numbers:
        settings = dict(logsnr=uniform_logsnr(CosineSchedule(), n), keys=to_numpy(keys(count)), image_shape=SHAPE)
        loop = SamplingLoop(denoise=GAUSSIAN.denoise, sampler=sampler, known=tuple(parts), **settings)
        errors.append(np.median(np.abs(final_z(loop) - end).max(1)))
    assert abs(-np.polyfit(np.log(numbers), np.log(errors), 1)[0] - expected) < 0.2


def test_more_evaluations_are_better_spent_by_the_second_order():
    ddim, heun, multistep = (
        errors(s, [n], MIXTURE)[0]
        for s, n in zip((DDIMSampler(), HeunSampler(), DPMSolver2MSampler()), (64, 32, 64), strict=True)
    )
    assert max(heun, multistep) < 0.5 * ddim


@pytest.mark.parametrize("num_steps", [16, 64, 256])
def test_the_two_bounds_of_ddpm_s_variance_enclose_the_data_s(num_steps):
    logsnr = uniform_t(CosineSchedule(), num_steps)
    (mean, low), (_, high) = (moments_after(DDPMSampler(variance), logsnr) for variance in (0.0, 1.0))
    assert low < S < high and abs(mean - MU) < 0.02


def test_ddim_with_eta_1_is_ddpm_with_the_lower_variance():
    logsnr = uniform_t(CosineSchedule(), 32)
    np.testing.assert_allclose(
        moments_after(DDIMSampler(1.0), logsnr), moments_after(DDPMSampler(0.0), logsnr), rtol=1e-5
    )
