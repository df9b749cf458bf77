"""Inpainting, continuing frames, and starting from an image: what is known keeps the noise of its level."""

import dataclasses

import numpy as np
import pytest
from exact_data import SHAPE, Mixture, turned_covariance
from helpers import alpha_sigma_of, keys, to_numpy
from keras import ops

from keras_sid2 import DDIMSampler, DDPMSampler, DPMSolver2MSampler, EDMHeunSampler, HeunSampler, backend
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.sampling import Sampler, SamplingLoop, uniform_t

SAMPLERS = {"ddpm": DDPMSampler(0.7), "ddim": DDIMSampler(), "heun": HeunSampler(), "2m": DPMSolver2MSampler()}
SAMPLERS |= {"edm's heun": EDMHeunSampler(), "edm's heun with churn": EDMHeunSampler(churn=0.3)}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
MASK = np.array([[True, False], [False, True]])[..., None]
KNOWN = np.array([[0.8, 9.0], [9.0, -0.4]], "float32")[..., None]
COUNT = 6000


def states(loop: SamplingLoop, edges):
    """(z_t, result) as numpy after the steps in `edges`."""

    def run(keys, *stops):
        running = dataclasses.replace(loop, keys=keys)
        state, kept = running.start(), []
        kept.append((state[0], running.result(state)))
        for first, last in zip((0, *edges), edges, strict=False):
            state = running.advance(state, first, last)
            kept.append((state[0], running.result(state)))
        return kept

    return [tuple(map(to_numpy, pair)) for pair in backend.compiled(run, [], jit_compile=False)([], loop.keys)]


def known_loop(sampler, denoise, num_steps=24, count=COUNT, **changes):
    settings = dict(
        denoise=denoise,
        sampler=sampler,
        logsnr=ops.convert_to_tensor(uniform_t(CosineSchedule(), num_steps)),
        keys=ops.convert_to_tensor(keys(count)),
        image_shape=SHAPE,
        known=(ops.convert_to_tensor(np.tile(KNOWN, (count, 1, 1, 1))), ops.convert_to_tensor(MASK)),
    )
    return SamplingLoop(**{**settings, **changes})


@every_sampler
def test_known_pixels_carry_the_noise_of_their_level_at_every_step_and_come_back(sampler):
    loop, edges = known_loop(sampler, lambda z_t, logsnr_t: 0.5 * z_t), (1, 6, 12, 18, 23)
    for step, (z_t, result) in zip((0, *edges), states(loop, edges), strict=True):
        alpha, sigma = alpha_sigma_of(to_numpy(loop.logsnr)[step])
        noise = (z_t - alpha * KNOWN)[:, MASK] / sigma
        assert np.abs(noise.mean(0)).max() < 4.5 / np.sqrt(COUNT)
        assert np.abs(noise.var(0) - 1.0).max() < 4.5 * np.sqrt(2.0 / COUNT)
        np.testing.assert_array_equal(result[:, MASK], np.tile(KNOWN[MASK], (COUNT, 1)))


def test_a_deterministic_sampler_keeps_the_noise_of_known_pixels():
    loop = known_loop(DDIMSampler(), lambda z_t, logsnr_t: 0.5 * z_t, count=20)
    (start, _), (end, _) = states(loop, (18,))
    first, last = (
        ((z - alpha_sigma_of(logsnr)[0] * KNOWN) / alpha_sigma_of(logsnr)[1])[:, MASK]
        for z, logsnr in ((start, to_numpy(loop.logsnr)[0]), (end, to_numpy(loop.logsnr)[18]))
    )
    np.testing.assert_allclose(first, last, atol=1e-3)


def way_to_the_conditional_mean(sampler, **options) -> float:
    """On a Gaussian: how far the mean of the rest goes from its own, 0, to that given the known pixels, 1."""
    data = Mixture(np.ones(1), np.array([[0.1, 0.0, -0.1, 0.2]]), turned_covariance([0.8, 0.1, 0.2, 0.15], 0.7)[None])
    known, rest = MASK.ravel(), ~MASK.ravel()
    mean, covariance = data.means[0], data.covariances[0]
    gain = covariance[np.ix_(rest, known)] @ np.linalg.inv(covariance[np.ix_(known, known)])
    expected = gain @ (KNOWN.ravel()[known] - mean[known])
    (_, result) = states(known_loop(sampler, data.denoise, num_steps=64, count=1000, **options), (64,))[-1]
    found = result.reshape(-1, 4)[:, rest].mean(0) - mean[rest]
    return found @ expected / (expected**2).sum()


@every_sampler
def test_the_rest_follows_what_is_known_and_closer_with_resampling(sampler):
    once, often = (way_to_the_conditional_mean(sampler, resamplings=n) for n in (1, 8))
    assert 0.3 < once < often and 0.85 < often < 1.1


def test_pixels_that_do_not_depend_on_what_is_known_are_drawn_as_ever():
    data = Mixture(np.ones(1), np.array([[0.1, 0.3, -0.1, 0.2]]), np.diag([0.3, 0.2, 0.1, 0.2])[None] ** 2)
    loop = known_loop(DDPMSampler(), data.denoise, num_steps=16)
    with_known = states(loop, (16,))[-1][1]
    without = states(dataclasses.replace(loop, known=None), (16,))[-1][1]
    np.testing.assert_allclose(with_known[:, ~MASK], without[:, ~MASK], atol=1e-4)


def test_frames_go_on_from_those_that_are_known():
    """Clips [frames, H, W, C] of a random walk that a first-order process makes; two frames known, two drawn."""
    shape, rho, deviation = (4, 1, 1, 1), 0.95, 0.4
    covariance = deviation**2 * rho ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    clips = Mixture(np.ones(1), np.zeros((1, 4)), covariance[None])
    x = np.random.RandomState(0).multivariate_normal(np.zeros(4), covariance, 2000).astype("float32")
    loop = known_loop(
        DDPMSampler(),
        lambda z_t, logsnr_t: ops.reshape(clips.denoise(z_t, logsnr_t), (-1, *shape)),
        num_steps=64,
        count=2000,
        resamplings=4,
        image_shape=shape,
        known=(ops.reshape(ops.convert_to_tensor(x), (-1, *shape)), ops.reshape(np.arange(4) < 2, shape)),
    )
    drawn = states(loop, (64,))[-1][1].reshape(-1, 4)
    np.testing.assert_array_equal(drawn[:, :2], x[:, :2])
    assert np.corrcoef(drawn[:, 1], drawn[:, 2])[0, 1] > 0.8
    assert abs(drawn[:, 2:].std() / deviation - 1.0) < 0.1


def test_a_run_from_an_image_starts_at_its_noise_level():
    init = np.full((COUNT, *SHAPE), 0.5, "float32")
    logsnr = uniform_t(CosineSchedule(), 8, t_start=0.4)
    assert logsnr[0] == pytest.approx(float(to_numpy(CosineSchedule().logsnr(np.float32(0.4)))), abs=1e-5)
    loop = known_loop(
        DDIMSampler(),
        lambda z_t, logsnr_t: z_t,
        logsnr=ops.convert_to_tensor(logsnr),
        init=ops.convert_to_tensor(init),
        known=None,
    )
    z_t, _ = states(loop, ())[0]
    alpha, sigma = alpha_sigma_of(logsnr[0])
    assert abs(z_t.mean() - 0.5 * alpha) < 4.5 * sigma / np.sqrt(z_t.size)
    assert abs(z_t.std() / sigma - 1.0) < 4.5 / np.sqrt(2 * z_t.size)


def after_steps(resamplings: int, step) -> list[np.ndarray]:
    """z [COUNT * 4] at the start, after step 3 and after step 4, each `resamplings` times step(z_t, noise)."""

    class Stepping(Sampler):
        def step(self, denoise, z_t, carry, *, logsnr_t, logsnr_s, noise):
            return step(z_t, noise()), denoise(z_t, logsnr_t), carry

    loop = known_loop(Stepping(), lambda z_t, logsnr_t: z_t, num_steps=8, known=None, resamplings=resamplings)
    loop = dataclasses.replace(loop, logsnr=loop.logsnr[3:])
    return [z.ravel().astype("float64") for z, _ in states(loop, (1, 2))]


def test_every_repeat_of_every_step_has_noise_of_its_own():
    """A sampler that returns its noise shows that of the last repeat; one that returns z_t, the noise of going back."""
    drawn = [z for repeats in (1, 2, 3) for z in after_steps(repeats, lambda z_t, noise: 0.0 * z_t + noise)[1:]]
    logsnr = uniform_t(CosineSchedule(), 8).astype("float64")[3:6]
    (alpha, sigma), c = alpha_sigma_of(logsnr), -np.expm1(logsnr[:-1] - logsnr[1:])
    z = after_steps(2, lambda z_t, noise: z_t + 0.0 * noise)
    for i in range(2):
        back = (z[i + 1] - alpha[i] / alpha[i + 1] * z[i]) / (sigma[i] * np.sqrt(c[i]))
        assert abs(back.var() - 1.0) < 4.5 * np.sqrt(2.0 / back.size)
        drawn.append(back)
    correlation = np.corrcoef([z[0], *drawn])
    assert np.abs(correlation - np.eye(len(correlation))).max() < 4.5 / np.sqrt(back.size)
