"""What wraps a denoise function: conversions, clipping, thresholds, guidance."""

import numpy as np
import pytest
from exact_data import MIXTURE, SHAPE
from helpers import images, to_numpy
from keras import ops

from keras_sid2.diffusion import PREDICTIONS, ScaleCurve, from_x
from keras_sid2.sampling import clipped, denoiser, guided, guided_in_one_batch, thresholded

LOGSNR = np.array([-4.0, 0.0, 3.0], "float32")
Z_T = images(3, *SHAPE)


def tensors():
    return ops.convert_to_tensor(Z_T), ops.convert_to_tensor(LOGSNR)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_network_that_predicts_x_eps_or_v_is_the_same_denoiser(kind):
    def predict(z_t, logsnr_t):
        return from_x(MIXTURE.denoise(z_t, logsnr_t), kind, z_t=z_t, logsnr=logsnr_t)

    expected = to_numpy(MIXTURE.denoise(*tensors()))
    np.testing.assert_allclose(to_numpy(denoiser(predict, kind)(*tensors())), expected, atol=2e-5)


def test_clipped_stays_where_images_are():
    x_hat = clipped(lambda z_t, logsnr_t: z_t)(ops.convert_to_tensor(np.float32([-3.0, 0.25, 1.5])), None)
    np.testing.assert_array_equal(to_numpy(x_hat), [-1.0, 0.25, 1.0])


def test_a_threshold_scales_what_saturates_and_leaves_the_rest():
    x = np.linspace(-1.0, 1.0, 100, dtype="float32").reshape(1, 10, 10, 1)
    batch = ops.convert_to_tensor(np.concatenate([0.9 * x, 3.0 * x]))
    result = to_numpy(thresholded(lambda z_t, logsnr_t: z_t, 0.9)(batch, None))
    np.testing.assert_array_equal(result[0], to_numpy(batch)[0])
    limit = np.sort(np.abs(3.0 * x).ravel())[89]  # 90 of 100 values do not exceed it
    np.testing.assert_allclose(result[1], np.clip(3.0 * x[0] / limit, -1.0, 1.0), atol=1e-6)
    everything = to_numpy(thresholded(lambda z_t, logsnr_t: z_t, 1.0)(batch, None))
    np.testing.assert_allclose(everything[1], x[0], atol=1e-6)


@pytest.mark.parametrize("quantile", [0.0, 1.5, -1.0])
def test_a_threshold_is_a_quantile(quantile):
    with pytest.raises(ValueError, match=r"dynamic_threshold must be a quantile in \(0, 1\], got"):
        thresholded(lambda z_t, logsnr_t: z_t, quantile)


def test_one_batch_or_two_is_the_same_guidance_and_a_curve_is_its_value_at_each_level():
    curve = ScaleCurve(((-2.0, 1.0), (2.0, 3.0)))

    def both(z_t, logsnr_t):
        return ops.concatenate([MIXTURE.denoise(z_t[:3], logsnr_t[:3]), 0.3 * z_t[3:]])

    def base(z_t, logsnr_t):
        return 0.3 * z_t

    expected = to_numpy(MIXTURE.denoise(*tensors()))
    expected = 0.3 * Z_T + np.float32([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1) * (expected - 0.3 * Z_T)
    for denoise in (guided(MIXTURE.denoise, base, curve), guided_in_one_batch(both, curve)):
        np.testing.assert_allclose(to_numpy(denoise(*tensors())), expected, atol=1e-5)
