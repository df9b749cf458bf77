"""A training run in a work directory: what it is, how it starts or continues, and what it writes.

workdir/run.json               what defines the run; a second start with other settings is refused
workdir/checkpoints/           step_NNN/ (training.checkpoints)
workdir/lock                   held by the process that trains there
workdir/samples/               step_NNN.png
workdir/tensorboard/           scalars and sample grids
workdir/measurements.jsonl     a line each time that samples were measured (--measure_every)
"""

import contextlib
import functools
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import keras
from rich.console import Console

import pipelines
from keras_sid2.bin import measuring
from keras_sid2.bin.common import ProgressLine
from keras_sid2.bin.run_lock import locked
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.files import written_whole
from keras_sid2.training import SiD2Model
from keras_sid2.training.callbacks import LogWindows, SampleGrids, SaveCheckpoints
from keras_sid2.training.checkpoints import (
    checkpoint_step,
    checkpoints,
    load_model,
    newest_sound,
    remove_unfinished,
    unsound,
)
from keras_sid2.training.measuring import MeasureSamples
from keras_sid2.training.optimizer import steps_done

if TYPE_CHECKING:
    import tensorflow as tf


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
        self._measure_samples = None
        self.stopped_by: int | None = None

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

    def load_or_make_model(self, newest: pathlib.Path | None) -> SiD2Model:
        """The model of a checkpoint, or a new one, compiled."""
        if newest is not None:
            return load_model(newest)
        keras.utils.set_random_seed(self.settings.seed)  # the initial weights
        dtype = None if self.settings.precision == "float32" else self.settings.precision
        model = self.preset.build(SiD2Model, seed=self.settings.seed, dtype=dtype)
        model.compile()
        return model

    def train(self) -> SiD2Model:
        """Trains up to settings.steps, from the newest sound checkpoint if there is one; returns the model.

        `stopped_by` is the number of the signal that ended it before that, or None. Raises ValueError if another
        process trains in the work directory.
        """
        with locked(self.workdir):
            remove_unfinished(self.checkpoint_dir)
            newest = newest_sound(self.checkpoint_dir, self._note, set_aside=True)
            if newest is None and unsound(self.checkpoint_dir):
                raise ValueError(
                    f"No checkpoint in {self.checkpoint_dir} is sound. To begin anew remove what was set aside there, "
                    "or give another --workdir."
                )
            if newest is not None and checkpoint_step(newest) >= self.settings.steps:
                self._note(f"{self.workdir}: {checkpoint_step(newest)} steps are done, nothing to train.")
                return self.load_or_make_model(newest)
            with written_whole(self.workdir / "run.json") as temporary:
                temporary.write_text(json.dumps(self.settings.defining(), indent=2) + "\n")
            return self._train_from(newest)

    def _train_from(self, newest: pathlib.Path | None) -> SiD2Model:
        model = self.load_or_make_model(newest)
        step = steps_done(model)
        self._measure_samples = self._measuring_samples()
        self._note(
            f"{self.preset.name} on {keras.backend.backend()}: {model.network.count_params():,} parameters, "
            f"steps {step} to {self.settings.steps} of {self.settings.batch_size} images, in {self.workdir}"
        )
        with _RunLog(self, step) as log, self._interruptible(model):
            for start, length, count in windows(step, self.settings.steps, self.settings.log_every):
                if self.stopped_by is None:
                    self._fit(model, log, start=start, length=length, count=count)
        if self.stopped_by is not None:
            self._note(f"Stopped and saved at step {steps_done(model)}; the same command continues.")
        return model

    def _note(self, text: str):
        self.console.print(text, highlight=False, soft_wrap=True)

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

    def _measuring_samples(self) -> MeasureSamples | None:
        """What measures samples while training goes on, with its real images read; None if it is not asked for."""
        settings = self.settings
        if not settings.measure_every:
            return None
        from keras_sid2.evaluation import evaluate

        size = tuple(self.preset.network["image_shape"][:2])
        self.console.print("Reading the real images that samples are measured against.")
        real = measuring.open_images(settings.data, split=settings.split, data_dir=settings.data_dir, image_size=size)
        features = measuring.make_features(settings.measure_features, real, settings.inception_weights)
        reference = measuring.make_reference(real, features, measuring.CACHE)
        classes = self.preset.network["num_classes"]
        return MeasureSamples(
            functools.partial(evaluate, features=features, reference=reference),
            every=settings.measure_every,
            labels=[i % classes for i in range(settings.measure_images)] if classes else None,
            num_images=settings.measure_images,
            generate_options=self._sampling(),
            path=self.workdir / "measurements.jsonl",
            grids=self.workdir / "measured",
            max_share=settings.measure_share,
        )

    def _sampling(self) -> dict:
        """How samples are drawn while training goes on."""
        steps = self.settings.sample_steps or self.preset.num_steps
        return {"num_steps": steps, "guidance": self.preset.guidance}

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
                    generate_options=self._sampling(),
                    log_image=log.image,
                )
            )
        if self._measure_samples is not None:
            self._measure_samples.log = log.measured
            callbacks.append(self._measure_samples)
        save = SaveCheckpoints(
            self.checkpoint_dir,
            every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            about={"run": settings.defining()},
            note=self._note,
        )
        return [*callbacks, save]

    @contextlib.contextmanager
    def _interruptible(self, model: SiD2Model) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM finishes the step and saves, the second one ends at once."""

        def stop(number, _):
            if self.stopped_by is not None:
                raise KeyboardInterrupt
            self.stopped_by = number
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

    def measured(self, step: int, figures: dict[str, float]):
        self.scalars(step, {f"samples/{name}": value for name, value in figures.items()})
        told = "{frechet:.4g} ({frechet_low:.4g} to {frechet_high:.4g})".format(**figures)
        self.note(f"step {step}: Frechet distance of samples {told}")

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
