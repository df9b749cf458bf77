"""How long the consumer of a data set waits for it. Keras on tensorflow asks for the next batch inside a compiled
function, where no Python wrapper around the iterator sees it, so the stop-watch is part of the pipeline:

    zip(clock, dataset) -> (start, batch) -> batch, and now - start is added to the meter.

Zip asks its parts in order, in the thread that asked for the next element, and `clock` reads the time when it is asked.
Nothing may run ahead behind the zip, or the time would be that of a background thread and not the consumer's.
"""

import threading
from typing import TYPE_CHECKING, Any

from pipelines.extras import require_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf


class WaitMeter:
    """Seconds that a consumer has waited; may be read and written from several threads."""

    def __init__(self) -> None:
        self._seconds, self._lock = 0.0, threading.Lock()

    def add(self, seconds: float) -> None:
        """Adds one wait. The clock of the stamps can be set back, so a negative one counts as none."""
        with self._lock:
            self._seconds += max(0.0, float(seconds))

    def take(self) -> float:
        """Returns the seconds waited since the last call, and begins again at 0."""
        with self._lock:
            seconds, self._seconds = self._seconds, 0.0
        return seconds


def measure_wait(dataset: "tf.data.Dataset") -> tuple["tf.data.Dataset", WaitMeter]:
    """Returns the same data set, and a meter of the time its consumer is blocked in `next`.

    Element spec, order and cardinality stay; an element costs about 0.2 ms more. It must be the last thing put on the
    data set: what is prefetched behind it, also by tf.distribute, hides the consumer's wait from it.
    """
    tf, meter = require_tensorflow(), WaitMeter()
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(f"measure_wait takes a tf.data.Dataset, got {type(dataset).__name__}")
    # Reading the time is a stateful operation: tf.data neither folds these maps into others nor runs them in parallel.
    clock = tf.data.Dataset.from_tensors(0).repeat().map(lambda _: tf.timestamp())

    def record(start: Any, batch: Any) -> Any:
        tf.numpy_function(meter.add, [tf.timestamp() - start], [])
        return batch

    return in_order(tf.data.Dataset.zip((clock, dataset)).map(record)), meter


def in_order(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    """A data set of which tf.data makes one element after the other, each when it is asked for."""
    options = require_tensorflow().data.Options()
    options.deterministic = True
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)
