"""Batches that are decoded by threads while earlier ones are used.

Python's own threads, and not those of tf.data: a thread of TensorFlow that is inside a Python function when the
interpreter ends waits for ever. The work is done by compiled libraries that let other threads run meanwhile.
"""

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipelines.reading.decoding import GROUP, Arrays, Decoder
from pipelines.reading.faults import BadRecord

AHEAD = 2  # batches that are decoded while one is used
CHUNK_PIXELS = 2**18  # that one thread decodes at a time, or one group of examples


class BatchReader:
    """Batch `number` of a stream, with the next ones started; may be called from several threads."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._stop = decoder, decoder.plan.num_batches
        self._chunk = GROUP * max(1, CHUNK_PIXELS // int(np.prod(decoder.shape[:-1])) // GROUP)
        # Groups are decoded in long calls outside Python, so one thread more than cores keeps all of them busy;
        # one by one, it would only wait for the others.
        threads = len(os.sched_getaffinity(0)) + decoder.decodes_groups()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="sid2-data")
        self._started: dict[int, _Batch] = {}
        self._lock = threading.Lock()

    def __call__(self, number: int) -> tuple[Arrays, np.ndarray, BadRecord | None]:
        """Returns the values, which examples are good, bool [B], and the fault that must stop it."""
        with self._lock:
            wanted = range(number, min(number + 1 + AHEAD, self._stop))
            for other in set(self._started) - set(wanted):  # another iterator's, or left from an earlier pass
                self._started.pop(other).cancel()
            for wanted_number in wanted:
                if wanted_number not in self._started:
                    self._started[wanted_number] = self._start(wanted_number)
            batch = self._started.pop(number)
        return batch.result()

    def _start(self, number: int) -> "_Batch":
        return _Batch(self._decoder, self._threads, *self._decoder.plan.batch(number), self._chunk)


class _Batch:
    """Arrays that threads are filling."""

    def __init__(self, decoder: Decoder, threads: ThreadPoolExecutor, first: int, count: int, chunk: int) -> None:
        self._arrays, self._good = decoder.empty(count)
        self._parts: list[Future[BadRecord | None]] = []
        for row in range(0, count, chunk):
            rows = slice(row, row + chunk)
            arrays = {name: array[rows] for name, array in self._arrays.items()}
            self._parts.append(threads.submit(decoder.fill, first + row, arrays, self._good[rows]))

    def cancel(self) -> None:
        for part in self._parts:
            part.cancel()

    def result(self) -> tuple[Arrays, np.ndarray, BadRecord | None]:
        faults = [part.result() for part in self._parts]
        return self._arrays, self._good, next(filter(None, faults), None)
