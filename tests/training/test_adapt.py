"""model.adapt: what stays of the function, exactly where it can, and what is copied, resized, new or refused."""

import keras
import numpy as np
import pytest
from helpers import images, randomize, tiny_network, to_numpy
from training_helpers import fit_steps, tiny_model, with_averages

from keras_sid2 import SiD2Model, SigmoidWeighting
from keras_sid2.conditions import ClassLabel, Frames, Image, Vector, null_like
from keras_sid2.diffusion import ConstantVWeighting, CosineInterpolatedSchedule, CosineSchedule

CLIP = (3, 4, 4, 1)


def network_of(shape, **changes):
    conditions = {"wind": Vector(2), "past": Image((*shape[:-1], 2)), "kind": ClassLabel(2)}
    return randomize(tiny_network(image_shape=shape, conditions=conditions, **changes))


@pytest.fixture(scope="module")
def model():
    return tiny_model(network=network_of((4, 4, 1)), compiled=False)


@pytest.fixture(scope="module")
def of_clips():
    levels = [{"kind": "transformer", "channels": 8, "blocks": 2, "head_dim": 4, "attention": "alternate"}]
    return tiny_model(network=network_of(CLIP, levels=levels), compiled=False)


def inputs_of(model, **changes):
    shape = model.sample_shape
    given = {"z_t": images(2, *shape), "logsnr": np.float32([-2.0, 3.0]), "label": np.int32([0, 2])}
    given |= {"wind": images(2, 2, seed=1), "past": images(2, *shape[:-1], 2, seed=2), "kind": np.int32([1, 0])}
    return {**given, **changes}


def up(values):
    return values.repeat(2, -3).repeat(2, -2)


def finer(inputs, **changes):
    """The same content in pixels of a quarter of the area."""
    return {**inputs, **{name: up(inputs[name]) for name in ("z_t", "past")}, **changes}


def output(model, inputs):
    return to_numpy(model.network(inputs))


def same(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5)


# -- the function ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which, shape", [("model", (8, 8, 1)), ("of_clips", (3, 8, 8, 1))])
def test_on_finer_images_with_larger_patches_the_function_is_kept(which, shape, request):
    old = request.getfixturevalue(which)
    new = old.adapt(shape, verbose=False)
    assert (
        new.network.patch_size == 2 and new.sample_shape == shape and new.conditions["past"].shape == (*shape[:-1], 2)
    )
    inputs = inputs_of(old)
    before = output(old, inputs)
    assert before.std() > 0.1
    same(output(new, finer(inputs)), up(before))


@pytest.mark.backend_free
def test_new_conditions_change_nothing_at_first(model):
    others = {"mask": Image((8, 8, 3)), "more": Vector(4), "other": ClassLabel(7)}
    new = model.adapt(
        (8, 8, 1), conditions={**model.adapt((8, 8, 1), verbose=False).conditions, **others}, verbose=False
    )
    inputs = inputs_of(model)
    given = {"mask": images(2, 8, 8, 3), "more": images(2, 4), "other": np.int32([6, 3])}
    same(output(new, finer(inputs, **given)), up(output(model, inputs)))


@pytest.mark.backend_free
def test_images_may_come_in_another_order():
    two = {"a": Image((4, 4, 1)), "b": Image((4, 4, 1))}
    model = tiny_model(network=randomize(tiny_network(conditions=two)), compiled=False)
    new = model.adapt(conditions={**dict(reversed(two.items())), "label": ClassLabel(3)}, verbose=False)
    assert [*new.conditions] == ["label", "b", "a"]
    given = {"z_t": images(2, 4, 4, 1), "logsnr": np.float32([-1.0, 2.0]), "label": np.int32([0, 2])}
    given |= {"a": images(2, 4, 4, 1, seed=1), "b": images(2, 4, 4, 1, seed=2)}
    same(output(new, given), output(model, given))


@pytest.mark.backend_free
def test_conditions_that_go_leave_the_function_of_their_null_values(model):
    new = model.adapt(conditions={"wind": Vector(2)}, verbose=False)
    null = {name: to_numpy(v) for name, v in null_like(model.conditions, 2).items() if name != "wind"}
    inputs = inputs_of(model, **null)
    given = {name: inputs[name] for name in ("z_t", "logsnr", "wind")}
    same(output(new, given), output(model, inputs))


@pytest.mark.backend_free
@pytest.mark.parametrize("dropout, begins_as", [(0.1, 3), ({"kind": 0.1}, "mean")])
def test_new_classes_begin_as_what_is_known_of_an_image_of_unknown_class(dropout, begins_as):
    model = tiny_model(network=network_of((4, 4, 1)), label_dropout=dropout, compiled=False)
    new = model.adapt(conditions={**model.conditions, "label": ClassLabel(5)}, verbose=False)
    before, now = (to_numpy(m.network.embedding.classes.embeddings) for m in (model, new))
    unknown = before[:3].mean(0) if begins_as == "mean" else before[begins_as]
    np.testing.assert_array_equal(now[:3], before[:3])
    np.testing.assert_allclose(now[3:], [unknown] * 3, atol=1e-6)


@pytest.mark.backend_free
def test_finer_patches_have_more_positions_between_the_old_ones(model):
    new = model.adapt((8, 8, 1), patch_size=1, verbose=False)
    old, now = (to_numpy(m.network.level1_position.embedding) for m in (model, new))
    assert now.shape == (4, 4, 8)
    np.testing.assert_allclose(now[0, 0], old[0, 0], rtol=1e-6)  # beyond the old centres
    np.testing.assert_allclose(now[1, 0], 0.75 * old[0, 0] + 0.25 * old[1, 0], rtol=1e-5)
    np.testing.assert_array_equal(*(to_numpy(m.network.patchify.kernel) for m in (model, new)))


@pytest.mark.backend_free
def test_longer_clips_have_their_frames_between_the_old_ones_and_images_become_clips(of_clips, model):
    longer = of_clips.adapt((6, 4, 4, 1), verbose=False)
    old, now = (to_numpy(m.network.level0_position.of_frames)[:, 0, 0] for m in (of_clips, longer))
    np.testing.assert_allclose(now[1], 0.75 * old[0] + 0.25 * old[1], rtol=1e-4, atol=1e-6)
    clips = model.adapt((3, 4, 4, 1), verbose=False)
    assert ("level1_position", 24, "new", "one for each frame, as in a new network") in clips.adaptation.rows


# -- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
def test_given_frames_follow_the_clips_and_may_be_new(of_clips, model):
    conditions = {**of_clips.conditions, "given": Frames(CLIP, 1)}
    new = of_clips.adapt(conditions=conditions, verbose=False)
    inputs = inputs_of(of_clips)
    same(output(new, {**inputs, "given": np.zeros((2, *CLIP[:-1], 2), "float32")}), output(of_clips, inputs))
    randomize(new.network)
    larger = new.adapt((3, 8, 8, 1), verbose=False)
    assert larger.conditions["given"] == Frames((3, 8, 8, 1), 1)
    given = Frames(CLIP, 1).check("given", np.tanh(images(2, 1, *CLIP[1:])))
    found = output(larger, finer({**inputs, "given": up(given)}))
    same(found, up(output(new, {**inputs, "given": given})))
    video = {name: c for name, c in model.conditions.items() if name not in ("past", "kind")}
    assert "given" in model.adapt(CLIP, conditions={**video, "given": Frames(CLIP, 2)}, verbose=False).conditions


def test_the_table_counts_every_parameter_once_and_says_how(model, capsys):
    new = model.adapt((8, 8, 1))
    assert sum(count for _, count, *_ in new.adaptation.rows) == new.network.count_params()
    assert {what for *_, what, _ in new.adaptation.rows} == {"copied", "resized"}
    told = capsys.readouterr().out
    assert told.strip() == str(new.adaptation)
    assert "patchify 48 resized 1 x 1 to 2 x 2 pixels, means over them" in " ".join(told.split())
    assert "The weighting was SigmoidWeighting(bias=0.0), and is SigmoidWeighting(bias=2.0)." in told


def test_averages_are_taken_unless_told_otherwise_and_the_model_is_new():
    model = tiny_model()
    with_averages(model)
    averages = [to_numpy(v.value) for v in model.averages()]
    weights = [to_numpy(v) for v in model.network.trainable_variables]
    for use_ema, wanted in ((True, averages), (False, weights)):
        new = model.adapt(use_ema=use_ema, verbose=False)
        found = [to_numpy(v) for v in new.network.trainable_variables]
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
        assert int(new.step.numpy()) == 0 and not new.compiled and new.recipe == model.recipe
        assert new.adaptation.rows == (("all else", model.network.count_params(), "copied", ""),)
    assert not all(np.array_equal(a, b) for a, b in zip(averages, weights, strict=True))
    assert int(model.step.numpy()) == 4


@pytest.mark.backend_free
def test_schedule_and_bias_are_those_of_the_new_resolution():
    net = tiny_network()
    model = SiD2Model(net, schedule=CosineSchedule(-12.0, 9.0), weighting=SigmoidWeighting(5.0))
    new = model.adapt((128, 128, 1), verbose=False)
    assert new.schedule == CosineInterpolatedSchedule(128.0, low=32.0, logsnr_min=-12.0, logsnr_max=9.0)
    assert new.weighting == SigmoidWeighting(0.0) and new.network.patch_size == 32
    assert model.adapt(patch_size=2, verbose=False).objective == model.objective
    kept = SiD2Model(net, schedule=CosineSchedule(), weighting=ConstantVWeighting()).adapt((64, 64, 1), verbose=False)
    assert kept.weighting == ConstantVWeighting()


def test_it_trains_saves_and_loads_as_any_model(tmp_path):
    new = tiny_model().adapt(conditions={"label": ClassLabel(6)}, patch_size=2, verbose=False)
    new.compile()
    fit_steps(new)
    new.save(tmp_path / "new.keras")
    again = keras.saving.load_model(tmp_path / "new.keras")
    assert again.conditions == {"label": ClassLabel(6)} and int(again.step.numpy()) == 4
    for a, b in zip(again.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backend_free
def test_frozen_layers_stay_frozen(model):
    frozen = tiny_model(compiled=False)
    frozen.network.level0_down_blocks[0].trainable = False
    new = frozen.adapt((8, 8, 1), verbose=False)
    assert not new.network.level0_down_blocks[0].trainable and new.network.patchify.trainable
    assert "layers and weights stay frozen" in str(new.adaptation)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"sample_shape": (8, 8, 3)}, "A network for 1 channels cannot be adapted to 3: patch layers are of pixels."),
        ({"sample_shape": (6, 6, 1), "patch_size": 2}, "must have a height and a width that 4 divides"),
        ({"sample_shape": (8, 8)}, "image_shape must be (height, width, channels)"),
        ({"patch_size": 0}, "patch_size must be an integer >= 1, got 0"),
        ({"conditions": {"wind": Vector(3)}}, "The condition wind was Vector(size=2) and cannot become Vector(size=3)"),
        ({"conditions": {"past": Image((4, 4, 3))}}, "The condition past was Image(shape=(4, 4, 2)) and cannot become"),
        ({"conditions": {"kind": Vector(2)}}, "The condition kind was ClassLabel(num_classes=2) and cannot become Vec"),
        ({"conditions": {"wind": 3}}, "conditions['wind'] must be one of keras_sid2.conditions, got 3"),
    ],
)
def test_what_cannot_be_adapted_gets_one_sentence(model, change, sentence):
    with pytest.raises(ValueError) as error:
        model.adapt(**change, verbose=False)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.backend_free
def test_a_model_of_several_networks_and_networks_of_others_are_refused():
    class Two(SiD2Model):
        PARTS = (*SiD2Model.PARTS, "teacher")

    class Own(keras.layers.Layer):
        sample_shape, conditions = (4, 4, 1), {}

        def call(self, inputs, training=None):
            return inputs["z_t"]

    parts = {"schedule": CosineSchedule(), "weighting": SigmoidWeighting(0.0)}
    two = Two(tiny_network(), **parts)
    two.teacher = tiny_network()
    with pytest.raises(
        ValueError, match="A Two has the networks network, teacher: adapt a SiD2Model of each, and join"
    ):
        two.adapt((8, 8, 1), verbose=False)
    with pytest.raises(ValueError, match="A ResidualUViT can be adapted, and this network is of the class Own"):
        SiD2Model(Own(), **parts).adapt((8, 8, 1), verbose=False)


@pytest.mark.backend_free
def test_images_of_clips_and_lora_are_refused(of_clips):
    with pytest.raises(ValueError, match="A network for clips .3, 4, 4, 1. cannot be adapted to images .4, 4, 1.: "):
        of_clips.adapt((4, 4, 1), verbose=False)
    given = of_clips.adapt(conditions={**of_clips.conditions, "given": Frames(CLIP, 1)}, verbose=False)
    with pytest.raises(ValueError, match="A network for clips .3, 4, 4, 1. cannot be adapted to images .4, 4, 1.: "):
        given.adapt((4, 4, 1), verbose=False)
    model = tiny_model(compiled=False)
    model.network.level1_middle_blocks[0].mlp1.enable_lora(2)
    with pytest.raises(ValueError, match="level1_middle_blocks/0/mlp1 has weights of enable_lora.. beside its kernel"):
        SiD2Model(model.network, objective=model.objective).adapt((8, 8, 1), verbose=False)
