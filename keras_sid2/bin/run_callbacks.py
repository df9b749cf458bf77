"""The callbacks of a training run: what happens at the ends of its windows."""

import functools
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras

import pipelines
from keras_sid2.backend import steps_done
from keras_sid2.bin import measuring
from keras_sid2.bin.goodput import Timed
from keras_sid2.bin.run_log import RunLog
from keras_sid2.callbacks.measuring import MeasureSamples
from keras_sid2.callbacks.saving import LogWindows, SampleGrids, SaveCheckpoints
from keras_sid2.parallel import processes
from keras_sid2.training.guards import StopOnExplosion

if TYPE_CHECKING:
    from keras_sid2.bin.training_run import TrainingRun


class RunCallbacks:
    """Makes them for each fit of a run; what measures samples, and what knows usual losses, live as long as the run."""

    def __init__(self, run: "TrainingRun"):
        self._run, self._settings = run, run.settings
        self._measure = self._measuring_samples()
        factor = self._settings.explosion_factor
        self._guards = [StopOnExplosion(factor)] if factor else []

    def make(self, log: RunLog, waited: Callable[[], float]) -> list[keras.callbacks.Callback]:
        """In the order in which they run; `waited` gives the seconds that were waited for data since it was asked."""
        windows = LogWindows(log.window, batch_size=self._settings.batch_size, waited=waited)
        others = {  # saving first: what comes behind it may take long, or fail
            "saving": self._save(),
            "evaluating": Evaluate(self._run, log) if self._settings.eval_split else None,
            "sampling": self._sample_grids(log),
            "measuring": self._measure,
        }
        if self._measure is not None:
            self._measure.log = log.measured
        timed = [
            Timed(callback, kind, log.goodput, self._run.note)
            for kind, callback in others.items()
            if callback is not None
        ]
        return [*self._guards, _StopAsked(self._run), log.goodput, windows, *timed]

    def _save(self) -> SaveCheckpoints:
        settings, run = self._settings, self._run
        return SaveCheckpoints(
            run.checkpoint_dir,
            every=settings.checkpoint_every,
            keep=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            about={"run": settings.defining()},
            note=run.note,
            sharded=settings.checkpoints == "sharded",
        )

    def _sample_grids(self, log: RunLog) -> SampleGrids | None:
        if not self._settings.sample_every:
            return None
        classes = self._run.preset.network["num_classes"]
        return SampleGrids(
            self._run.output / "samples",
            every=self._settings.sample_every,
            labels=[i % min(classes, 10) for i in range(20)] if classes else None,
            num_images=None if classes else 16,
            generate_options=self._sampling(),
            log_image=log.image,
        )

    def _measuring_samples(self) -> MeasureSamples | None:
        """What measures samples while training goes on, with its real images read; None if it is not asked for."""
        settings, run = self._settings, self._run
        if not settings.measure_every:
            return None
        start = time.perf_counter()
        measure = self._measuring()
        seconds = time.perf_counter() - start
        classes = run.preset.network["num_classes"]
        return MeasureSamples(
            measure,
            every=settings.measure_every,
            labels=[i % classes for i in range(settings.measure_images)] if classes else None,
            num_images=settings.measure_images,
            generate_options=self._sampling(),
            path=run.output / "measurements.jsonl",
            grids=run.output / "measured",
            note=run.note,
            max_share=settings.measure_share,
            getting_ready=seconds,
        )

    def _measuring(self) -> Callable:
        """The `measure` of MeasureSamples; its features are made, and its real images read."""
        from keras_sid2.evaluation import evaluate

        settings, run = self._settings, self._run
        run.note("Reading the real images that samples are measured against.")
        size = tuple(run.preset.network["image_shape"][:2])
        real = measuring.open_images(
            settings.data,
            split=settings.split,
            data_dir=settings.data_dir,
            image_size=size,
            crop="center" if settings.crop else None,
            max_bad_records=settings.max_bad_records,
        )
        features = measuring.make_features(settings.measure_features, real, settings.inception_weights)
        reference = measuring.make_reference(real, features, settings.measure_cache)
        return functools.partial(evaluate, features=features, reference=reference)

    def _sampling(self) -> dict:
        """How samples are drawn while training goes on."""
        preset = self._run.preset
        return {"num_steps": self._settings.sample_steps or preset.num_steps, "guidance": preset.guidance}


class _StopAsked(keras.callbacks.Callback):
    """Stops fit when a signal came; also one that came before fit began, which forgets what was asked before."""

    def __init__(self, run: "TrainingRun"):
        super().__init__()
        self._run = run

    def on_train_begin(self, logs=None):
        self.model.stop_training = self._run.stopped_by is not None

    def on_train_batch_end(self, batch, logs=None):
        if self._run.agreement.stop(self._run.asked_by is not None):
            self._run.stopped_by = self._run.asked_by or signal.SIGTERM  # that came to another process
            self.model.stop_training = True


class Evaluate(keras.callbacks.Callback):
    """The loss of the averaged weights on another split, to the log."""

    def __init__(self, run: "TrainingRun", log: RunLog):
        super().__init__()
        self._every, self._log = run.settings.eval_every, log
        crop = "center" if run.settings.crop else None
        bad_records = pipelines.BadRecords(run.settings.max_bad_records)
        # The devices of a mesh must divide every batch, so there the last one is left out if it is not full.
        options = {"crop": crop, "drop_remainder": run.mesh.batch_shards > 1}
        self._dataset = run.dataset(run.settings.eval_split, bad_records, training=False, **options)
        self._batches = None
        if processes.count() > 1:  # as many in each, also where bad records are left out
            self._batches, self._dataset = run.eval_batches, self._dataset.repeat()

    def on_epoch_end(self, epoch, logs=None):
        step = steps_done(self.model)
        if step % self._every == 0:
            values = self.model.evaluate(self._dataset, steps=self._batches, return_dict=True, verbose=0)
            self._log.scalars(step, {f"eval/{name}": float(value) for name, value in values.items()})
            self._log.note(f"step {step}: eval loss {float(values['loss']):.4f}")
