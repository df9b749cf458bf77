"""Reading through grain: no TensorFlow, the batches of make_dataset, and `fit` takes it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import shard_helpers as make
from PIL import Image

import pipelines


@pytest.mark.backend_free
def test_tensorflow_is_not_imported(data_dir):
    """Neither by preparing, checking and describing, nor by reading."""
    program = f"""
import sys, pipelines
directory = {str(data_dir / "digits")!r}
batch = next(iter(pipelines.make_grain_dataset(directory, batch_size=8)))
assert batch["image"].shape == (8, 8, 8, 1) and batch["label"].dtype == "int32", batch
pipelines.verify(directory)
pipelines.prepare("digits", {str(data_dir / "again")!r})
print("tensorflow" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert ran.stdout.strip() == "False", ran.stderr


@pytest.mark.backend_free
def test_the_same_bytes_as_make_dataset(tmp_path):
    """Crops, resizing and flips of JPEGs and PNGs of many sizes."""
    source = tmp_path / "photos"
    source.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        pixels = rng.integers(0, 256, (*rng.integers(20, 120, 2), 3), np.uint8)
        Image.fromarray(pixels).save(source / f"{number}.{('jpg', 'png')[number % 2]}")
    directory = pipelines.prepare("image_folder", tmp_path / "data", source=source, encoding="original")
    for crop in ("center", "random"):
        arguments = {"batch_size": 10, "image_size": (32, 48), "crop": crop, "flip": True, "start_step": 3}
        batches = pipelines.make_dataset(directory, **arguments).take(6)
        others = itertools.islice(iter(pipelines.make_grain_dataset(directory, **arguments)), 6)
        for batch, other in zip(batches, others, strict=True):
            np.testing.assert_array_equal(batch["image"], other["image"])
            assert set(other) == {"image"} and other["image"].shape == (10, 32, 48, 3)


@pytest.mark.backend_free
def test_bad_records(tmp_path):
    records = [make.record(make.png(picture), number) for number, picture in enumerate(make.pictures(6))]
    path = make.write_shard(tmp_path / "x.tfrecord", [*records[:3], b"\xff", *records[3:]])
    arguments = {"batch_size": 7, "image_size": 8, "training": False}
    with pytest.raises(ValueError, match="x.tfrecord, record 3: is no tf.train.Example"):
        list(pipelines.make_grain_dataset(path, **arguments))
    (batch,) = pipelines.make_grain_dataset(path, max_bad_records=1, **arguments)
    np.testing.assert_array_equal(batch["label"], range(6))


@pytest.mark.backend_free
def test_wrong_argument(data_dir):
    with pytest.raises(TypeError, match="shuffle"):
        pipelines.make_grain_dataset(data_dir / "digits", batch_size=8, shuffle=True)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
        pipelines.make_grain_dataset(data_dir / "digits", batch_size=0)


def test_fit_takes_it(data_dir):
    import keras

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def pairs(**arguments):
        batches = pipelines.make_grain_dataset(data_dir / "digits", batch_size=32, **arguments)
        return batches.map(lambda batch: (batch["image"].astype("float32") / 255, batch["label"]))

    first = model.fit(pairs(), steps_per_epoch=20, epochs=1, verbose=0).history["loss"][0]
    assert model.fit(pairs(), steps_per_epoch=60, epochs=3, verbose=0).history["loss"][-1] < first


def test_augmentation_is_a_function_of_seed_and_step(data_dir):
    import keras

    layers = [keras.layers.RandomRotation(0.1), keras.layers.RandomBrightness(0.3), keras.layers.RandomErasing()]
    arguments = {"batch_size": 16, "seed": 4, "augment": layers}

    def images(**others):
        dataset = pipelines.make_dataset(data_dir / "digits", **(arguments | others))
        return [batch["image"].numpy() for batch in dataset.take(4)]

    whole, plain = images(), images(augment=())
    assert whole[0].dtype == np.uint8 and whole[0].shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(whole, images())
    np.testing.assert_array_equal(whole[2:], images(start_step=2)[:2])
    assert np.mean(whole[0] != plain[0]) > 0.3
    assert not np.array_equal(images(seed=5), whole)


@pytest.mark.backend_free
def test_layers_that_cannot_be_used(data_dir):
    import keras

    for layer, sentence in (
        (keras.layers.RandAugment(), "one of RandAugment draws from its own random state"),
        (keras.layers.RandomCrop(4, 4), r"must keep the shape of images: RandomCrop make \(4, 4, 1\) of \(8, 8, 1\)"),
        ("rotation", "takes Keras's image preprocessing layers, as keras.layers.RandomRotation, got 'rotation'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            pipelines.make_dataset(data_dir / "digits", batch_size=8, augment=[layer])
    with pytest.raises(ValueError, match="augment is for training=True"):
        pipelines.make_dataset(data_dir / "digits", batch_size=8, training=False, augment=[keras.layers.RandomFlip()])
