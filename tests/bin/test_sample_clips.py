"""sid2-sample and sid2-evaluate of clips and of conditions."""

import re

import numpy as np
import pytest
from evaluate_helpers import evaluate
from PIL import Image
from sample_helpers import draw, images_of

import pipelines
from keras_sid2 import Level, ResidualUViT, SiD2Model, SigmoidWeighting
from keras_sid2.bin.measuring import conditions_of_real, open_images
from keras_sid2.bin.sample_request import Request
from keras_sid2.checkpoints import load_model
from keras_sid2.conditions import Frames, Vector
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.evaluation import Features, Measurement, frechet_distance
from keras_sid2.io.image_reading import read_images
from keras_sid2.parallel import processes

pytestmark = pytest.mark.backend_free  # clips that go on are in test_frames.py, on each backend
CLIP = (3, 4, 4, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of clips that go on from a frame, clips.keras, and such frames."""
    path = tmp_path_factory.mktemp("clips")
    conditions = {"given": Frames(CLIP, 1), "wind": Vector(2)}
    network = ResidualUViT(CLIP, 1, None, 8, [Level("res", 8, 1)], conditions=conditions)
    for v in network.trainable_variables:
        v.assign(np.random.default_rng(1).normal(0.0, 0.1, v.shape))
    SiD2Model(network, CosineSchedule(), SigmoidWeighting(0.0)).save(path / "clips.keras")
    first = np.random.default_rng(0).integers(0, 256, (4, 1, *CLIP[1:])).astype("uint8")
    np.savez(path / "first.npz", first)
    np.save(path / "wind.npy", np.float32([0.5, -0.5]))
    return path


def request(folder, out, *more):
    files = (f"--condition=given={folder / 'first.npz'}", f"--condition=wind={folder / 'wind.npy'}")
    return f"--weights={folder / 'clips.keras'}", *files, "--num_images=4", "--num_steps=2", f"--out={out}", *more


def test_given_frames_go_on_and_the_clips_move(folder, tmp_path):
    how = request(folder, tmp_path / "a", "--num_frames=6", "--format=grid,npz,gif,webp")
    code, said = draw(*how)
    assert code == 0 and re.search(r"4 clips: \S*a.png, \S*a.npz, \S*a.gif", said.replace("\n", " "))
    clips = read_images(tmp_path / "a.npz")
    assert clips.shape == (4, 6, *CLIP[1:])
    np.testing.assert_array_equal(clips[:, :1], np.load(folder / "first.npz")["arr_0"])
    with Image.open(tmp_path / "a.webp") as animation:
        assert animation.n_frames == 6
        animation.seek(1)
        picture = np.array(animation.convert("L"))
        np.testing.assert_array_equal(picture[2:66:16, 2:66:16], clips[0, 1, ..., 0])  # 16 times as large
    assert "4 of 4 images are there already" in draw(*how)[1]


def test_a_file_that_is_read_is_not_written_over(folder):
    before = (folder / "first.npz").read_bytes()
    with pytest.raises(ValueError, match=r"--out=\S*first would write over \S*first.npz, which is read"):
        draw(*request(folder, folder / "first", "--format=npz"))
    assert (folder / "first.npz").read_bytes() == before


def test_clips_are_those_of_generate(folder, tmp_path):
    draw(*request(folder, tmp_path / "a", "--format=npz", "--first_image=2", "--batch_size=3"))
    given = {"given": np.load(folder / "first.npz")["arr_0"], "wind": np.load(folder / "wind.npy")}
    model = load_model(folder / "clips.keras")
    drawn = model.generate(conditions=given, num_images=4, num_steps=2, first_image=2, batch_size=3)
    assert np.abs(np.array(images_of(tmp_path / "a.npz")) - drawn.astype(int)).max() <= 1


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--condition=given",), "--condition must be name=FILE, once a name, got 'given'"),
        (("--condition=given={f}/first.npz", "--condition=given={f}/first.npz"), "once a name"),
        (("--condition=given={f}/none.npz",), "none.npz is no file"),
        (("--condition=given={f}/clips.keras",), r"is no \.npy or \.npz file of numbers|must hold an array arr_0"),
        (("--condition=rain={f}/wind.npy",), "--condition names rain, and this model's conditions are given, wind"),
        (("--condition=given={f}/wind.npy",), "given must be 1 frames"),
        (("--condition=given={f}/first.npz", "--num_images=3"), "must hold one, or one for each of the 3, got 4"),
        (("--num_frames=2",), "num_frames, of a model of 3 frames, must be an integer >= 3, got 2"),
        (("--frames=2", "--num_steps=4", "--format=gif"), "--frames is of animations of images"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(folder, tmp_path, flags, sentence):
    given = (flag.format(f=folder) for flag in flags)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        draw(f"--weights={folder / 'clips.keras'}", f"--out={tmp_path / 'a'}", "--num_steps=2", *given)
    assert not list(tmp_path.iterdir())


def of_pixels() -> Features:
    """Means of the four quarters of the last frame."""

    def extract(clips):
        quarters = clips[:, -1].reshape(len(clips), 2, 2, 2, 2, -1)
        return quarters.mean(axis=(2, 4, 5)).reshape(len(clips), 4)

    return Features(name="quarters", digest="", rule="", extract=extract)


def test_processes_draw_for_the_same_real_clips(folder, tmp_path, monkeypatch):
    videos = np.random.default_rng(0).integers(0, 256, (11, *CLIP)).astype("uint8")
    np.savez(tmp_path / "real.npz", videos=videos)
    data = pipelines.prepare("npz", source=tmp_path / "real.npz", data_dir=tmp_path / "data", channels=1)
    conditions = {"given": Frames(CLIP, 1)}

    def parts(count):
        """What each of so many processes draws for, one after another."""
        monkeypatch.setattr(processes, "count", lambda: count)
        for index in range(count):
            monkeypatch.setattr(processes, "index", lambda index=index: index)
            given = conditions_of_real(conditions, open_images(str(data), features="i3d"), 9)
            request = Request(load_model(folder / "clips.keras"), 9, 0, None, {"batch_size": 2}, {}, given)
            yield request.part(*processes.share(9, 2)).conditions["given"]

    (alone,) = parts(1)
    stored = np.concatenate(list(open_images(str(data), features="i3d").batches()))  # in an order of its own
    np.testing.assert_array_equal(alone, stored[:9, :1])
    assert {clip.tobytes() for clip in stored} == {clip.tobytes() for clip in videos}
    for count in (2, 3):
        np.testing.assert_array_equal(np.concatenate(list(parts(count))), alone)


def test_clips_are_measured_for_the_conditions_of_real_ones(folder, tmp_path):
    rng = np.random.default_rng(0)
    real = {
        "videos": rng.integers(0, 256, (24, *CLIP)).astype("uint8"),
        "wind": rng.normal(size=(24, 2)).astype("float32"),
    }
    np.savez(tmp_path / "real.npz", **real)
    data = pipelines.prepare("npz", source=tmp_path / "real.npz", data_dir=tmp_path / "data", channels=1)
    how = (f"--reference={data}", "--features=test_sample_clips:of_pixels", "--num_steps=2")
    how = (f"--weights={folder / 'clips.keras'}", *how)
    assert evaluate(tmp_path, f"--out={tmp_path / 'a'}", "--num_images=30", *how) == 0
    found = Measurement.read(tmp_path / "a.json")
    rows = np.arange(30) % 24
    given = {"given": real["videos"][rows, :1], "wind": real["wind"][rows]}
    drawn = load_model(folder / "clips.keras").generate(conditions=given, num_steps=2)
    features = of_pixels()
    expected = [frechet_distance(features(drawn)[0], features(real["videos"])[0])]
    np.testing.assert_allclose(found.metrics["frechet"], expected[0], rtol=1e-3)
    assert "conditions_of=npz:train/real-png" in found.signature()
    drawn = load_model(folder / "clips.keras").generate(conditions=given, num_steps=2, seed=1)
    expected.append(frechet_distance(features(drawn)[0], features(real["videos"])[0]))
    assert evaluate(tmp_path, f"--out={tmp_path / 'folds'}", "--num_images=30", "--folds=2", *how) == 0
    found = Measurement.read(tmp_path / "folds.json")
    np.testing.assert_allclose([found.metrics["frechet_1"], found.metrics["frechet_2"]], expected, rtol=1e-3)
    np.testing.assert_allclose(found.metrics["frechet"], np.mean(expected), rtol=1e-3)
    assert found.measured["folds"] == 2
    for flags, sentence in (
        (("--features=inception",), "What the model draws holds clips, and --features=inception are of images"),
        (("--features=i3d",), "--features=i3d needs --i3d_weights"),
        (("--i3d_weights=x.npz",), "--i3d_weights goes with --features=i3d"),
        (("--clip_size=64",), "--clip_size goes with --features=i3d"),
        (("--folds=2", "--sweep"), "--folds draws a model's samples several times: leave out"),
        (("--folds=0",), "--folds must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            evaluate(tmp_path, f"--out={tmp_path / 'b'}", *how, *flags)
