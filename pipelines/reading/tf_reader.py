"""Batches of uint8 through tf.data, in the order of order.py.

    number of a batch --> encoded images --> uint8 [B,H,W,C] --tf.data--> {"image": [B,H,W,C], "label": [B]}

Reading and decoding are Python functions, which know shard and record when something is wrong; their work (reading,
CRC, decoding, resizing) is done by compiled libraries, in the threads of ahead.py. Decoding inside the graph of tf.data
is no faster, and an image that fails there cannot be named.
"""

import importlib
import os
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.extras import require_tensorflow
from pipelines.images import BadImage
from pipelines.reading.ahead import BatchReader
from pipelines.reading.augmenting import augmentation
from pipelines.reading.decoding import GROUP, DecodeGroup, Decoder, good_ones
from pipelines.reading.examples import Source, open_source
from pipelines.reading.faults import BadRecords
from pipelines.reading.settings import ReadSettings
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    import tensorflow as tf


def make_dataset(
    name_or_dir: str | os.PathLike,
    *,
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    values: Sequence[str] | None = None,
    features: RecordFeatures | None = None,
    max_bad_records: int | BadRecords = 0,
    augment: Sequence[Any] = (),
    **settings: Any,
) -> "tf.data.Dataset":
    """Returns batches {"image": uint8 [B,H,W,C] in 0..255, "label": int32 [B], other names: [B, ...]}.

    Clips come as {"video": uint8 [B,T,H,W,C]}, either as float32 or float16 in [-1, 1] where they are so stored, and
    each value under its name as `describe(...).values` says; there is no "label" if the data set has none. Values of
    rank 3 and 4 are cropped, resized and mirrored together with the sample, each in its own resolution.

    With `training` the stream has no end: every epoch is a new permutation of all examples, and batches run on from
    one epoch into the next, so all are full. Order, windows and flips are functions of `seed` and the position alone,
    the same on every machine and for every file format. `start_step=k` gives exactly the batches that follow the first
    k; it costs one permutation (0.1 s for a million examples) and reads nothing. Each `iter` begins at `start_step`
    again. Records are read one by one where they lie: best on an SSD, or a bucket with many readers.

    With several processes each gets its rows of one global batch of process_count * batch_size examples, and reads
    only its own records. Without `training`: each example once, in file order; each process has one run of them, or
    with `drop_remainder` its rows of each full global batch, as many batches as the others.

    A bad record (damaged, missing, or not what the data set says) stops the reading with an error that names shard,
    record and reason. With `max_bad_records=N`, up to N distinct ones are logged, counted and skipped: in training
    the place of a bad record is taken by the next good one of the stream, so all others stay where they are; in one
    pass it is left out.

    Args:
        name_or_dir: one of `dataset_names()`, or the name of another data set in `data_dir`, or a directory: that of
            a prepared data set (.../digits/1.0.0), one above (.../digits: the newest version), or one further up that
            holds no other; or a file or glob of TFRecord or ArrayRecord shards ("photos-*.tfrecord"), whose records
            are counted at the start by walking over them. "./digits" is always a directory.
        split: name of the split.
        data_dir: where a name is looked up; None: the directory that tfds uses.
        values: names of what is read beside the sample, as ["label", "text"]; None: all that `prepare` has written, and
            of data sets of others the label.
        features: which features of the records are meant; None: "image" (or "video") and "label".
        max_bad_records: how many bad records may be skipped, or a `BadRecords`, whose count can be read.
        augment: Keras's image preprocessing layers for pixels in 0..255, such as keras.layers.RandomRotation(0.05),
            applied in order to each batch, with draws that are a function of (seed, step); only with `training`.
        **settings: batch_size (needed), image_size, training, seed, start_step, flip, crop, min_crop, drop_remainder,
            process_index and process_count: see `pipelines.ReadSettings`.

    Raises:
        ValueError: an argument of the wrong type or range, an unknown split, images of another size, a
            combination that gives no batch, damaged shards (`BadRecord`).
        FileNotFoundError: no prepared data set there, or a shard is missing.
        ImportError: tensorflow or tensorflow_datasets is missing.
        tf.errors.InvalidArgumentError: while reading: a bad record.
    """
    settings = ReadSettings(**settings)
    if augment and not settings.training:
        raise ValueError("augment is for training=True")
    which = {"split": split, "data_dir": data_dir, "values": values, "features": features}
    return _Reader(open_source(name_or_dir, **which, max_bad_records=max_bad_records), settings, augment).dataset()


class _Reader:
    """Builds the tf.data pipeline of one source."""

    def __init__(self, source: Source, settings: ReadSettings, augment: Sequence[Any]) -> None:
        self._tf = require_tensorflow()
        self._source, self._settings = source, settings
        shape = settings.outputs(source.schema, source.description.name)[source.schema.sample_name].shape
        decode_group = _group_decoder(self._tf, shape) if source.schema.sample.encoded else None
        self._decoder = Decoder(source, settings, decode_group)
        # Processes draw apart from one another: no two may share a seed.
        seed = settings.seed * settings.process_count + settings.process_index
        self._augment = augmentation(augment, seed=seed, outputs=self._decoder.outputs) if augment else None

    def dataset(self) -> "tf.data.Dataset":
        tf, settings, count = self._tf, self._settings, self._decoder.plan.num_batches
        if not count:
            share = f" for {settings.process_count} processes" * (settings.process_count > 1)
            raise ValueError(
                f"batch_size={settings.batch_size} with drop_remainder={settings.drop_remainder} gives no batch: "
                f"{self._source.description.name} has {len(self._source)} examples in "
                f"{self._source.description.split}{share}"
            )
        batches = self._batches(tf.data.Dataset.range(settings.start_step, count))
        if settings.training:
            batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
        elif self._source.bad.limit:  # those that are left out make batches smaller
            batches = batches.unbatch().batch(settings.batch_size, drop_remainder=bool(settings.drop_remainder))
        options = tf.data.Options()
        options.deterministic = True
        # Nothing may run ahead in TensorFlow's threads: see ahead.py, which does that.
        options.experimental_optimization.inject_prefetch = False
        return batches.with_options(options)

    def _batches(self, numbers: "tf.data.Dataset") -> "tf.data.Dataset":
        """Numbers of batches -> values by name."""
        tf, training, outputs = self._tf, self._settings.training, self._decoder.outputs
        size = self._settings.batch_size if training else None
        read = BatchReader(self._decoder)
        # TensorFlow keeps the function below for ever; threads and batches are to go with the data set.
        reader = weakref.ref(read)

        @tf.autograph.experimental.do_not_convert
        def in_python(number: np.ndarray) -> list[Any]:
            arrays, good, fault = reader()(int(number))
            if not fault and not training:
                arrays = good_ones(arrays, good)
            return [*arrays.values(), str(fault or "").encode()]

        def checked(number: Any) -> dict[str, Any]:
            dtypes = [tf.as_dtype(spec.dtype) for spec in outputs.values()]
            *arrays, reason = tf.numpy_function(in_python, [number], [*dtypes, tf.string])
            # An exception in Python would come with its stack trace; this is the sentence alone.
            with tf.control_dependencies([tf.debugging.Assert(tf.equal(reason, ""), [reason])]):
                found = {
                    name: tf.ensure_shape(array, (size, *spec.shape))
                    for (name, spec), array in zip(outputs.items(), arrays, strict=True)
                }
            if self._augment is not None:
                found["image"] = self._augment(found["image"], number)
            return found

        batches = numbers.map(checked)
        batches.reader = read
        return batches


def _group_decoder(tf: ModuleType, shape: tuple[int, ...]) -> DecodeGroup | None:
    """Decodes a group in one call of a TensorFlow graph, without a return to Python between its images.

    The pixels are those of Pillow: TensorFlow's default method for JPEG is not exact, this one is.
    """
    if len(shape) == 4:
        return None  # clips
    channels = shape[-1]
    decoders = {
        "jpeg": lambda data: tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE"),
        "png": lambda data: tf.io.decode_png(data, channels),
    }

    def graph(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @tf.function(input_signature=[tf.TensorSpec((GROUP,), tf.string)], autograph=False)
        def together(group: Any) -> Any:
            return tf.stack([tf.ensure_shape(decode(group[row]), shape) for row in range(GROUP)])

        return together.get_concrete_function()

    graphs = {name: graph(decode) for name, decode in decoders.items()}
    here = importlib.import_module("tensorflow.python.eager.context").function_executor_type

    def decode_group(name: str, group: list[bytes]) -> np.ndarray:
        try:
            # In the calling thread: TensorFlow's own may all be waiting for this very batch.
            with here("SINGLE_THREADED_EXECUTOR"):
                return graphs[name](tf.constant(group)).numpy()
        except tf.errors.OpError as error:
            raise BadImage(f"cannot be decoded ({error.message})") from None

    return decode_group
