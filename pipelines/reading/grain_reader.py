"""The same batches in the same order for jax and torch without TensorFlow, through grain."""

import os
from typing import TYPE_CHECKING

import numpy as np

from pipelines.extras import require
from pipelines.reading.decoding import Decoder, good_ones
from pipelines.reading.examples import open_source
from pipelines.reading.faults import BadRecords
from pipelines.reading.settings import LAST, ReadOptions
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    import grain


def make_grain_dataset(
    name_or_dir: str | os.PathLike,
    *,
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    max_bad_records: int | BadRecords = 0,
    features: RecordFeatures | None = None,
    num_threads: int | None = None,
    **options,
) -> "grain.IterDataset":
    """Returns batches {"image": uint8 [B,H,W,C], "label": int32 [B]} of numpy arrays; TensorFlow is not imported.

    Takes the arguments of `make_dataset` (but for `augment`, whose layers need TensorFlow here), and gives the same
    batches in the same order, seed for seed and step for step, to the byte. With `max_bad_records` and without
    `training`, batches with bad records are smaller. `fit` takes it on every backend.

    Args:
        num_threads: threads that decode; None: one for each core.

    Raises:
        ValueError, FileNotFoundError: as `make_dataset`; BadRecord (a ValueError) for a bad record while reading.
        ImportError: grain is missing: pip install "keras_sid2[grain]".
    """
    if "augment" in options:
        raise ValueError("augment needs TensorFlow, and so make_dataset")
    grain = require("grain", extra="grain")
    options = ReadOptions(**options)
    source = open_source(
        name_or_dir, split=split, data_dir=data_dir, features=features, max_bad_records=max_bad_records
    )
    threads = num_threads or len(os.sched_getaffinity(0))
    batches = grain.MapDataset.source(_Batches(Decoder(source, options), options, len(source)))
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))


class _Batches:
    """Batch i of the stream; what grain calls a random access data source."""

    def __init__(self, decoder: Decoder, options: ReadOptions, num_examples: int) -> None:
        self._decoder, self._options, self._num_examples = decoder, options, num_examples

    def __len__(self) -> int:
        if self._options.training:
            return LAST // (self._options.batch_size * self._options.process_count) - self._options.start_step
        return self._options.num_batches(self._num_examples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        options = self._options
        if options.training:
            first, count = options.position(options.start_step + index), options.batch_size
        else:
            first, count = options.batch_span(index, self._num_examples)
        pixels, labels, good, fault = self._decoder.batch(first, count)
        if fault:
            raise fault
        if not options.training:
            pixels, labels = good_ones(pixels, labels, good)
        return self._decoder.named(pixels, labels)
