"""The same batches in the same order for jax and torch without TensorFlow, through grain."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.extras import require
from pipelines.reading.decoding import Arrays, Decoder, open_decoder
from pipelines.reading.faults import BadRecords
from pipelines.reading.locating import StrPath
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    import grain


def make_grain_dataset(
    name_or_dir: StrPath,
    *,
    split: str = "train",
    data_dir: StrPath | None = None,
    values: Sequence[str] | None = None,
    features: RecordFeatures | None = None,
    max_bad_records: int | BadRecords = 0,
    num_threads: int | None = None,
    **settings: Any,
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
    threads = num_threads or len(os.sched_getaffinity(0))
    which = {"split": split, "data_dir": data_dir, "values": values, "features": features}
    batches = grain.MapDataset.source(_Batches(open_decoder(name_or_dir, max_bad_records, which, settings)))
    return batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))


class _Batches:
    """Batch i of the stream; what grain calls a random access data source."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._start = decoder, decoder.settings.start_step

    def __len__(self) -> int:
        return self._decoder.plan.num_batches - self._start

    def __getitem__(self, index: int) -> Arrays:
        return self._decoder.batch(self._start + index)
