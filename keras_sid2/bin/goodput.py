"""What a run did and where its time went: a line of JSON each log interval, on the disk before its checkpoint is.

    step, seconds             since the line before, or the start
    loss and all metrics      of the interval
    images_per_second         of its training steps alone
    multiply_adds_per_second  3 times those of a forward pass an image: the backward pass costs two more
    share_of_peak             of what the devices can do at most, 2 operations a multiply-add; null where not known
    training, waiting (for data), saving, evaluating, sampling, measuring, compiling    shares of seconds, together 1

`compiling` is the first step of the process, whose own share of it is small.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable

import keras

from keras_sid2.backend import steps_done

# Dense bfloat16 operations a second of one device (V100: float16); a device's kind contains the name. Sources: Google
# Cloud's pages on TPU v4, v5e, v5p and v6e; NVIDIA's data sheets of the SXM kinds, L4 and L40S, whose figures with
# sparsity are twice as high.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5p": 459e12,
    "TPU v5": 459e12,  # as jax calls the v5p
    "TPU v6 lite": 918e12,  # v6e
    "V100": 125e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "H100": 989e12,
    "H200": 989e12,
}
KINDS = ("waiting", "saving", "evaluating", "sampling", "measuring", "compiling")


def peak_of(device_kind: str, devices: int) -> float | None:
    """Operations a second of so many devices of a kind; None for a kind that is not in the table."""
    found = next((peak for name, peak in PEAKS.items() if name in device_kind), None)
    return None if found is None else found * devices


class Goodput(keras.callbacks.Callback):
    """Adds a line to the file at `path` for each log interval, an epoch of fit, that no guard ended.

    It stands before the callbacks that it times: [goodput, save, goodput.mark("saving"), sample, ...]. `log` is called
    with (step, metrics, line). `multiply_adds` are those of a forward pass of one image, `peak` the operations a second
    of all devices. `waited`, set for each fit, gives the seconds spent waiting for data since it was last called.
    """

    def __init__(self, path: pathlib.Path, *, batch_size: int, multiply_adds: int, peak: float | None, log: Callable):
        super().__init__()
        self.path, self.batch_size, self.multiply_adds, self.peak = path, batch_size, multiply_adds, peak
        self.log, self.waited = log, lambda: 0.0
        self._last = self._mark = time.perf_counter()
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._compiled = False
        self._images, self._start = 0, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self._images, self._start = 0, time.perf_counter()
        self.waited()

    def on_train_batch_end(self, batch, logs=None):
        self._images = (batch + 1) * self.batch_size
        if not self._compiled:
            self._compiled = True
            self._spent["compiling"] += time.perf_counter() - self._start

    def on_epoch_end(self, epoch, logs=None):
        if self.model.non_finite is None:  # else what is told of it is no training
            metrics = {name: float(value) for name, value in (logs or {}).items()}  # waits for the last step
            line = self._line()
            with contextlib.suppress(OSError), open(self.path, "a") as file:  # a full disk: training matters more
                file.write(json.dumps({**line, **metrics}) + "\n")
            self.log(line["step"], metrics, line)
        self._mark = time.perf_counter()

    def _line(self) -> dict:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._spent["waiting"] += self.waited()
        shares = {kind: min(1.0, spent / seconds) for kind, spent in self._spent.items()}
        self._spent = dict.fromkeys(KINDS, 0.0)
        images_per_second = self._images / (now - self._start)
        speed = 3 * self.multiply_adds * images_per_second
        line = {
            "step": steps_done(self.model),
            "seconds": seconds,
            "images_per_second": images_per_second,
            "multiply_adds_per_second": speed,
            "share_of_peak": None if self.peak is None else 2 * speed / self.peak,
            "training": max(0.0, 1.0 - sum(shares.values())),
            **shares,
        }
        return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in line.items()}

    def mark(self, kind: str) -> keras.callbacks.Callback:
        """A callback; what the one before it does at the ends of log intervals and of fit counts as one of KINDS."""

        def passed(*_):
            before, self._mark = self._mark, time.perf_counter()
            self._spent[kind] += self._mark - before

        return keras.callbacks.LambdaCallback(on_epoch_end=passed, on_train_end=passed)
