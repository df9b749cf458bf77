"""Batches of uint8 from prepared TFRecord shards, in an order that is a function of (seed, position).

The training stream, with n examples in the split and batches of B:

    position p = step * B + row  ->  epoch e = p // n
    epoch e    = shuffle_e(interleave(shards in order_e)),  order_e and shuffle_e drawn from (seed, e)
    stream     = epoch 0, epoch 1, ... end to end, then cut into batches, so a batch may hold parts of two
    flip       = fair coin drawn from (seed, step, row)

so the stream from step k on is that of epoch k * B // n without its first k * B % n records.
"""

import operator
import os
from typing import TYPE_CHECKING, Any

from pipelines.extras import require_tensorflow, require_tfds
from pipelines.locating import Located, locate

if TYPE_CHECKING:
    import tensorflow as tf

# Shards read at once. Part of the order, so it must not depend on the machine.
CYCLE_LENGTH = 16
SHUFFLE_BUFFER = 4096
LAST = 2**63 - 1  # the epochs end here


def make_dataset(
    name_or_dir: str | os.PathLike,
    *,
    split: str = "train",
    batch_size: int,
    image_size: int | tuple[int, int] | None = None,
    training: bool = True,
    seed: int = 0,
    start_step: int = 0,
    data_dir: str | os.PathLike | None = None,
    flip: bool = False,
    shuffle_buffer: int = SHUFFLE_BUFFER,
    drop_remainder: bool | None = None,
) -> "tf.data.Dataset":
    """Returns batches {"image": uint8 [B,H,W,C] in 0..255, "label": int32 [B]}.

    There is no "label" if the data set has none.

    With `training` the stream has no end: every epoch is shuffled anew and holds each example once, and
    batches run on from one epoch into the next, so all are full. The order is a function of `seed` and the
    position alone (and of `shuffle_buffer` and the shards); it depends neither on the machine nor on
    TensorFlow's global seed. `start_step=k` gives exactly the batches that follow the first k. It costs
    reading the records of at most one epoch, undecoded: whole epochs are skipped by arithmetic. Each `iter`
    of the data set begins at `start_step` again.

    Without `training`: each example once, in file order.

    Args:
        name_or_dir: one of `dataset_names()`, or a directory: that of a prepared data set (.../digits/1.0.0),
            one above (.../digits: the newest version), or one further up that holds no other. "./digits" is
            always a directory.
        split: name of the split.
        batch_size: B, at least 1.
        image_size: H = W, or (H, W), that the stored images must have; None: any.
        training: an endless shuffled stream, or one pass.
        seed: of order and flips, in 0..2**63-1.
        start_step: number of batches to leave out at the start; only with `training`.
        data_dir: where a name is looked up; None: the directory that tfds uses by default.
        flip: mirror half of the images, left to right; only with `training`.
        shuffle_buffer: number of undecoded records among which the next one is drawn; 1: only the shards
            change places.
        drop_remainder: without `training`, leave out a last batch that is not full (default: no).

    Raises:
        ValueError: an argument of the wrong type or range, an unknown split, images of another size, a
            combination that gives no batch.
        FileNotFoundError: no prepared data set there, or a shard is missing.
        ImportError: tensorflow or tensorflow_datasets is missing.
    """
    batch_size = _integer("batch_size", batch_size, at_least=1)
    seed = _integer("seed", seed, at_least=0)
    start_step = _integer("start_step", start_step, at_least=0)
    shuffle_buffer = _integer("shuffle_buffer", shuffle_buffer, at_least=1)
    if start_step * batch_size > LAST:
        raise ValueError(f"start_step={start_step} with batch_size={batch_size} is beyond example 2**63")
    for name, value in {"training": training, "flip": flip}.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
    if drop_remainder is not None and not isinstance(drop_remainder, bool):
        raise ValueError(f"drop_remainder must be True, False or None, got {drop_remainder!r}")
    if not training and (start_step or flip):
        raise ValueError(f"start_step and flip are for training=True, got start_step={start_step}, flip={flip}")
    source = locate(name_or_dir, split=split, data_dir=data_dir)
    _check_image_size(source, image_size)
    if training:
        return _training_stream(source, batch_size, seed, start_step, shuffle_buffer, flip)
    return _one_pass(source, batch_size, bool(drop_remainder))


def _training_stream(
    source: Located, batch_size: int, seed: int, start_step: int, shuffle_buffer: int, flip: bool
) -> "tf.data.Dataset":
    tf = require_tensorflow()
    num_examples = source.description.num_examples
    order_key, shuffle_key, flip_key = _keys(seed, 3)

    def epoch(number: Any) -> "tf.data.Dataset":
        # Dataset.shuffle mixes in the seed of the graph it is traced in, which would be the user's global
        # one. Here it is this function's own graph, so nothing outside is changed.
        tf.random.set_seed(1)
        order = tf.random.experimental.stateless_shuffle(source.shards, tf.random.fold_in(order_key, number))
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset,
            cycle_length=min(CYCLE_LENGTH, len(source.shards)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        # A record too few or too many would shift all that follow, and start_step would not keep its word.
        records = records.apply(tf.data.experimental.assert_cardinality(num_examples))
        shuffle_seed = tf.random.stateless_uniform(
            (), tf.random.fold_in(shuffle_key, number), minval=0, maxval=2**31 - 1, dtype=tf.int64
        )
        return records.shuffle(min(shuffle_buffer, num_examples), seed=shuffle_seed, reshuffle_each_iteration=False)

    first_epoch, rest = divmod(start_step * batch_size, num_examples)
    records = tf.data.Dataset.range(first_epoch, LAST).flat_map(epoch).skip(rest)
    batches = _decoded(source, records).batch(batch_size, drop_remainder=True)
    if flip:
        batches = _half_mirrored(batches, start_step, flip_key)
    return _finished(batches, tf.data.INFINITE_CARDINALITY)


def _one_pass(source: Located, batch_size: int, drop_remainder: bool) -> "tf.data.Dataset":
    tf = require_tensorflow()
    num_examples = source.description.num_examples
    if drop_remainder and batch_size > num_examples:
        raise ValueError(
            f"batch_size={batch_size} with drop_remainder=True gives no batch: "
            f"{source.description.name} has {num_examples} examples in {source.description.split}"
        )
    records = tf.data.TFRecordDataset(source.shards)
    batches = _decoded(source, records).batch(batch_size, drop_remainder=drop_remainder)
    return _finished(batches, num_examples // batch_size if drop_remainder else -(-num_examples // batch_size))


def _decoded(source: Located, records: "tf.data.Dataset") -> "tf.data.Dataset":
    """Records [] string -> {"image": uint8 [H,W,C], "label": int32 []}."""
    tf = require_tensorflow()
    features = require_tfds().features.FeaturesDict(source.features)

    def decode(record: Any) -> dict[str, Any]:
        example = features.deserialize_example(record)
        return {key: tf.cast(value, tf.int32) if key == "label" else value for key, value in example.items()}

    return records.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _half_mirrored(batches: "tf.data.Dataset", start_step: int, key: Any) -> "tf.data.Dataset":
    """Mirrors each image left to right with probability 1/2; the first batch is that of `start_step`."""
    tf = require_tensorflow()

    def flip(step: Any, batch: dict[str, Any]) -> dict[str, Any]:
        images = batch["image"]
        mirror = tf.random.stateless_uniform((images.shape[0], 1, 1, 1), tf.random.fold_in(key, step)) < 0.5
        return batch | {"image": tf.where(mirror, tf.reverse(images, axis=[2]), images)}

    return batches.enumerate(start=start_step).map(flip, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _finished(batches: "tf.data.Dataset", num_batches: int) -> "tf.data.Dataset":
    tf = require_tensorflow()
    options = tf.data.Options()
    options.deterministic = True
    batches = batches.apply(tf.data.experimental.assert_cardinality(num_batches))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def _keys(seed: int, number: int) -> Any:
    """Returns keys [number, 2] for the stateless random operations; neighbouring seeds share none."""
    tf = require_tensorflow()
    return tf.random.split(tf.constant([seed, 0], tf.int64), number)


def _check_image_size(source: Located, image_size: int | tuple[int, int] | None) -> None:
    stored = source.description.image_shape
    what = f"the images of {source.description.name}"
    if None in stored:
        raise ValueError(
            f"{what} differ in size (stored as {stored}) and cannot be batched: make_dataset reads images of one size"
        )
    if image_size is None:
        return
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(size) != 2:
        raise ValueError(f"image_size must be one integer or (height, width), got {image_size!r}")
    size = tuple(_integer("image_size", side, at_least=1) for side in size)
    if size != stored[:2]:
        raise ValueError(
            f"image_size {size[0]}x{size[1]} was asked for and {what} are {stored[0]}x{stored[1]}: "
            "make_dataset does not resize"
        )


def _integer(name: str, value: Any, *, at_least: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not at_least <= number <= LAST:
        raise ValueError(f"{name} must be an integer of at least {at_least} (and below 2**63), got {value!r}")
    return number
