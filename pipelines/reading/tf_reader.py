"""Batches through tf.data, in the order of order.py.

    number of a batch --> encoded images --> uint8 [B,H,W,C] --tf.data--> {"image": [B,H,W,C], "label": [B]}

Reading and decoding are Python functions, which know shard and record when something is wrong; their work (reading,
CRC, decoding, resizing) is done by compiled libraries that let other threads run meanwhile. Inside the graph of tf.data
decoding is no faster, and an image that fails there cannot be named. The threads are Python's own: one of TensorFlow
that is inside a Python function when the interpreter ends waits for ever.
"""

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.extras import require_tensorflow
from pipelines.images import BadImage
from pipelines.reading.augmenting import Augment, augmentation
from pipelines.reading.decoding import GROUP, Arrays, DecodeGroup, Decoder, open_decoder, without
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import StrPath
from pipelines.reading.metering import in_order
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    import tensorflow as tf

AHEAD = 2  # batches that are decoded while one is used
CHUNK_PIXELS = 2**18  # that one thread decodes at a time, or one group of examples


def make_dataset(
    name_or_dir: StrPath,
    *,
    split: str = "train",
    data_dir: StrPath | None = None,
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

    With `training` the stream has no end: every epoch is a new permutation of all examples, and batches run on from one
    epoch into the next, so all are full. Order, windows and flips are functions of `seed` and the position alone, the
    same on every machine and for every file format. `start_step=k` gives exactly the batches that follow the first k;
    it costs one permutation (0.1 s for a million examples) and reads nothing. Each `iter` begins there again. Without
    `training` each example comes once, in file order. Records are read one by one where they lie: best on an SSD, or a
    bucket with many readers.

    Each of several processes gets, and reads, only its rows of a global batch of process_count * batch_size examples;
    without `training` one run of the examples, or with `drop_remainder` its rows of each full global batch.

    A bad record (damaged, missing, or not what the data set says) stops the reading with an error that names shard,
    record and reason. Up to `max_bad_records` distinct ones are logged, counted and skipped: in training the next good
    record of the stream takes the place, so all others stay where they are; in one pass it is left out.

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
        **settings: batch_size (needed) and others of `pipelines.ReadSettings`.

    Raises:
        ValueError: an argument of the wrong type or range, an unknown split, images of another size, a
            combination that gives no batch, damaged shards (`BadRecord`).
        FileNotFoundError: no prepared data set there, or a shard is missing.
        ImportError: tensorflow or tensorflow_datasets is missing.
        tf.errors.InvalidArgumentError: while reading: a bad record.
    """
    if augment and not settings.get("training", True):
        raise ValueError("augment is for training=True")
    tf = require_tensorflow()
    which = {"split": split, "data_dir": data_dir, "values": values, "features": features}
    decoder = open_decoder(name_or_dir, max_bad_records, which, settings, _group_decoder)
    asked = decoder.settings
    # Processes draw apart from one another: no two may share a seed.
    seed = asked.seed * asked.process_count + asked.process_index
    augmented = augmentation(augment, seed=seed, outputs=decoder.outputs) if augment else None
    batches = _batches(tf.data.Dataset.range(asked.start_step, decoder.plan.num_batches), decoder, augmented)
    if asked.training:
        batches = batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    elif decoder.source.bad.limit:  # those that are left out make batches smaller
        batches = batches.unbatch().batch(asked.batch_size, drop_remainder=bool(asked.drop_remainder))
    return in_order(batches)  # nothing may run ahead in TensorFlow's threads: BatchReader does that


def _batches(numbers: "tf.data.Dataset", decoder: Decoder, augmented: Augment | None) -> "tf.data.Dataset":
    """Numbers of batches -> values by name."""
    tf, outputs = require_tensorflow(), decoder.outputs
    size = decoder.settings.batch_size if decoder.settings.training else None
    read = BatchReader(decoder)
    # TensorFlow keeps the function below for ever; threads and batches are to go with the data set.
    reader = weakref.ref(read)
    nothing = [np.empty(0, spec.dtype) for spec in outputs.values()]

    @tf.autograph.experimental.do_not_convert
    def in_python(number: np.ndarray) -> list[Any]:
        try:
            return [*reader()(int(number)).values(), b""]
        except BadRecord as fault:  # passed on by hand, as TensorFlow would add a stack trace to the sentence
            return [*nothing, str(fault).encode()]

    def checked(number: Any) -> dict[str, Any]:
        dtypes = [tf.as_dtype(spec.dtype) for spec in outputs.values()]
        *arrays, reason = tf.numpy_function(in_python, [number], [*dtypes, tf.string])
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(reason, ""), [reason])]):
            found = {
                name: tf.ensure_shape(array, (size, *spec.shape))
                for (name, spec), array in zip(outputs.items(), arrays, strict=True)
            }
        if augmented is not None:
            found["image"] = augmented(found["image"], number)
        return found

    batches = numbers.map(checked)
    batches.reader = read
    return batches


class BatchReader:
    """Batch `number` of a stream, with the next ones started; may be called from several threads."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._chunk = GROUP * max(1, CHUNK_PIXELS // int(np.prod(decoder.shape[:-1])) // GROUP)
        # Groups are decoded in long calls outside Python, so one thread more than cores keeps all of them busy;
        # one by one, it would only wait for the others.
        threads = len(os.sched_getaffinity(0)) + decoder.decodes_groups()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="sid2-data")
        self._started: dict[int, tuple[Arrays, list[Future]]] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> Arrays:
        """Returns the values. Raises BadRecord: more are bad than are allowed."""
        with self._lock:
            wanted = range(number, min(number + 1 + AHEAD, self._decoder.plan.num_batches))
            for other in set(self._started) - set(wanted):  # another iterator's, or left from an earlier pass
                for part in self._started.pop(other)[1]:
                    part.cancel()
            for start in wanted:
                if start not in self._started:
                    self._started[start] = self._start(start)
            arrays, parts = self._started.pop(number)
        wait(parts)
        return without(arrays, [row for part in parts for row in part.result()])

    def _start(self, number: int) -> tuple[Arrays, list[Future]]:
        """Arrays that threads are filling, and their tasks."""
        first, count = self._decoder.plan.batch(number)
        arrays, rows = self._decoder.empty(count), range(count)
        chunks = [rows[start : start + self._chunk] for start in rows[:: self._chunk]]
        return arrays, [self._threads.submit(self._decoder.fill, first, chunk, arrays) for chunk in chunks]


def _group_decoder(shape: tuple[int, ...]) -> DecodeGroup:
    """Decodes a group of images of a shape in one call of a TensorFlow graph, without a return to Python between them.

    The pixels are those of Pillow: TensorFlow's default method for JPEG is not exact, this one is.
    """
    tf, channels = require_tensorflow(), shape[-1]
    decoders = {
        "jpeg": lambda data: tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE"),
        "png": lambda data: tf.io.decode_png(data, channels),
    }

    def graph(decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def together(group: Any) -> Any:
            return tf.stack([tf.ensure_shape(decode(group[row]), shape) for row in range(GROUP)])

        return tf.function(together, autograph=False).get_concrete_function(tf.TensorSpec((GROUP,), tf.string))

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
