"""Reading: every example once, in an order that is a function of (seed, position), from any step on."""

import itertools

import numpy as np
import pytest

import pipelines

pytestmark = pytest.mark.backend_free

TRAIN, TEST = 1617, 180  # examples of the digits


def take(number, **arguments):
    """The first `number` batches, each as (images, labels)."""
    dataset = pipelines.make_dataset("digits", **arguments)
    return [(batch["image"].numpy(), batch["label"].numpy()) for batch in itertools.islice(dataset, number)]


def assert_same(batches, others):
    assert len(batches) == len(others)
    for (images, labels), (other_images, other_labels) in zip(batches, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def multiset(images, labels):
    return sorted(image.tobytes() + bytes([label]) for image, label in zip(images, labels, strict=True))


def joined(batches):
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


@pytest.fixture(scope="module")
def in_file_order(data_dir):
    return joined(take(None, data_dir=data_dir, batch_size=100, training=False))


def test_schema(data_dir):
    import tensorflow as tf

    digits = pipelines.make_dataset("digits", data_dir=data_dir, batch_size=32)
    assert digits.element_spec == {
        "image": tf.TensorSpec((32, 8, 8, 1), tf.uint8),
        "label": tf.TensorSpec((32,), tf.int32),
    }
    assert digits.cardinality() == tf.data.INFINITE_CARDINALITY
    patches = pipelines.make_dataset("photo_patches", data_dir=data_dir, batch_size=4, image_size=64, training=False)
    assert patches.element_spec == {"image": tf.TensorSpec((None, 64, 64, 3), tf.uint8)}
    assert patches.cardinality() == 5244 // 4


def test_each_epoch_holds_each_example_once_and_is_shuffled_anew(data_dir, in_file_order):
    # 3 epochs are 49 batches of 99, and one is not a whole number of them.
    images, labels = joined(take(49, data_dir=data_dir, batch_size=99, seed=3))
    epochs = [(images[i : i + TRAIN], labels[i : i + TRAIN]) for i in range(0, len(images), TRAIN)]
    assert [len(labels) for _, labels in epochs] == [TRAIN] * 3
    for epoch in epochs:
        assert multiset(*epoch) == multiset(*in_file_order)
    for first, second in itertools.combinations([*epochs, in_file_order], 2):
        assert np.mean(first[1] == second[1]) < 0.2  # labels agree by chance only: 10 classes


def test_order_is_a_function_of_the_seed(data_dir):
    import tensorflow as tf

    arguments = {"data_dir": data_dir, "batch_size": 100, "flip": True}
    first = take(20, seed=5, **arguments)
    try:
        tf.random.set_seed(123)  # of no influence
        assert_same(first, take(20, seed=5, **arguments))
        assert_same(first, take(20, seed=np.int64(5), **arguments))
    finally:
        tf.random.set_seed(None)
    assert any(
        (labels != others).any() for (_, labels), (_, others) in zip(first, take(20, seed=6, **arguments), strict=True)
    )


def test_neighbouring_seeds_are_not_shifted_copies(data_dir):
    # Epoch 0 of seed s + 1 must not be epoch 1 of seed s.
    _, later = joined(take(2 * TRAIN // 77, data_dir=data_dir, batch_size=77, seed=0))
    _, other = joined(take(TRAIN // 77, data_dir=data_dir, batch_size=77, seed=1))
    assert np.mean(later[TRAIN:] == other) < 0.2


@pytest.mark.parametrize("start_step", [0, 1, 12, 13, 25, 26, 40])  # an epoch is 12.6 batches
def test_start_step_gives_what_an_uninterrupted_run_gives(data_dir, start_step):
    arguments = {"data_dir": data_dir, "batch_size": 128, "seed": 11, "flip": True}
    whole = take(45, **arguments)
    assert_same(whole[start_step : start_step + 5], take(5, start_step=start_step, **arguments))


def test_start_step_with_batches_larger_than_the_split(data_dir):
    arguments = {"data_dir": data_dir, "split": "test", "batch_size": 2 * TEST + 7, "seed": 1}
    assert_same(take(4, **arguments)[2:], take(2, start_step=2, **arguments))


def test_distant_start_is_cheap(data_dir):
    ((images, _),) = take(1, data_dir=data_dir, batch_size=64, start_step=10**12)
    assert images.shape == (64, 8, 8, 1)


def test_each_iteration_starts_anew(data_dir):
    dataset = pipelines.make_dataset("digits", data_dir=data_dir, batch_size=64, start_step=30)
    first, second = (next(iter(dataset))["image"].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_evaluation_is_one_pass_in_file_order(data_dir, in_file_order):
    import tensorflow as tf

    shards = sorted(str(path) for path in data_dir.glob("digits/1.0.0/digits-train.tfrecord-*"))
    schema = {"label": tf.io.FixedLenFeature((), tf.int64)}
    labels = [int(tf.io.parse_single_example(record, schema)["label"]) for record in tf.data.TFRecordDataset(shards)]
    np.testing.assert_array_equal(in_file_order[1], labels)
    assert_same([in_file_order], [joined(take(None, data_dir=data_dir, batch_size=64, training=False, seed=9))])


def test_last_batch_of_an_evaluation(data_dir):
    arguments = {"data_dir": data_dir, "split": "test", "batch_size": 50, "training": False}
    assert [len(labels) for _, labels in take(None, **arguments)] == [50, 50, 50, 30]
    assert [len(labels) for _, labels in take(None, drop_remainder=True, **arguments)] == [50, 50, 50]


def test_flip_mirrors_about_half(data_dir):
    arguments = {"data_dir": data_dir, "batch_size": 100, "seed": 2}
    plain, plain_labels = joined(take(20, **arguments))
    flipped, labels = joined(take(20, flip=True, **arguments))
    np.testing.assert_array_equal(labels, plain_labels)
    same = (flipped == plain).all(axis=(1, 2, 3))
    mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 0.45 < np.mean(mirrored & ~same) < 0.55  # 2000 fair coins: 4.5 standard deviations


def test_directories_in_place_of_a_name(data_dir):
    expected = take(2, data_dir=data_dir, batch_size=16)
    for directory in (data_dir / "digits", str(data_dir / "digits" / "1.0.0")):
        dataset = pipelines.make_dataset(directory, batch_size=16)
        assert_same(expected, [(b["image"].numpy(), b["label"].numpy()) for b in dataset.take(2)])


def test_describe(data_dir):
    assert pipelines.describe("digits", split="test", data_dir=data_dir) == pipelines.DatasetDescription(
        name="digits",
        split="test",
        num_examples=TEST,
        image_shape=(8, 8, 1),
        num_classes=10,
        class_names=tuple("0123456789"),
    )
    assert pipelines.describe(data_dir / "photo_patches") == pipelines.DatasetDescription(
        name="photo_patches",
        split="train",
        num_examples=5244,
        image_shape=(64, 64, 3),
        num_classes=None,
        class_names=None,
    )
