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
    """Writes the line of each log interval, an epoch of fit, and stands before the callbacks that it times:

        [goodput, save, goodput.mark("saving"), sample, goodput.mark("sampling")]

    An interval that a guard ended has no line.

    Args:
        path: of the file that lines are added to.
        batch_size: images a step.
        multiply_adds: of a forward pass of one image.
        peak: operations a second of all devices, or None.
        log: called with (step, metrics, line).

    `waited`, which gives the seconds spent waiting for data since it was last called, is set for each fit.
    """

    def __init__(self, path, *, batch_size: int, multiply_adds: int, peak: float | None, log: Callable):
        super().__init__()
        self.path, self.batch_size, self.multiply_adds, self.peak = pathlib.Path(path), batch_size, multiply_adds, peak
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
            self.log(steps_done(self.model), metrics, self._write(metrics))
        self._mark = time.perf_counter()

    def _write(self, metrics: dict[str, float]) -> dict:
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
        line = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in line.items()}
        with contextlib.suppress(OSError):  # a full disk: the run is worth more than its log
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.write(json.dumps({**line, **metrics}) + "\n")
        return line

    def mark(self, kind: str) -> keras.callbacks.Callback:
        """A callback; what the one before it does at the ends of log intervals and of fit counts as one of KINDS."""
        return _Mark(self, kind)

    def passed(self, kind: str):
        """The time since the mark before was one of KINDS."""
        before, self._mark = self._mark, time.perf_counter()
        self._spent[kind] += self._mark - before


class _Mark(keras.callbacks.Callback):
    def __init__(self, goodput: Goodput, kind: str):
        super().__init__()
        self._goodput, self._kind = goodput, kind

    def on_epoch_end(self, epoch, logs=None):
        self._goodput.passed(self._kind)

    def on_train_end(self, logs=None):
        self._goodput.passed(self._kind)
