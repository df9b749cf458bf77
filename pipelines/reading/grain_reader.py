"""The same batches in the same order for jax and torch without TensorFlow, through grain."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.extras import require
from pipelines.reading.decoding import Arrays, Decoder, good_ones
from pipelines.reading.examples import open_source
from pipelines.reading.faults import BadRecords
from pipelines.reading.settings import ReadSettings
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    import grain


def make_grain_dataset(
    name_or_dir: str | os.PathLike,
    *,
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    values: Sequence[str] | None = None,
    max_bad_records: int | BadRecords = 0,
    features: RecordFeatures | None = None,
    num_threads: int | None = None,
    **settings,
) -> "grain.IterDataset":
    """Returns batches {"image": uint8 [B,H,W,C], "label": int32 [B], ...} of numpy arrays; TensorFlow is not imported.

    Takes the arguments of `make_dataset` (but for `augment`, whose layers need TensorFlow here), and gives the same
    batches in the same order, seed for seed and step for step, to the byte. With `max_bad_records` and without
    `training`, batches with bad records are smaller. `num_threads` decode; None: one for each core.

    Raises as `make_dataset`; BadRecord (a ValueError) for a bad record while reading; ImportError: grain is missing.
    """
    if "augment" in settings:
        raise ValueError("augment needs TensorFlow, and so make_dataset")
    grain = require("grain", extra="grain")
    settings = ReadSettings(**settings)
    which = {"split": split, "data_dir": data_dir, "values": values, "features": features}
    decoder = Decoder(open_source(name_or_dir, **which, max_bad_records=max_bad_records), settings)
    threads = num_threads or len(os.sched_getaffinity(0))
    batches = grain.MapDataset.source(_Batches(decoder, settings))
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))


class _Batches:
    """Batch i of the stream; what grain calls a random access data source."""

    def __init__(self, decoder: Decoder, settings: ReadSettings) -> None:
        self._decoder, self._settings = decoder, settings

    def __len__(self) -> int:
        return self._decoder.plan.num_batches - self._settings.start_step

    def __getitem__(self, index: int) -> Arrays:
        arrays, good, fault = self._decoder.batch(self._settings.start_step + index)
        if fault:
            raise fault
        return arrays if self._settings.training else good_ones(arrays, good)
