"""Samples with a time axis: convolutions see frames one by one, attention all positions or space and time in turn."""

import numpy as np
import pytest
from helpers import images, to_numpy
from keras import ops

from keras_sid2 import Level, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.layers import SelfAttention

SHAPE = (3, 8, 8, 2)
LEVELS = {"res": [Level("res", 8, 1), Level("res", 16, 1)]}
LEVELS["alternate"] = [Level("res", 8, 1), Level("transformer", 16, 2, head_dim=8, attention="alternate")]
LEVELS["all"] = [Level("res", 8, 1), Level("transformer", 16, 2, head_dim=8)]


def shaken(network, seed=0):
    """The network with random weights where new ones are zero."""
    rng = np.random.default_rng(seed)
    for v in network.trainable_variables:
        v.assign(rng.normal(0.0, 0.2, v.shape))
    return network


def test_without_attention_a_clip_is_its_frames():
    clips, frames = (shaken(ResidualUViT(shape, 1, 3, 8, LEVELS["res"])) for shape in (SHAPE, SHAPE[1:]))
    z_t = images(2 * 3, 8, 8, 2)
    logsnr, label = np.float32([-1.0, 2.0]), np.int32([0, 1])
    one = to_numpy(clips({"z_t": z_t.reshape(2, *SHAPE), "logsnr": logsnr, "label": label}))
    by_frame = {"z_t": z_t, "logsnr": logsnr.repeat(3), "label": label.repeat(3)}
    np.testing.assert_allclose(one.reshape(z_t.shape), to_numpy(frames(by_frame)), atol=1e-4)


def attention_of(over: str):
    layer = SelfAttention(4, over=over)
    layer.build((None, 3, 2, 2, 8))
    return shaken(layer)


def test_attention_over_space_and_over_time_mix_nothing_else():
    h = images(2, 3, 2, 2 * 8).reshape(2, 3, 2, 2, 8)
    changed = h.copy()
    changed[:, 1, 0, 1] += 1.0
    for over, axis in (("space", 1), ("time", (2, 3)), ("all", ())):
        moved = np.abs(to_numpy(attention_of(over)(changed)) - to_numpy(attention_of(over)(h))).max((0, 4)) > 1e-6
        expected = np.ones((3, 2, 2), bool)
        if over == "space":
            expected[[0, 2]] = False
        elif over == "time":
            expected[:] = False
            expected[:, 0, 1] = True
        np.testing.assert_array_equal(moved, expected, err_msg=f"{over} {axis}")


def test_attention_in_turn_is_that_of_images_and_of_rows():
    h = images(2, 3, 2, 2 * 8).reshape(2, 3, 2, 2, 8)
    plain = attention_of("all")
    by_frame = to_numpy(plain(h.reshape(6, 2, 2, 8))).reshape(h.shape)
    np.testing.assert_allclose(to_numpy(attention_of("space")(h)), by_frame, atol=1e-5)
    rows = h.transpose(0, 2, 3, 1, 4).reshape(8, 3, 1, 8)
    by_place = to_numpy(plain(rows)).reshape(2, 2, 2, 3, 8).transpose(0, 3, 1, 2, 4)
    np.testing.assert_allclose(to_numpy(attention_of("time")(h)), by_place, atol=1e-5)


@pytest.mark.parametrize("levels", [LEVELS["alternate"], LEVELS["all"]], ids=["alternate", "all"])
def test_clips_train_and_are_drawn(levels, tmp_path):
    network = ResidualUViT(SHAPE, 2, 3, 8, levels)
    model = SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0))
    model.compile()
    clips = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype("uint8")
    history = model.fit({"video": clips, "label": np.arange(8) % 3}, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    drawn = model.generate([0, 1], num_steps=3)
    assert drawn.shape == (2, *SHAPE) and drawn.dtype == np.uint8
    with pytest.raises(
        ValueError, match=r"Videos must be \[batch, 3, 8, 8, 2\] \(frames, height, width, channels last\)"
    ):
        model.fit({"video": clips[:, :2], "label": np.arange(8) % 3}, verbose=0)


def test_order_of_frames_matters_by_their_positions_alone():
    """Without the frames' positions, attention treats them alike: in another order, they come out in that order."""
    network = shaken(ResidualUViT(SHAPE, 2, None, 8, LEVELS["all"]))
    z_t = images(2 * 3, 8, 8, 2).reshape(2, *SHAPE)

    def of(z):
        return to_numpy(network({"z_t": ops.convert_to_tensor(z), "logsnr": np.zeros(2, "float32")}))

    def back(z):
        return of(z[:, ::-1].copy())[:, ::-1]

    assert np.abs(back(z_t) - of(z_t)).max() > 1e-3
    network.level1_position.of_frames.assign(np.zeros(network.level1_position.of_frames.shape))
    np.testing.assert_allclose(back(z_t), of(z_t), atol=1e-4)
