import numpy as np
import pytest
from exact_data import MU, S, exact, moments_after
from helpers import BACKEND, alpha_sigma_of, keys, to_numpy
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.sampling import (
    SAMPLERS,
    DDIMSampler,
    DDPMSampler,
    DPMSolver2MSampler,
    HeunSampler,
    SamplingLoop,
    get_sampler,
    sample,
    uniform_t,
)

SHAPE = (2, 2, 1)


def draw(denoise, sampler, logsnr, example_keys, image_shape=SHAPE, **options):
    """`sample` as numpy, compiled where the backend compiles."""

    def images(logsnr, example_keys):
        return sample(
            denoise=denoise,
            sampler=sampler,
            logsnr=logsnr,
            keys=example_keys,
            image_shape=image_shape,
            **options,
        )

    program = backend.compiled(images, [], jit_compile=False)
    return to_numpy(program([], ops.convert_to_tensor(logsnr), ops.convert_to_tensor(example_keys)))


# What comes out.


@pytest.mark.parametrize("sampler", [DDPMSampler(), DDIMSampler()], ids=["ddpm", "ddim"])
def test_512_steps_of_an_exact_denoiser_draw_the_data(sampler):
    logsnr = uniform_t(CosineSchedule(), 512)
    x = draw(exact, sampler, logsnr, keys(100), image_shape=(8, 8, 1)).astype("float64")
    mean, deviation = moments_after(sampler, logsnr)  # within 1 % of the data's by test_samplers.py
    standard_error = deviation / np.sqrt(x.size)
    assert abs(x.mean() - mean) < 3 * standard_error
    assert abs(x.std() - deviation) < 3 * standard_error / np.sqrt(2)
    correlation = np.corrcoef(x.reshape(100, 64).T) - np.eye(64)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(100)


@pytest.mark.parametrize("sampler", [get_sampler(name) for name in SAMPLERS], ids=SAMPLERS)
def test_an_image_does_not_depend_on_its_neighbours(sampler):
    logsnr, all_keys = uniform_t(CosineSchedule(), 4), to_numpy(keys(64))

    def denoise(z_t, logsnr_t):
        return ops.tanh(2.0 * exact(z_t, logsnr_t))

    many = draw(denoise, sampler, logsnr, all_keys)
    assert np.abs(many[1:] - many[:-1]).max(axis=(1, 2, 3)).min() > 1e-3
    for part in (slice(0, 7), slice(40, 41)):  # batches of 64, 7 and 1
        np.testing.assert_allclose(draw(denoise, sampler, logsnr, all_keys[part]), many[part], atol=1e-5)


def test_one_step_is_the_denoiser_on_noise():
    example_keys, logsnr = keys(3), uniform_t(CosineSchedule(), 1)
    z = threefry.normal(example_keys, SHAPE)
    expected = exact(z, ops.convert_to_tensor(logsnr[:1].repeat(3)))
    np.testing.assert_allclose(draw(exact, DDPMSampler(), logsnr, example_keys), to_numpy(expected), atol=1e-6)


# Guidance as three loops.


def guided(z_t, logsnr_t):
    return 0.5 * exact(z_t, logsnr_t) - 0.25


LOGSNR = uniform_t(CosineSchedule(), 8)


def reference(sampler, example_keys, guided_steps):
    """The loop in float64 numpy: Eq. (1) and (2) of the sampler with the posterior by Bayes' rule."""
    z = to_numpy(threefry.normal(example_keys, SHAPE)).astype("float64")
    for i, (t, s) in enumerate(zip(LOGSNR, LOGSNR[1:], strict=False)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_of(t), alpha_sigma_of(s)
        x_hat = MU + alpha_t * S**2 / (alpha_t**2 * S**2 + sigma_t**2) * (z - alpha_t * MU)
        if guided_steps[0] <= i < guided_steps[1]:
            x_hat = 0.5 * x_hat - 0.25
        if not isinstance(sampler, DDPMSampler):
            z = alpha_s * x_hat + sigma_s * (z - alpha_t * x_hat) / sigma_t
            continue
        gain = alpha_t / alpha_s
        forward = sigma_t**2 - gain**2 * sigma_s**2
        lower = 1.0 / (1.0 / sigma_s**2 + gain**2 / forward)
        mean = lower * (alpha_s * x_hat / sigma_s**2 + gain * z / forward)
        noise = to_numpy(threefry.normal(example_keys, SHAPE, index=i + 1))
        z = mean + np.sqrt(lower ** (1 - sampler.variance) * forward**sampler.variance) * noise
    return x_hat


@pytest.mark.parametrize("sampler", [DDPMSampler(0.3), DDIMSampler()], ids=["ddpm", "ddim"])
def test_the_loop_is_a_hand_written_one_inside_and_outside_the_interval(sampler):
    """And the interval may be known at run time only: one program serves all of them."""

    def images(example_keys, guided_steps):
        return sample(
            denoise=exact,
            denoise_guided=guided,
            guided_steps=(guided_steps[0], guided_steps[1]),
            sampler=sampler,
            logsnr=ops.convert_to_tensor(LOGSNR),
            keys=example_keys,
            image_shape=SHAPE,
        )

    program, example_keys = backend.compiled(images, [], jit_compile=False), keys(3)
    for steps in ((0, 0), (2, 5), (0, 8), (6, 8), (4, 4), (8, 8)):
        x = to_numpy(program([], example_keys, ops.convert_to_tensor(np.int32(steps))))
        np.testing.assert_allclose(x, reference(sampler, example_keys, steps), atol=2e-5)


def test_an_empty_interval_is_the_plain_loop():
    plain, empty = (
        draw(exact, DDPMSampler(0.3), LOGSNR, keys(3), **options)
        for options in ({}, dict(denoise_guided=guided, guided_steps=(4, 4)))
    )
    np.testing.assert_allclose(empty, plain, atol=1e-6)
    np.testing.assert_allclose(plain, reference(DDPMSampler(0.3), keys(3), (0, 0)), atol=2e-5)


def counting(counts, name):
    """A denoiser that adds to counts[name] whenever it is computed, at run time, on every backend."""

    def bump(*_):
        counts[name] = counts.get(name, 0) + 1

    def denoise(z_t, logsnr_t):
        if BACKEND == "jax":
            import jax

            jax.debug.callback(bump)
        elif BACKEND == "tensorflow":
            import tensorflow as tf

            tf.py_function(bump, [], [])
        else:
            bump()
        return 0.5 * z_t

    return denoise


def test_the_guided_denoiser_runs_inside_its_interval_only():
    counts = {}
    plain, inside = counting(counts, "plain"), counting(counts, "guided")
    draw(plain, DDIMSampler(), LOGSNR, keys(2), denoise_guided=inside, guided_steps=(3, 5))
    if BACKEND == "jax":
        import jax

        jax.effects_barrier()
    assert counts == {"plain": 6, "guided": 2}


def test_a_history_does_not_reach_across_an_edge_of_the_interval():
    """There 2M steps as DDIM does: the first of each part of a run with three denoise functions is of first order."""

    def z_after(sampler, first, last):
        loop = SamplingLoop(
            denoise=exact,
            denoise_guided=guided,
            guided_steps=(3, 5),
            sampler=sampler,
            logsnr=ops.convert_to_tensor(LOGSNR),
            keys=keys(3),
            image_shape=SHAPE,
        )
        z_t, x_hat, carry = loop.start()
        if first and carry:
            carry = (5.0 + 0.0 * z_t, ops.convert_to_tensor(1.0))
        return to_numpy(loop.advance((z_t, x_hat, carry), first, last)[0])

    for step in range(7):
        multistep, single = (z_after(s, step, step + 1) for s in (DPMSolver2MSampler(), DDIMSampler()))
        assert (np.abs(multistep - single).max() < 1e-5) == (step in (0, 3, 5)), step


@pytest.mark.parametrize("sampler", [get_sampler(name) for name in SAMPLERS], ids=SAMPLERS)
def test_a_run_in_pieces_is_the_run(sampler):
    def run(edges):
        settings = dict(denoise=exact, denoise_guided=guided, guided_steps=(2, 5), sampler=sampler)
        loop = SamplingLoop(logsnr=ops.convert_to_tensor(LOGSNR), keys=keys(3), image_shape=SHAPE, **settings)
        state = loop.start()
        for first, last in zip(edges, edges[1:], strict=False):
            state = loop.advance(state, first, last)
        return to_numpy(loop.result(state))

    np.testing.assert_allclose(run([0, 1, 4, 6, 8]), run([0, 8]), atol=1e-6)


def test_the_second_estimate_of_heun_is_at_the_end_of_its_step():
    seen = []

    def denoise(z_t, logsnr_t):
        seen.append(to_numpy(logsnr_t)[0])
        return 0.5 * z_t

    loop = SamplingLoop(
        denoise=denoise,
        sampler=HeunSampler(),
        logsnr=ops.convert_to_tensor(np.float32([-1.0, 0.5])),
        keys=keys(2),
        image_shape=SHAPE,
    )
    loop._once(denoise, 0, loop.start(), loop.keys)
    assert seen == [-1.0, 0.5]
