"""sid2-train on data that is not as it should be: bad records, images of many sizes, clips."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import pipelines
from keras_sid2.bin import train
from keras_sid2.bin.run_callbacks import RunCallbacks
from keras_sid2.bin.run_context import RunContext
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.checkpoints import load_model
from keras_sid2.conditions import Vector
from keras_sid2.training import preset
from keras_sid2.training.preset import find_preset, register_preset
from keras_sid2.training.proposal import proposed_preset


@pytest.fixture(autouse=True)
def small_preset():
    digits = find_preset("sid2_digits")
    levels = ({"kind": "res", "channels": 32, "blocks": 1}, {"kind": "transformer", "channels": 32, "blocks": 1})
    network = {**digits.network, "embedding_dim": 32, "levels": levels}
    register_preset(dataclasses.replace(digits, name="tiny_digits", network=network, batch_size=16))
    yield
    del preset._REGISTRY["tiny_digits"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return pipelines.prepare("digits", data_dir=str(tmp_path_factory.mktemp("data")))


def run(data, workdir, **changes):
    settings = {"preset": "tiny_digits", "data": str(data), "workdir": str(workdir), "steps": 4, "sample_every": 0}
    every = {"log_every": 2, "checkpoint_every": 2, "eval_every": 2}
    console = Console(record=True, width=200, file=open("/dev/null", "w"))
    TrainingRun(TrainSettings(**settings, **{**every, **changes}), console).train()
    return console.export_text()


@pytest.fixture
def damaged(digits, tmp_path):
    """The digits with one flipped bit in each of the first 300 records of the training split's first shard."""
    shutil.copytree(digits, tmp_path / "digits")
    shard = next((tmp_path / "digits").glob("digits-train.tfrecord-00000*"))
    offsets = np.load(tmp_path / "digits" / "train.offsets.npy", allow_pickle=False)
    content = bytearray(shard.read_bytes())
    for start in offsets[:300]:
        content[start + 30] ^= 1
    shard.write_bytes(content)
    return tmp_path / "digits"


def test_bad_records_stop_training_with_one_sentence(damaged, tmp_path):
    with pytest.raises(pipelines.BadRecord, match=r"^digits-train.tfrecord-00000.*, record \d+: its CRC does") as e:
        run(damaged, tmp_path / "run")
    assert "\n" not in str(e.value) and "max_bad_records=N would skip" in str(e.value)


def test_skipped_records_are_counted_in_the_log(damaged, tmp_path):
    said = run(damaged, tmp_path / "run", max_bad_records=300)
    assert "bad records skipped" in said
    with pytest.raises(pipelines.BadRecord, match=r"\d records are bad, and max_bad_records is 2"):
        run(damaged, tmp_path / "other", max_bad_records=2)


@pytest.mark.backend_free
def test_images_of_many_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name in range(10):
        (tmp_path / "photos" / str(name)).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, rng.integers(8, 40, 2), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / str(name) / f"{number}.png")
    settings = {"source": tmp_path / "photos", "encoding": "original", "channels": 1}
    data = pipelines.prepare("image_folder", tmp_path / "data", **settings)
    assert "loss" in run(data, tmp_path / "run", crop="random", eval_split="train")
    assert "loss" in run(data, tmp_path / "plain")  # in the middle, where nothing is said


@pytest.mark.backend_free
def test_cropping_must_be_asked_for_where_all_images_are_alike(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(20) % 10)
    data = pipelines.prepare("npz", tmp_path / "data", source=tmp_path / "images.npz", channels=1)
    with pytest.raises(
        ValueError, match=r"is for images \(8, 8, 1\) of 10 classes, and .* has images \(16, 16, 1\) of 10"
    ):
        run(data, tmp_path / "run")
    assert "loss" in run(data, tmp_path / "run", crop="center")


@pytest.mark.backend_free
def test_clips_train_in_little_and_go_on_from_given_frames(tmp_path):
    clips = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8, 3)).astype("uint8")
    np.savez(tmp_path / "clips.npz", videos=clips)
    pipelines.prepare("npz", source=tmp_path / "clips.npz", data_dir=tmp_path / "data")
    asked = {"data": str(tmp_path / "data" / "npz"), "workdir": str(tmp_path / "run"), "smoke": True}
    console = Console(record=True, width=200, file=open("/dev/null", "w"))
    run = TrainingRun(TrainSettings(**asked, given_frames=1), console)
    run.train()
    said = console.export_text()
    assert "--smoke: four steps of a shrunken network" in said and "steps 0 to 4 of 2 images" in said
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 1
    with pytest.raises(ValueError, match="run holds what --smoke trained before, which would not be tried anew"):
        TrainingRun(TrainSettings(**asked, given_frames=1), console).train()
    with pytest.raises(ValueError, match="devices"):
        TrainingRun(TrainSettings(**asked | {"workdir": str(tmp_path / "none")}, mesh="data:2"), console).train()
    assert not (tmp_path / "none").exists()
    model = load_model(*(tmp_path / "run" / "checkpoints").glob("step_*4"))
    drawn = model.generate(conditions={"given": clips[:2, :1]}, num_steps=2, num_frames=5)
    assert drawn.shape == (2, 5, 8, 8, 3) and (drawn[:, 0] == clips[:2, 0]).all()
    with pytest.raises(ValueError, match="--measure_features=inception are of images, and --data=.* has clips"):
        TrainingRun(TrainSettings(**asked | {"workdir": str(tmp_path / "other")}, measure_every=4), console)
    assert not (tmp_path / "other").exists() or not list((tmp_path / "other").glob("*.json"))
    with pytest.raises(ValueError, match="--given_frames=1 is of clips, and the data are images"):
        proposed_preset((8, 8, 3), None, given_frames=1)
    with pytest.raises(ValueError, match="--given_frames is of a proposed network"):
        TrainSettings(**asked, preset="tiny_digits", given_frames=1).experiment()
    with pytest.raises(ValueError, match="--verify_resume and --smoke each say how many steps"):
        train._train(TrainSettings(**asked), 3)


@pytest.mark.backend_free
def test_samples_are_drawn_for_what_the_first_examples_have(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 8, 8, 1)).astype("uint8")
    wind = rng.normal(size=(5, 2)).astype("float32")
    np.savez(tmp_path / "real.npz", images=images, labels=np.int64([2, 0, 1, 1, 2]), wind=wind)
    data = pipelines.prepare("npz", source=tmp_path / "real.npz", data_dir=tmp_path / "data", channels=1)
    small = find_preset("tiny_digits")
    network = {**small.network, "num_classes": 3, "conditions": {"wind": Vector(2)}}
    register_preset(dataclasses.replace(small, name="tiny_wind", network=network))
    try:
        settings = TrainSettings(preset="tiny_wind", data=str(data), workdir=str(tmp_path / "run"), batch_size=4)
        asked = RunCallbacks(RunContext(settings, Console(file=open("/dev/null", "w"))))._drawn_for(6, 3)
    finally:
        del preset._REGISTRY["tiny_wind"]
    batch = next(pipelines.make_dataset(str(data), batch_size=4, training=False).as_numpy_iterator())
    rows = np.arange(6) % 4
    np.testing.assert_array_equal(asked["generate_options"]["conditions"]["wind"], batch["wind"][rows])
    assert asked["labels"] == batch["label"][rows].tolist() and asked["num_images"] == 6
