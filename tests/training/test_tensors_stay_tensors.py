"""A tensor that passes through numpy on its way works on a CPU only, and torch does not say so there."""

import numpy as np
import pytest
from helpers import only_on_torch
from training_helpers import stripes, tiny_model

from keras_sid2 import Guidance, ScaleCurve, backend, threefry
from keras_sid2.sampling import SAMPLERS, SamplingLoop, denoiser, get_sampler, guided, thresholded, uniform_t

pytestmark = only_on_torch


def test_the_guard_sees_what_it_is_for():
    key = threefry.key(0)
    with backend.tensors_stay_tensors(), pytest.raises(RuntimeError, match="numpy"):
        key[:, None] * np.ones(3, "int32")


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_in_a_training_step(prediction):
    model = tiny_model(prediction=prediction)
    images, labels = stripes(8)
    keys = model._step_keys(0, 3)
    with backend.tensors_stay_tensors():
        inputs = model.corrupted({"image": images, "label": labels}, keys, {"label": 0.1})
        loss = model.compute_loss(inputs, None, model(inputs, training=True))
        loss.backward()
    assert np.isfinite(float(loss))


@pytest.mark.parametrize("name", SAMPLERS)
def test_in_a_step_of_a_sampler(name):
    model = tiny_model()
    images, labels = (backend.on_batch_shards(a) for a in stripes(4))
    logsnr, keys = (backend.on_batch_shards(a) for a in (uniform_t(model.schedule, 3), np.arange(8).reshape(4, 2)))
    x = images.float() / 127.5 - 1.0
    with backend.tensors_stay_tensors():
        estimate = denoiser(lambda z_t, at: model.network((z_t, at, labels), training=False))
        loop = SamplingLoop(
            denoise=estimate,
            denoise_guided=thresholded(guided(estimate, estimate, ScaleCurve(((-5, 1.0), (5, 2.0)))), 0.9),
            guided_steps=Guidance(2.0, (-3, 3)).steps(np.linspace(-9, 9, 3)),
            sampler=get_sampler(name),
            logsnr=logsnr,
            keys=keys.int(),
            image_shape=(4, 4, 1),
            known=(x, x > 0),
            init=x,
            resamplings=2,
        )
        result = loop.result(loop.advance(loop.start(), 0, 3))
    assert np.isfinite(np.asarray(result.detach())).all()
