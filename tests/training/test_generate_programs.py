"""Compiled programs of generate: how many there are, and that none draws from what a model was before."""

import functools
import gc
import weakref

import numpy as np
import pytest
from helpers import only_on_torch
from small_networks import SmallNetwork, small_model
from training_helpers import Losses

from keras_sid2 import AdamRecipe, DDIMSampler, Guidance, ScaleCurve
from keras_sid2.generation import compiled_sampler
from keras_sid2.sampling.samplers import flow

LABELS = [0, 1, 2]


def draw(model, labels=LABELS, **options):
    return model.generate(labels, **{"num_steps": 4, "dtype": "float32", **options})


def compiled(model) -> int:
    return sum(hasattr(program, "advance") for program in model.sampling_programs.values())


class Curves:
    def __init__(self, scale):
        self.scale = scale

    def at(self, logsnr, shift=0.0):
        return 0.0 * logsnr + self.scale + shift


NEW_EACH_TIME = {
    "a lambda": lambda scale: lambda logsnr: 0.0 * logsnr + scale,
    "a partial": lambda scale: functools.partial(Curves(scale).at, shift=0.0),
    "a bound method": lambda scale: Curves(scale).at,
    "points": lambda scale: ScaleCurve(((-1.0, scale), (1.0, scale))),
}


def test_curves_are_values_and_one_program_serves_all():
    model = small_model()
    draw(model, guidance=Guidance(NEW_EACH_TIME["a lambda"](3.0)))
    calls, programs = model.network.calls, len(model.sampling_programs)
    for make in NEW_EACH_TIME.values():
        for scale in (1.5, 2.5):
            drawn = draw(model, guidance=Guidance(make(scale)))
            assert (model.network.calls, len(model.sampling_programs)) == (calls, programs)
            np.testing.assert_allclose(drawn, draw_plainly(scale), atol=1e-5)


@functools.cache
def plain_model():
    return small_model()


@functools.cache
def draw_plainly(scale):
    return draw(plain_model(), guidance=Guidance(scale))


class OwnSampler:
    """A user's sampler that hides its values, and may be changed."""

    def __init__(self, share):
        self.share = share

    def __call__(self, *, z_t, x_hat, logsnr_t, logsnr_s, noise):
        return flow(z_t=z_t, x=self.share * x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s)


def test_programs_are_bounded_whatever_is_asked_for(monkeypatch):
    monkeypatch.setattr(compiled_sampler, "_MOST", 6)
    model, counts = small_model(), []
    requests = [dict(num_steps=n) for n in (2, 3)] + [dict(sampler=DDIMSampler(eta)) for eta in (0.0, 0.5)]
    requests += [dict(batch_size=1), dict(dynamic_threshold=0.9), dict(sampler=OwnSampler(0.5))]
    for request in requests:
        draw(model, **request)
        counts.append(len(model.sampling_programs))
    assert max(counts) == 6 and counts[-1] == 6
    calls = model.network.calls
    draw(model, **requests[-1])
    assert model.network.calls == calls  # the newest ones are there
    model.compile()
    assert not model.sampling_programs
    assert 6 <= compiled_sampler._MOST <= 16


@only_on_torch
def test_recorded_graphs_are_bounded(monkeypatch):
    monkeypatch.setattr("keras_sid2.backend.compilation._MOST_GRAPHS", 2)
    model = small_model()
    for batch_size in (1, 2, 3):
        draw(model, batch_size=batch_size)
    assert len(model.sampling_programs["network"]._graphs) == 2
    calls = model.network.calls
    draw(model, batch_size=3)
    assert model.network.calls == calls


def test_programs_keep_no_guidance_network_alive():
    model, guidance_network = small_model(), small_model()
    expected = draw(model, guidance=Guidance(2.0), guidance_network=guidance_network)
    refers = weakref.ref(guidance_network)
    del guidance_network
    gc.collect()
    assert refers() is None
    others = [small_model() for _ in range(2)]
    others[1].network.first.kernel.assign([[3.0]])
    first, second = (draw(model, guidance=Guidance(2.0), guidance_network=other) for other in others)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert np.abs(second - expected).max() > 0.01


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_layer_that_is_frozen_between_two_draws_changes_nothing(use_ema):
    """Its weights change places in `trainable_variables`, where layers have the same shapes."""
    model = small_model(recipe=AdamRecipe(learning_rate=0.1, warmup_steps=1, ema_decay=0.5))
    model.compile()
    images = np.random.RandomState(0).uniform(-1, 1, (8, 2, 2, 1)).astype("float32")
    model.fit(images, np.arange(8) % 3, batch_size=4, verbose=0, callbacks=[Losses()])
    model.network.excess.assign([0.3, 0.0])
    before = draw(model, use_ema=use_ema)
    model.network.first.trainable = False
    np.testing.assert_array_equal(draw(model, use_ema=use_ema), before)


def test_a_model_that_is_changed_draws_as_a_new_one_of_its_kind():
    model, kinds = small_model(), []
    before = draw(model)
    model.prediction = "x"
    kinds.append((draw(model), draw(small_model(prediction="x"))))
    model.prediction = "v"
    other = small_model()
    other.network.first.kernel.assign([[2.0]])
    model.network = other.network
    kinds.append((draw(model), draw(other)))
    for now, expected in kinds:
        np.testing.assert_allclose(now, expected, atol=1e-6)
        assert np.abs(now - before).max() > 0.01


def test_a_sampler_that_is_changed_steps_as_it_is_now():
    model, sampler = small_model(), OwnSampler(1.0)
    first = draw(model, sampler=sampler)
    sampler.share = 0.5
    second = draw(model, sampler=sampler)
    np.testing.assert_allclose(second, draw(model, sampler=OwnSampler(0.5)), atol=1e-6)
    assert np.abs(first - second).max() > 0.01


def test_a_network_is_seen_once_by_a_program():
    """What calls are counted by: another draw of the kind adds none."""
    model = small_model(network=SmallNetwork())
    draw(model)
    calls = model.network.calls
    draw(model, seed=3)
    assert model.network.calls == calls and compiled(model) == 1
