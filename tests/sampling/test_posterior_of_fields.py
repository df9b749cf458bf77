"""A linear Gaussian inverse problem: with the exact conditional denoiser every sampler reaches the posterior, and the
metrics of ensembles say so."""

import numpy as np
import pytest
from exact_data import final_x
from helpers import keys, to_numpy
from keras import ops
from test_exact_denoisers import SAMPLERS, every_sampler

from benchmarks.gaussian_fields import GaussianFields
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.evaluation import measure_fields
from keras_sid2.sampling import SamplingLoop, uniform_t

pytestmark = pytest.mark.backend_free  # on each backend the same samplers are in test_exact_denoisers.py
PROBLEM, TRUTHS, MEMBERS = GaussianFields(side=4), 24, 40
BOTH = ("height", "width")


def exact_denoiser(vectors, values, means):
    """GaussianFields' (6) on keras.ops, for examples whose posterior means are `means` [B, D]."""
    vectors, values, means = (ops.convert_to_tensor(part.astype("float32")) for part in (vectors, values, means))

    def denoise(z_t, logsnr_t):
        alpha2, sigma2 = (ops.reshape(ops.sigmoid(sign * logsnr_t), (-1, 1)) for sign in (1.0, -1.0))
        alpha = ops.sqrt(alpha2)
        y = ops.matmul(ops.reshape(z_t, means.shape) - alpha * means, vectors)
        gain = alpha * values / (alpha2 * values + sigma2)
        return ops.reshape(means + ops.matmul(gain * y, ops.transpose(vectors)), z_t.shape)

    return denoise


def ensembles(sampler, num_steps, y):
    """float64 [N, E, 4, 4, 2]."""
    means = np.repeat(PROBLEM.mean(y).reshape(len(y), -1), MEMBERS, axis=0)
    settings = dict(logsnr=uniform_t(CosineSchedule(), num_steps), keys=to_numpy(keys(len(means))))
    denoise = exact_denoiser(*PROBLEM.modes(), means)
    found = final_x(SamplingLoop(denoise=denoise, sampler=sampler, image_shape=y.shape[1:], **settings))
    return found.reshape(len(y), MEMBERS, *y.shape[1:])


def test_the_closed_form_is_that_of_matrices():
    """Conditioning of the joint Gaussian of (x, y), with covariances that are measured from what draws are made of."""
    side, size = PROBLEM.side, 2 * PROBLEM.side**2
    every = np.eye(size).reshape(-1, side, side, 2)
    prior, blur = (PROBLEM.through(gain, every).reshape(size, size) for gain in (PROBLEM.prior, PROBLEM.blur))
    gain = prior @ blur.T @ np.linalg.inv(blur @ prior @ blur.T + PROBLEM.tau**2 * np.eye(size))
    vectors, values = PROBLEM.modes()
    np.testing.assert_allclose(vectors * values @ vectors.T, prior - gain @ blur @ prior, atol=1e-12)
    x, y = PROBLEM.draw(20_000, np.random.default_rng(0))
    np.testing.assert_allclose(PROBLEM.mean(y[:3]).reshape(3, -1), y[:3].reshape(3, -1) @ gain.T, atol=1e-12)
    np.testing.assert_allclose(np.cov(x.reshape(len(x), -1), rowvar=False), prior, atol=0.06)
    assert abs(np.corrcoef(x[..., 0].ravel(), x[..., 1].ravel())[0, 1] - PROBLEM.rho) < 0.01
    assert abs((x - PROBLEM.mean(y)).std() / PROBLEM.deviation() - 1) < 0.01


@every_sampler
def test_every_sampler_reaches_the_posterior(sampler, num_steps):
    x, y = PROBLEM.draw(TRUTHS, np.random.default_rng(1))
    found, (vectors, values) = ensembles(sampler, num_steps, y), PROBLEM.modes()
    scores = (found - PROBLEM.mean(y)[:, None]).reshape(TRUTHS * MEMBERS, -1) @ vectors / np.sqrt(values)
    by_truth = scores.reshape(TRUTHS, MEMBERS, -1).mean(1) * MEMBERS**0.5
    assert np.abs(by_truth).max() < 4.8  # mean, each of 24 truths in 32 directions, in standard errors
    assert np.abs(np.square(scores).mean(0) - 1).max() < 4.5 * (2 / len(scores)) ** 0.5  # deviation
    correlations = scores.T @ scores / len(scores) - np.diag(np.square(scores).mean(0))
    assert np.abs(correlations).max() < 4.8 / len(scores) ** 0.5
    metrics = measure_fields([(found, x)], ["u", "v"], periodic=BOTH).metrics
    spread = [metrics["spread_u"], metrics["spread_v"]]
    np.testing.assert_allclose(spread, PROBLEM.deviation(), rtol=0.03)


def test_crps_spread_skill_and_spectrum_of_many_truths_are_those_of_the_closed_form():
    sampler, num_steps = SAMPLERS["2m"]
    x, y = PROBLEM.draw(20 * TRUTHS, np.random.default_rng(2))
    found = ensembles(sampler, num_steps, y)
    metrics = measure_fields([(found, x)], ["u", "v"], periodic=BOTH).metrics
    for name in "uv":
        assert abs(metrics[f"crps_{name}"] * np.pi**0.5 / PROBLEM.deviation() - 1) < 0.03
        assert abs(metrics[f"spread_skill_{name}"] - 1) < 0.03
        assert metrics[f"log_spectral_distance_{name}"] < 0.2
        assert metrics[f"wasserstein_{name}"] < 0.03
