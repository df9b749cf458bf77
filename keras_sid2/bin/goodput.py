"""What a run did and where its time went: a line of JSON each window, on the disk before its checkpoint is.

    step, seconds             since the line before, or the start
    loss and all metrics      of the window
    images_per_second         of the window's training steps alone
    multiply_adds_per_second  3 times those of a forward pass an image: the backward pass costs two more
    share_of_peak             of what the devices can do at most, 2 operations a multiply-add; null where not known
    training, waiting (for data), saving, evaluating, sampling, measuring, compiling    shares of seconds, together 1

`compiling` is the first step of the process, whose own share of it is small.
"""

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator

import keras

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
    """The clock of a run, and the callback that sees its first step.

    Args:
        path: of the file that lines are added to.
        multiply_adds: of a forward pass of one image.
        peak: operations a second of all devices, or None.
    """

    def __init__(self, path, *, multiply_adds: int, peak: float | None):
        super().__init__()
        self.path, self.multiply_adds, self.peak = pathlib.Path(path), multiply_adds, peak
        self._last = time.perf_counter()
        self._spent = dict.fromkeys(KINDS, 0.0)
        self._first_step = None

    def on_epoch_begin(self, epoch, logs=None):
        if self._first_step is None:
            self._first_step = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if self._first_step:
            self._spent["compiling"] += time.perf_counter() - self._first_step
            self._first_step = 0.0  # no more

    @contextlib.contextmanager
    def doing(self, kind: str) -> Iterator[None]:
        """What runs inside counts as one of KINDS."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[kind] += time.perf_counter() - start

    def line(self, step: int, metrics: dict[str, float], *, images_per_second: float, waited: float):
        """Writes the line of a window; `waited` is seconds."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._spent["waiting"] += waited
        shares = {kind: min(1.0, spent / seconds) for kind, spent in self._spent.items()}
        self._spent = dict.fromkeys(KINDS, 0.0)
        speed = 3 * self.multiply_adds * images_per_second
        line = {
            "step": step,
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


class Timed(keras.callbacks.Callback):
    """A callback whose work at the ends of windows and of training counts as one of KINDS.

    Where its files cannot be written at a window's end, `note` is called with a sentence and training goes on.
    """

    def __init__(self, callback: keras.callbacks.Callback, kind: str, goodput: Goodput, note: Callable[[str], None]):
        super().__init__()
        self._callback, self._kind, self._goodput, self._note = callback, kind, goodput, note

    def set_model(self, model):
        self._callback.set_model(model)

    def set_params(self, params):
        self._callback.set_params(params)

    def on_train_begin(self, logs=None):
        self._callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self._callback.on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self._callback.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        with self._goodput.doing(self._kind):
            try:
                self._callback.on_epoch_end(epoch, logs)
            except (ConnectionError, TimeoutError):
                raise  # not of a file: another process is gone
            except OSError as error:
                self._note(f"{self._kind.capitalize()} failed ({error}); training goes on.")

    def on_train_end(self, logs=None):
        with self._goodput.doing(self._kind):
            self._callback.on_train_end(logs)
