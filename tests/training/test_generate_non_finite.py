"""Values that are NaN or infinite are told, with the step and the images, and never drawn."""

import keras
import numpy as np
import pytest
from keras import ops
from small_networks import SmallNetwork, small_model

from keras_sid2 import DDIMSampler, Guidance, SampleRequest
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.sampling.samplers import flow
from keras_sid2.training import NonFiniteImages

LABELS, STEPS = [0, 2, 1, 0, 1], 12
BAD = {"inf": (1000.0, 0.0), "-inf": (0.0, 1000.0), "nan": (1000.0, 1000.0)}  # of SmallNetwork.excess, itself finite


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(autouse=True)
def sound_before_and_after(model):
    model.network.excess.assign([0.0, 0.0])
    yield
    model.network.excess.assign([0.0, 0.0])


def first_step_above(level, request) -> int:
    """Counted from 1."""
    return int(np.flatnonzero(request.logsnr > level)[0]) + 1


@pytest.mark.parametrize("excess", BAD.values(), ids=BAD)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_what_a_network_makes_of_it_is_told_with_step_images_and_seed(model, excess, dtype):
    request = SampleRequest(model, LABELS, num_steps=STEPS, seed=7, first_image=100, batch_size=5, dtype=dtype)
    assert np.isfinite(request.images()).all()
    model.network.excess.assign(excess)
    with pytest.raises(NonFiniteImages, match=r"images 102, 104 \(labels 1, 1\) of seed 7 became NaN") as error:
        request.images()
    found, step = error.value, first_step_above(0.0, request)
    assert isinstance(found, FloatingPointError) and found.weights == []
    assert (found.step, found.num_steps, found.seed, found.images, found.labels) == (step, 12, 7, [102, 104], [1, 1])
    assert found.logsnr == pytest.approx(request.logsnr[step - 1])
    assert f"in step {step} of 12, at logsnr" in str(found) and "DDPMSampler" in str(found) and "float32" in str(found)
    assert "\n" not in str(found)


def test_batches_before_it_are_handed_out_and_it_is_not(model):
    model.network.excess.assign(BAD["nan"])
    batches = SampleRequest(model, LABELS, num_steps=STEPS, batch_size=2).batches()
    assert next(batches).shape == (2, 2, 2, 1)
    with pytest.raises(NonFiniteImages, match=r"image 2 \(label 1\) of seed 0"):
        next(batches)


@pytest.mark.parametrize("frames", [1, 4])
def test_a_trajectory_tells_it_too(model, frames):
    model.network.excess.assign(BAD["inf"])
    with pytest.raises(NonFiniteImages) as error:
        model.trajectory(LABELS, num_steps=STEPS, frames=frames)
    assert error.value.step == first_step_above(0.0, SampleRequest(model, LABELS, num_steps=STEPS))


@pytest.mark.parametrize("options", [dict(dynamic_threshold=0.5), dict(sampler="heun"), dict(guidance=Guidance(2.0))])
def test_no_threshold_sampler_or_guidance_hides_infinity(model, options):
    model.network.excess.assign(BAD["inf"])
    with pytest.raises(NonFiniteImages) as error:
        model.generate(LABELS, num_steps=STEPS, **options)
    assert error.value.images == [2, 4]


def test_known_parts_do_not_hide_it(model):
    mask = np.ones((2, 2, 1), bool)
    mask[0, 0] = False
    model.network.excess.assign(BAD["inf"])
    with pytest.raises(NonFiniteImages):
        model.generate(LABELS, num_steps=STEPS, known=np.zeros((5, 2, 2, 1), "uint8"), mask=mask)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(model, value):
    kernel = model.network.second.kernel
    before = ops.convert_to_numpy(kernel.value)
    kernel.assign(np.full(before.shape, value))
    try:
        with pytest.raises(NonFiniteImages, match="The weights are not finite: .*kernel") as error:
            model.generate(LABELS, num_steps=STEPS)
        assert error.value.step == 1 and error.value.weights == [kernel.path]
    finally:
        kernel.assign(before)


def test_a_sampler_of_the_user_s_that_gives_nan_is_told(model):
    def sampler(*, z_t, x_hat, logsnr_t, logsnr_s, noise):
        bad = ops.where(logsnr_s > 0.0, np.nan, 0.0)
        return flow(z_t=z_t, x=x_hat, logsnr_t=logsnr_t, logsnr_s=logsnr_s) + bad

    request = SampleRequest(model, LABELS, num_steps=STEPS, sampler=sampler)
    with pytest.raises(NonFiniteImages) as error:
        request.images()
    assert error.value.images == [0, 1, 2, 3, 4]
    assert error.value.step == first_step_above(0.0, request) - 1  # that which ends there


class HalfNetwork(SmallNetwork):
    """Its values are beyond float16's 65504 where z_t is large."""

    num_classes = None

    def call(self, inputs, training=None):
        large = ops.cast(ops.cast(inputs[0], "float16") * 60000.0, "float32")
        return large + 0.0 * super().call((inputs[0], inputs[1], ops.zeros_like(inputs[1])))


def test_overflow_in_float16_is_told():
    model = small_model(network=HalfNetwork())
    with pytest.raises(NonFiniteImages, match="Usual causes: float16") as error:
        model.generate(num_images=8, num_steps=3, sampler=DDIMSampler())
    assert error.value.step == 1 and "label" not in str(error.value)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (
            dict(guidance=Guidance(lambda logsnr: ops.log(logsnr))),
            r"The guidance scale must be .*, and is nan at logsnr",
        ),
        (dict(guidance=Guidance(lambda logsnr: -logsnr)), "The guidance scale must be a finite number >= 0"),
        (dict(guidance=Guidance(lambda logsnr: np.ones(3))), r"must give one number a level: \[12\], got \[3\]"),
        (dict(init=np.full((5, 2, 2, 1), np.nan), t_start=0.5), "init must be float in .* NaN or infinite"),
    ],
)
def test_what_is_known_before_is_refused_before(model, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        SampleRequest(model, LABELS, num_steps=STEPS, **options)


def test_a_curve_is_asked_at_the_levels_of_guided_steps_only(model):
    """This one is NaN below 0; and a constant given as a plain number is one, too."""
    curve, interval = Guidance(lambda logsnr: ops.sqrt(logsnr), (0.5, 30.0)), Guidance(lambda logsnr: 1.5, (0.5, 30.0))
    images = [
        SampleRequest(model, LABELS, num_steps=STEPS, guidance=g, dtype="float32").images() for g in (curve, interval)
    ]
    assert np.isfinite(images).all()
    expected = model.generate(LABELS, num_steps=STEPS, guidance=Guidance(1.5, (0.5, 30.0)), dtype="float32")
    np.testing.assert_allclose(images[1], expected, atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class BrokenSchedule(CosineSchedule):
    """NaN in the middle."""

    def logsnr(self, t):
        return super().logsnr(t) + ops.where(ops.abs(ops.convert_to_tensor(t) - 0.5) < 0.1, np.nan, 0.0)


def test_a_schedule_with_nan_is_refused():
    with pytest.raises(ValueError, match="12 steps, none below .*nan"):
        SampleRequest(small_model(schedule=BrokenSchedule()), LABELS, num_steps=STEPS)
