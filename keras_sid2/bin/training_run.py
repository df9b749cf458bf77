"""A training run in a work directory: what it is, how it starts or continues, and what it writes.

workdir/run.json               what defines the run; a second start with other settings is refused
workdir/checkpoints/           step_NNN.keras
workdir/samples/               step_NNN.png
workdir/tensorboard/           scalars and sample grids
"""

import contextlib
import dataclasses
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras
from rich.console import Console

import pipelines
from keras_sid2.bin.common import ProgressLine
from keras_sid2.files import written_whole
from keras_sid2.training import Preset, SiD2Model, find_preset
from keras_sid2.training.callbacks import LogWindows, SampleGrids, SaveCheckpoints
from keras_sid2.training.checkpoints import checkpoint_step, checkpoints, load_model
from keras_sid2.training.optimizer import steps_done

if TYPE_CHECKING:
    import tensorflow as tf

PRECISIONS = ("float32", "mixed_bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What `sid2-train` was asked for; None is the preset's. Fields in DEFINING make the run, others may change."""

    preset: str
    workdir: str
    data: str
    data_dir: str | None = None
    split: str = "train"
    eval_split: str | None = None
    steps: int = 1000
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    ema_decay: float | None = None
    flip: bool = False
    crop: str | None = None
    max_bad_records: int = 0
    seed: int = 0
    precision: str = "float32"
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    keep_checkpoints: int = 3
    sample_every: int = 500
    sample_steps: int | None = None

    DEFINING = (
        "preset",
        "data",
        "split",
        "batch_size",
        "learning_rate",
        "warmup_steps",
        "ema_decay",
        "flip",
        "crop",
        "seed",
        "precision",
    )

    def __post_init__(self):
        for field in ("steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, field) < 1:
                raise ValueError(f"--{field} must be at least 1, got {getattr(self, field)}.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"--seed must be in [0, 2**32), got {self.seed}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"--batch_size must be at least 1, got {self.batch_size}.")
        if self.max_bad_records < 0:
            raise ValueError(f"--max_bad_records must be at least 0, got {self.max_bad_records}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.sample_every < 0:
            raise ValueError(f"--sample_every must be at least 0 (0 is never), got {self.sample_every}.")
        for field in ("checkpoint_every", "sample_every", "eval_every"):
            if getattr(self, field) % self.log_every:
                raise ValueError(
                    f"--{field} must be a multiple of --log_every ({self.log_every}), got {getattr(self, field)}."
                )

    def resolved(self) -> tuple["TrainSettings", Preset]:
        """These settings with the preset's numbers filled in, and the preset with these settings' numbers."""
        preset = find_preset(self.preset)
        recipe = preset.recipe
        chosen = {
            "learning_rate": recipe.learning_rate if self.learning_rate is None else self.learning_rate,
            "warmup_steps": recipe.warmup_steps if self.warmup_steps is None else self.warmup_steps,
            "ema_decay": recipe.ema_decay if self.ema_decay is None else self.ema_decay,
        }
        batch_size = self.batch_size or preset.batch_size
        preset = dataclasses.replace(preset, recipe=dataclasses.replace(recipe, **chosen), batch_size=batch_size)
        return dataclasses.replace(self, **chosen, batch_size=batch_size), preset

    def defining(self) -> dict:
        return {field: getattr(self, field) for field in self.DEFINING}


class TrainingRun:
    """Everything is checked when it is made; `train` then does the work."""

    def __init__(self, settings: TrainSettings, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.settings, self.preset = settings.resolved()
        self.workdir = pathlib.Path(settings.workdir)
        if self.workdir.exists() and not self.workdir.is_dir():
            raise NotADirectoryError(f"--workdir must be a folder, and {self.workdir} is a file.")
        self._check_same_run()
        self._check_data(settings.split)
        if settings.eval_split:
            self._check_data(settings.eval_split)
        self.bad_records = pipelines.BadRecords(self.settings.max_bad_records)
        self._interrupts = 0

    @property
    def checkpoint_dir(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    def _check_same_run(self):
        """ValueError if the work directory belongs to a run that other settings define."""
        path = self.workdir / "run.json"
        if not path.exists():
            if checkpoints(self.checkpoint_dir):
                raise ValueError(f"{self.workdir} has checkpoints but no run.json: give another --workdir.")
            return
        before, now = json.loads(path.read_text()), self.settings.defining()
        changed = [f"--{k}={now[k]} (there: {before.get(k)})" for k in now if before.get(k) != now[k]]
        if changed:
            raise ValueError(
                f"{self.workdir} holds a run with other settings: {', '.join(changed)}. "
                "Give the same flags to continue it, or another --workdir."
            )

    def _check_data(self, split: str):
        """ValueError if the data does not fit the preset."""
        missing = self.settings.max_bad_records > 0
        data = pipelines.describe(
            self.settings.data, split=split, data_dir=self.settings.data_dir, missing_shards=missing
        )
        shape, classes = tuple(self.preset.network["image_shape"]), self.preset.network["num_classes"]
        cropped = self.settings.crop is not None or None in data.image_shape
        fits = tuple(data.image_shape) == shape or (cropped and data.image_shape[2] == shape[2])
        if not fits or data.num_frames or (classes and data.num_classes != classes):
            kind = f"clips of {data.num_frames} frames" if data.num_frames else "images"
            what = f"{kind} {tuple(data.image_shape)} of {data.num_classes or 'no'} classes"
            raise ValueError(
                f"--preset={self.preset.name} is for images {shape} of {classes or 'no'} classes, and "
                f"--data={self.settings.data} has {what}."
            )

    def load_or_make_model(self) -> SiD2Model:
        """The newest checkpoint's model, or a new one, compiled."""
        found = checkpoints(self.checkpoint_dir)
        if found:
            return load_model(found[-1])
        keras.utils.set_random_seed(self.settings.seed)  # the initial weights
        dtype = None if self.settings.precision == "float32" else self.settings.precision
        model = self.preset.build(SiD2Model, seed=self.settings.seed, dtype=dtype)
        model.compile()
        return model

    def train(self) -> SiD2Model:
        """Trains up to settings.steps, from the newest checkpoint if there is one; returns the model."""
        found = checkpoints(self.checkpoint_dir)
        if found and checkpoint_step(found[-1]) >= self.settings.steps:
            self.console.print(f"{self.workdir}: {checkpoint_step(found[-1])} steps are done, nothing to train.")
            return self.load_or_make_model()
        with written_whole(self.workdir / "run.json") as temporary:
            temporary.write_text(json.dumps(self.settings.defining(), indent=2) + "\n")
        model = self.load_or_make_model()
        step = steps_done(model)
        self.console.print(
            f"{self.preset.name} on {keras.backend.backend()}: {model.network.count_params():,} parameters, "
            f"steps {step} to {self.settings.steps} of {self.settings.batch_size} images, in {self.workdir}"
        )
        with _RunLog(self, step) as log, self._interruptible(model):
            for start, length, count in windows(step, self.settings.steps, self.settings.log_every):
                if not self._interrupts:
                    self._fit(model, log, start=start, length=length, count=count)
        if self._interrupts:
            step = steps_done(model)
            self.console.print(f"Stopped and saved at step {step}; the same command continues.")
        return model

    def _fit(self, model: SiD2Model, log: "_RunLog", *, start: int, length: int, count: int):
        """`count` windows of `length` steps from step `start`."""
        settings = self.settings
        order = {"flip": settings.flip, "crop": settings.crop, "seed": settings.seed, "start_step": start}
        dataset, meter = pipelines.measure_wait(self.dataset(settings.split, self.bad_records, **order))
        callbacks = self._callbacks(log, meter.take)
        try:
            model.fit(dataset, epochs=count, steps_per_epoch=length, verbose=0, callbacks=callbacks)
        except Exception as error:
            stopped = self.bad_records.stopped
            if stopped is None or stopped.shard not in str(error):
                raise
            raise stopped from None  # TensorFlow's error wraps the sentence in the names of its nodes

    def dataset(self, split: str, bad_records: pipelines.BadRecords, **options) -> "tf.data.Dataset":
        """Batches of one split for this preset; `options` as `pipelines.make_dataset`."""
        return pipelines.make_dataset(
            self.settings.data,
            split=split,
            data_dir=self.settings.data_dir,
            batch_size=self.settings.batch_size,
            image_size=tuple(self.preset.network["image_shape"][:2]),
            max_bad_records=bad_records,
            **options,
        )

    def _callbacks(self, log: "_RunLog", waited: Callable[[], float]) -> list[keras.callbacks.Callback]:
        settings = self.settings
        callbacks = [LogWindows(log.window, batch_size=settings.batch_size, waited=waited)]
        if settings.eval_split:
            callbacks.append(_Evaluate(self, log))
        if settings.sample_every:
            classes = self.preset.network["num_classes"]
            callbacks.append(
                SampleGrids(
                    self.workdir / "samples",
                    every=settings.sample_every,
                    labels=[i % min(classes, 10) for i in range(20)] if classes else None,
                    num_images=None if classes else 16,
                    generate_options={
                        "num_steps": settings.sample_steps or self.preset.num_steps,
                        "guidance": self.preset.guidance,
                    },
                    log_image=log.image,
                )
            )
        save = SaveCheckpoints(self.checkpoint_dir, every=settings.checkpoint_every, keep=settings.keep_checkpoints)
        return [*callbacks, save]

    @contextlib.contextmanager
    def _interruptible(self, model: SiD2Model) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM finishes the step and saves, the second one ends at once."""

        def stop(*_):
            self._interrupts += 1
            if self._interrupts > 1:
                raise KeyboardInterrupt
            self.console.print("Stopping after this step; again to end at once without saving.")
            model.stop_training = True

        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def windows(start: int, stop: int, length: int) -> list[tuple[int, int, int]]:
    """(start, length, count) of runs of equal windows that end at multiples of `length`, and at `stop`."""
    runs = []
    if start % length and start < stop:
        first = min(length - start % length, stop - start)
        runs.append((start, first, 1))
        start += first
    if (stop - start) // length:
        runs.append((start, length, (stop - start) // length))
    if (stop - start) % length:
        runs.append((stop - (stop - start) % length, (stop - start) % length, 1))
    return runs


class _Evaluate(keras.callbacks.Callback):
    """The loss of the averaged weights on another split, to the log."""

    def __init__(self, run: TrainingRun, log: "_RunLog"):
        super().__init__()
        self._every, self._log = run.settings.eval_every, log
        crop = "center" if run.settings.crop else None
        bad_records = pipelines.BadRecords(run.settings.max_bad_records)
        self._dataset = run.dataset(run.settings.eval_split, bad_records, training=False, crop=crop)

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self._every == 0:
            values = self.model.evaluate(self._dataset, return_dict=True, verbose=0)
            self._log.scalars(step, {f"eval/{name}": float(value) for name, value in values.items()})
            self._log.note(f"step {step}: eval loss {float(values['loss']):.4f}")


class _RunLog:
    """The progress line, TensorBoard, and the clock between them."""

    def __init__(self, run: TrainingRun, step: int):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(logdir=str(run.workdir / "tensorboard"), purge_step=step + 1 if step else None)
        self._line = ProgressLine(run.console, "train", run.settings.steps)
        self._line.advance_to(step)
        self._console = run.console
        self._bad_records = run.bad_records

    def window(self, step: int, values: dict[str, float]):
        skipped = self._bad_records.count
        self.scalars(step, {f"train/{name}": value for name, value in {**values, "bad_records": skipped}.items()})
        self._line.say(
            step,
            f"loss {values['loss']:.4f}  {values['images_per_second']:.0f} images/s  "
            f"waiting for data {100 * values['waiting']:.1f} %" + f"  {skipped} bad records skipped" * bool(skipped),
        )

    def scalars(self, step: int, values: dict[str, float]):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, picture, step: int):
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def note(self, text: str):
        self._console.print(text, highlight=False)

    def __enter__(self):
        self._line.__enter__()
        return self

    def __exit__(self, *error):
        self._line.__exit__(*error)
        self._writer.close()
