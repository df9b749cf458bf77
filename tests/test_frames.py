"""Given frames: taken from the clips in training, kept in what is drawn, and the rest is of their conditional."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_sid2 import AdamRecipe, Guidance, Level, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.conditions import Frames
from keras_sid2.diffusion import CosineSchedule, alpha_sigma

CLIP = (4, 4, 4, 1)
RNG = np.random.default_rng(0)


def model_of(network, share=0.1, **options):
    model = SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0), label_dropout=share, **options)
    model.compile()
    return model


LEVELS = (Level("res", 8, 1), Level("transformer", 16, 1, head_dim=8))
SEEING = (Level("res", 16, 1), Level("transformer", 32, 2, head_dim=16))


def small_network(given=2, levels=LEVELS):
    network = ResidualUViT(CLIP, 1, 3, 8, levels, conditions={"given": Frames(CLIP, given)})
    for v in network.trainable_variables:
        if "gamma" not in v.path:
            v.assign(np.random.default_rng(1).normal(0.0, 0.2, v.shape))
    return network


@pytest.fixture(scope="module")
def model():
    return model_of(small_network((1, 2)))


def clips(count=8):
    return RNG.integers(0, 256, (count, *CLIP)).astype("uint8")


def test_values_are_the_first_frames_and_a_mark():
    condition, whole = Frames(CLIP, (1, 3)), clips(2)
    for frames in (1, 3):
        values = condition.check("given", whole[:, :frames])
        assert values.shape == (2, *condition.shape) and values.dtype == np.float32
        np.testing.assert_allclose(values[:, :frames, ..., :1], whole[:, :frames] / 127.5 - 1.0, atol=1e-6)
        assert (values[:, :frames, ..., 1] == 1.0).all() and not values[:, frames:].any()
    np.testing.assert_array_equal(condition.check("given", whole), condition.check("given", whole[:, :3]))
    np.testing.assert_array_equal(condition.check("given", values), values)


def test_each_number_of_frames_is_drawn_as_often():
    draws, x = (np.arange(300, dtype="float32") + 0.5) / 300, np.zeros((300, *CLIP), "float32")
    x[:] = np.arange(4)[:, None, None, None]
    values = to_numpy(Frames(CLIP, (1, 3)).of_samples(ops.convert_to_tensor(x), ops.convert_to_tensor(draws)))
    np.testing.assert_array_equal(values[:, :, 0, 0, 1].sum(1), np.repeat([1, 2, 3], 100))
    np.testing.assert_array_equal(values[..., :1], x * values[..., 1:])
    assert to_numpy(Frames(CLIP, 2).of_samples(ops.ones((1, *CLIP)), ops.ones((1,))))[0, :, 0, 0, 1].sum() == 2


@pytest.mark.parametrize(
    "values, sentence",
    [
        (np.zeros((2, 4, 4, 4, 1), "int64"), "given must be uint8 or float"),
        (
            np.zeros((2, 3, 4, 4, 1)),
            r"given must be 1 to 2 frames, \['batch', 'frames', 4, 4, 1\], got float32 of shape",
        ),
        (np.zeros((2, 2, 8, 8, 1)), "given must be 1 to 2 frames"),
        (np.zeros((2, 0, 4, 4, 1)), "given must be 1 to 2 frames"),
        (np.full((2, 1, 4, 4, 1), 3.0), r"given must be float in \[-1, 1\], and reaches from 3"),
        (np.full((2, 1, 4, 4, 1), np.nan), "NaN"),
        (np.zeros((3, 1, 4, 4, 1)), "got 3 given, 2 label"),
    ],
)
def test_frames_that_do_not_fit_are_refused(model, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        model.generate([0, 1], conditions={"given": values}, num_steps=2)


@pytest.mark.parametrize("shape, given", [(CLIP, 4), (CLIP, 0), (CLIP[1:], 1), (CLIP, (3, 2)), (CLIP, (1, 2, 3))])
def test_settings_that_cannot_be_are_refused(shape, given):
    with pytest.raises(ValueError, match="Frames has a clip's shape|number of given frames"):
        Frames(shape, given)


def test_a_network_of_other_clips_refuses_them():
    with pytest.raises(ValueError, match=r"must be of the samples' shape, \[4, 4, 4, 1\]; given is of clips"):
        ResidualUViT(CLIP, 1, None, 8, [Level("res", 8, 1)], conditions={"given": Frames((4, 8, 8, 1), 1)})


def test_training_takes_them_from_the_clips_and_drops_them(model):
    x = clips(256)
    inputs = model.corrupted(
        {"video": x, "label": np.zeros(256, "int32")}, model._step_keys(0, 3), {"given": 0.3, "label": 0.0}
    )
    given, unknown = to_numpy(inputs["given"]), to_numpy(inputs["unknown"])
    counts = given[:, :, 0, 0, 1].sum(1)
    shares = np.bincount(counts.astype(int), minlength=3) / 256
    np.testing.assert_allclose(shares, [0.3, 0.35, 0.35], atol=4.5 * np.sqrt(0.35 * 0.65 / 256))
    np.testing.assert_array_equal(unknown[..., 0], 1.0 - given[..., 1])
    np.testing.assert_allclose(given[..., :1], (x / 127.5 - 1.0) * given[..., 1:], atol=1e-6)


def test_given_frames_stand_in_for_noise_and_count_in_no_loss(model):
    x = clips(6)
    data = {"video": x, "label": np.arange(6) % 3}
    inputs = model.corrupted(data, model._step_keys(0, 1), dict.fromkeys(model.conditions, 0.0))
    changed = dict(inputs)
    given = to_numpy(inputs["given"])[..., 1:] > 0
    for name in ("z_t", "target"):
        changed[name] = ops.where(ops.convert_to_tensor(given), 7.0, inputs[name])
    expected, found = (to_numpy(model.step_losses(each, False)) for each in (inputs, changed))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    error = to_numpy(model._predict(inputs, training=False, seed=None)) - to_numpy(inputs["target"])
    by_hand = [np.mean(np.square(error[i][~given[i][..., 0]])) for i in range(6)]
    np.testing.assert_allclose(expected, to_numpy(inputs["weight"]) * by_hand, rtol=1e-4)


@pytest.mark.parametrize("guidance", [None, Guidance(2.0), Guidance(2.0, one_batch=False)])
def test_given_frames_come_back(model, guidance):
    first = clips(3)[:, :2]
    options = {"conditions": {"given": first}, "num_steps": 4, "guidance": guidance, "seed": 3}
    drawn = model.generate([0, 1, 2], **options)
    np.testing.assert_array_equal(drawn[:, :2], first)
    other = model.generate([0, 1, 2], **options | {"conditions": {"given": 255 - first}})
    assert (drawn[:, 2:] != other[:, 2:]).mean() > 0.5
    whole = model.generate([0, 1, 2], **options | {"conditions": None})
    assert (whole[:, :2] != first).mean() > 0.5


def test_clips_of_more_frames_go_on_from_the_last_ones(model):
    first = clips(5)[:, :2]
    options = {"num_steps": 3, "batch_size": 2, "seed": 2**32 - 5}
    drawn = model.generate(np.arange(5) % 3, conditions={"given": first}, num_frames=7, **options)
    assert drawn.shape == (5, 7, *CLIP[1:])
    window = model.generate(np.arange(5) % 3, conditions={"given": first}, **options)
    np.testing.assert_array_equal(drawn[:, :4], window)
    seed = (options["seed"] + 0x9E3779B1) % 2**32
    then = model.generate(np.arange(5) % 3, conditions={"given": window[:, -2:]}, **options | {"seed": seed})
    assert np.abs(drawn[:, 2:6].astype(int) - then).max() <= 1
    told = []
    seen = options | {"progress": lambda done, total: told.append((done, total))}
    again = model.generate(np.arange(5) % 3, conditions={"given": first}, num_frames=7, **seen)
    np.testing.assert_array_equal(again, drawn)
    assert told == [(step, 27) for step in range(1, 28)]  # three batches, of three windows of three steps
    part = model.generate([1, 2], conditions={"given": first[1:3]}, num_frames=7, first_image=1, **options)
    assert np.abs(drawn[1:3].astype(int) - part).max() <= 1


@pytest.mark.parametrize("num_frames, windows", [(4, 1), (5, 2), (6, 2), (7, 3)])
def test_progress_counts_all_windows(model, num_frames, windows):
    seen, options = [], {"num_frames": num_frames, "num_steps": 2, "batch_size": 2}
    model.generate([0, 1, 2], **options, progress=lambda *counts: seen.append(counts))
    assert seen == [(done, 4 * windows) for done in range(1, 4 * windows + 1)]  # two batches of two steps


def test_clips_of_no_class_go_on_too(model):
    options = {"num_images": 2, "num_steps": 2}
    drawn = model.generate(conditions={"given": clips(2)[:, :2]}, num_frames=6, **options)
    then = model.generate(conditions={"given": drawn[:, 2:4]}, seed=0x9E3779B1, **options)
    assert np.abs(drawn[:, 2:].astype(int) - then).max() <= 1


def test_numbers_of_frames_that_cannot_be_are_refused(model):
    first = {"given": clips(1)[:, :1]}
    with pytest.raises(ValueError, match="num_frames, of a model of 4 frames, must be an integer >= 4, got 3"):
        model.generate([0], conditions=first, num_frames=3)
    with pytest.raises(ValueError, match="goes without init and known"):
        model.generate([0], conditions=first, num_frames=8, known=clips(1), mask=np.ones(CLIP, bool))
    with pytest.raises(ValueError, match="goes without given in negative_conditions, which would be of one window"):
        model.generate([0], num_frames=8, negative_conditions=first, guidance=Guidance(2.0))
    with pytest.raises(ValueError, match="takes no num_frames"):
        model.trajectory([0], conditions=first, num_frames=8, num_steps=2, frames=2)
    plain = model_of(ResidualUViT(CLIP, 1, 3, 8, [Level("res", 8, 1)]))
    with pytest.raises(ValueError, match="models with the condition keras_sid2.conditions.Frames"):
        plain.generate([0], num_frames=8)


def test_it_trains_in_microbatches_too_and_a_file_goes_on(model, tmp_path):
    x, labels = clips(8), np.arange(8) % 3
    network = small_network((1, 2), LEVELS[:1])
    training = model_of(network, recipe=type(model.recipe)(accumulation_steps=2))
    history = training.fit({"video": x, "label": labels}, batch_size=4, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    training.save(tmp_path / "clips.keras")
    loaded = keras.saving.load_model(tmp_path / "clips.keras")
    assert loaded.conditions == training.conditions
    options = {"conditions": {"given": x[:2, :1]}, "num_steps": 3}
    np.testing.assert_array_equal(loaded.generate([0, 1], **options), training.generate([0, 1], **options))


def still_clips(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 4, 4, 4, 1], dark but for the same row in all frames, and that row."""
    rng = np.random.default_rng(seed)
    rows, made = rng.integers(4, size=count), rng.integers(0, 40, (count, *CLIP))
    made[np.arange(count), :, rows] += 200
    return made.astype("uint8"), rows


def test_the_rest_follows_the_given_frames():
    keras.utils.set_random_seed(1)
    network = ResidualUViT(CLIP, 1, None, 32, SEEING, conditions={"given": Frames(CLIP, 1)})
    model = model_of(network, recipe=AdamRecipe(learning_rate=2e-3, warmup_steps=20, ema_decay=0.95))
    model.fit({"video": still_clips(64, seed=0)[0]}, batch_size=16, epochs=120, verbose=0)
    whole, rows = still_clips(64, seed=1)
    for given, share in (({"given": whole[:, :1]}, (0.9, 1.0)), (None, (0.0, 0.6))):
        drawn = model.generate(conditions=given, num_images=64, num_steps=16)
        found = drawn.astype(float).mean((3, 4)).argmax(2)
        assert share[0] <= (found[:, 1:] == rows[:, None]).mean() <= share[1]


# A Gaussian over frames, alike at each of 2 x 2 pixels: mean 0.1, a random walk's covariance.
_FRAMES, _MEAN = 5, 0.1
_COVARIANCE = 0.02 * np.minimum.outer(np.arange(1, _FRAMES + 1), np.arange(1, _FRAMES + 1))
_AHEAD = (_COVARIANCE[2:, :2] @ np.linalg.inv(_COVARIANCE[:2, :2])).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class GaussianFrames(keras.Model):
    """E[x | z_t, given frames] in closed form, for 0 or 2 given frames."""

    sample_shape = (_FRAMES, 2, 2, 1)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    @property
    def conditions(self):
        return {"given": Frames(self.sample_shape, 2)}

    def call(self, inputs):
        x, mask = self.conditions["given"].known(inputs["given"])
        z_t, logsnr = inputs["z_t"], inputs["logsnr"]
        seen = ops.any(mask, axis=(1, 2, 3, 4), keepdims=True)
        without = self._estimate(z_t, logsnr, ops.full_like(z_t, _MEAN), _COVARIANCE)
        ahead = ops.convert_to_tensor(_AHEAD) @ ops.reshape(x[:, :2] - _MEAN, (-1, 2, 4))
        mean = _MEAN + ops.reshape(ahead, (-1, 3, 2, 2, 1))
        made = self._estimate(z_t[:, 2:], logsnr, mean, _COVARIANCE[2:, 2:] - _AHEAD @ _COVARIANCE[:2, 2:])
        return ops.where(seen, ops.concatenate([x[:, :2], made], axis=1), without)

    def _estimate(self, z_t, logsnr, mean, covariance):
        values, vectors = (ops.convert_to_tensor(part.astype("float32")) for part in np.linalg.eigh(covariance))
        alpha, sigma = (ops.reshape(part, (-1, 1, 1)) for part in alpha_sigma(logsnr))
        apart = ops.transpose(vectors) @ ops.reshape(
            z_t - ops.reshape(alpha, (-1, 1, 1, 1, 1)) * mean, (-1, len(covariance), 4)
        )
        gain = alpha * values[:, None] / (alpha**2 * values[:, None] + sigma**2)
        return mean + ops.reshape(vectors @ (gain * apart), z_t.shape)


def test_a_network_of_one_s_own_with_frames_of_other_clips_is_refused():
    other = property(lambda self: {"given": Frames((5, 2, 2, 1), 2)})
    with pytest.raises(ValueError, match=r"samples' shape, \[4, 4, 4, 1\]; given is of clips \[5, 2, 2, 1\]"):
        SiD2Model(type("Other", (GaussianFrames,), {"conditions": other, "sample_shape": CLIP})(), CosineSchedule())


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m"])
def test_what_is_made_is_of_the_conditional(sampler):
    model = SiD2Model(GaussianFrames(), CosineSchedule(), SigmoidWeighting(0.0), prediction="x")
    first = np.broadcast_to(np.float32([0.4, 0.3]).reshape(1, 2, 1, 1, 1), (512, 2, 2, 2, 1))
    options = {"num_steps": 128, "sampler": sampler, "dtype": "float32", "batch_size": 512}
    drawn = model.generate(conditions={"given": first}, **options)
    np.testing.assert_allclose(drawn[:, :2], first, atol=1e-6)
    made = drawn[:, 2:].transpose(0, 2, 3, 4, 1).reshape(-1, 3)
    # A random walk goes on from the last given frame: the same mean, and variances that grow from there.
    mean, covariance = np.full(3, 0.3), 0.02 * np.minimum.outer(np.arange(1, 4), np.arange(1, 4))
    error = np.sqrt(np.diag(covariance) / len(made))
    assert (np.abs(made.mean(0) - mean) < 4.5 * error + 0.005).all()
    np.testing.assert_allclose(np.cov(made.T), covariance, rtol=0.1, atol=0.002)
