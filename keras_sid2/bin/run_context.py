"""What the parts of a training run share: what was asked for, its data and folders, and whether it is to stop."""

import pathlib
import shutil
import signal
import time
from typing import TYPE_CHECKING

import keras
from rich.console import Console

import pipelines
from keras_sid2.bin import tracking
from keras_sid2.bin.common import check_folder, print_line
from keras_sid2.bin.field_data import misfit, remark
from keras_sid2.bin.measuring import FEATURES
from keras_sid2.bin.run_identity import check_same_run
from keras_sid2.bin.train_settings import CONFIG, TrainSettings
from keras_sid2.checkpoints import checkpoints
from keras_sid2.conditions import in_data
from keras_sid2.models.level import as_levels
from keras_sid2.parallel import processes
from keras_sid2.parallel.rules import Mesh
from keras_sid2.training.proposal import SIZES
from keras_sid2.training.snapshots import snapshot_bytes

if TYPE_CHECKING:
    import tensorflow as tf


class StopAsked(keras.callbacks.Callback):
    """Stops fit when a signal came; also one that came before fit began, which forgets what was asked before.

    Attributes:
        by: the number of the signal that stopped it, or None.
    """

    def __init__(self):
        super().__init__()
        self.by: int | None = None
        self._asked_by: int | None = None
        self._agreement = processes.Agreement()

    def ask(self, number: int):
        """For a handler of the signal `number`."""
        self._asked_by = number
        if processes.count() == 1:  # several agree on a step first
            self.by = number
            if self._model is not None:  # `model` would have jax write back a state that a running step has consumed
                self._model.stop_training = True

    def on_train_begin(self, logs=None):
        self.model.stop_training = self.by is not None

    def on_train_batch_end(self, batch, logs=None):
        if self._agreement.stop(self._asked_by is not None):
            self.by = self._asked_by or signal.SIGTERM  # that came to another process
            self.model.stop_training = True


class RunContext:
    """All of a run but its training; everything is checked when it is made."""

    def __init__(self, settings: TrainSettings, console: Console | None = None):
        self.began = time.perf_counter()
        self.console = console or Console(stderr=True, quiet=processes.index() > 0)
        self.asked, self.experiment = settings, settings.experiment()
        self.settings, self.preset = settings.resolved(self.experiment)
        check_folder("workdir", settings.workdir)
        self.workdir = self.output = pathlib.Path(settings.workdir)  # where this process writes
        self.checkpoint_dir = self.workdir / "checkpoints"
        self.num_classes: int | None = getattr(self.preset.conditions.get("label"), "num_classes", None)
        self.mesh = Mesh() if settings.mesh is None else Mesh.parse(settings.mesh)
        data = self._check_data(settings.split)
        self.field_remarks = remark(self.preset, data)
        self.eval_batches = self._full_batches(self._check_data(settings.eval_split)) if settings.eval_split else None
        self._check_measuring()
        self.bad_records = pipelines.BadRecords(self.settings.max_bad_records)
        self.data_digest = check_same_run(self)
        if settings.init_from is not None and not checkpoints(self.checkpoint_dir):
            settings.initial_weights.check(self.preset)
        self._check_processes()
        if processes.index() == 0:
            tracking.check(settings)
        self.trackers = tracking.Trackers(self)
        self.stopped = StopAsked()

    def _full_batches(self, data: pipelines.DatasetDescription) -> int | None:
        """How many `data` has on a mesh, which takes no others; ValueError if that is none, or not known."""
        if self.mesh.batch_shards == 1:
            return None
        wanted, there = self.settings.batch_size, data.num_examples
        if there is None or there < wanted:
            has = "does not say how many images it has" if there is None else f"has {there}"
            raise ValueError(f"On a mesh --eval_split needs a full batch of {wanted} images, and {data.split} {has}.")
        return there // wanted

    def _check_data(self, split: str) -> pipelines.DatasetDescription:
        """What the data is; ValueError if it does not fit the preset."""
        settings, shape, classes = self.settings, self.preset.sample_shape, self.num_classes
        missing = settings.max_bad_records > 0
        data = pipelines.describe(settings.data, split=split, data_dir=settings.data_dir, missing_shards=missing)
        there, cropped = data.sample_shape, settings.crop is not None or None in data.sample_shape
        fits = there == shape or (cropped and (*there[:-3], there[-1]) == (*shape[:-3], shape[-1]))
        if not fits or (classes and data.num_classes != classes):
            raise self._unfit(f"is for {_in_words(shape, classes)}", _in_words(there, data.num_classes))
        for name, condition in in_data(self.preset.conditions).items():
            spec = data.values.get(name)
            if name == "label":
                continue
            found = spec and (spec.following(name, there[-3:-1], shape[-3:-1]) if cropped else spec.shape)
            if found != condition.shape:
                has = "none" if spec is None else f"it of shape {found}"
                raise self._unfit(f"is conditioned on {name} of shape {condition.shape}", has)
        if wrong := misfit(self.preset, data):
            raise self._unfit(*wrong)
        return data

    def _check_measuring(self):
        """ValueError for clips and fields, and features of images that they are to be measured by."""
        settings = self.settings
        if settings.measure_every and self.preset.channels is not None and settings.measure_features in FEATURES:
            told = (
                f"--measure_features={settings.measure_features} are of pictures, and --data={settings.data} has fields"
            )
            raise ValueError(f"{told}: keras_sid2.evaluation has metrics of fields (docs/guides/field_metrics.md).")
        if settings.measure_every and len(self.preset.sample_shape) == 4 and settings.measure_features in FEATURES:
            told = f"--measure_features={settings.measure_features} are of images, and --data={settings.data} has clips"
            raise ValueError(f"{told}: use sid2-evaluate --features=i3d on the checkpoints, or features of your own.")

    def _unfit(self, preset: str, data: str) -> ValueError:
        named = f"--preset={self.asked.preset}" if self.asked.config is None else f"--config={self.asked.config}"
        named = "The proposed network" if self.asked.proposes else named
        return ValueError(f"{named} {preset}, and --data={self.settings.data} has {data}.")

    def _check_processes(self):
        """ValueError for what several processes cannot do, or one would do alone."""
        count, settings = processes.count(), self.settings
        if count == 1:
            return
        if settings.mesh is None:
            raise ValueError(f"{count} processes train together on a --mesh, such as data:{count}; got none.")
        if settings.batch_size % count:
            raise ValueError(f"--batch_size must be divisible by the {count} processes, got {settings.batch_size}.")

    def note(self, text: str):
        print_line(self.console, text)

    def note_remarks(self):
        """Says what was proposed, if anything was, and what of the settings was changed."""
        if self.asked.proposes:
            network, objective = self.experiment.network, self.experiment.objective
            sizes = f" (--size: {', '.join(SIZES)})" if self.asked.init_from is None or self.asked.size else ""
            bias = f", bias {objective.weighting.bias:g}" if hasattr(objective.weighting, "bias") else ""
            levels = [f"{level.blocks} {level.kind} {level.channels} wide" for level in as_levels(network["levels"])]
            self.note(
                f"{self.experiment.description.capitalize()}{sizes}, patches of {network['patch_size']}, blocks "
                f"{', '.join(levels)}, {type(objective.schedule).__name__}{bias}. To change it give --set, or "
                f"{self.workdir / CONFIG}, edited, as --config."
            )
        for sentence in [*self.settings.remarks(self.asked), *self.field_remarks]:
            self.note(sentence)
        if self.settings.snapshot_every:
            self.note(self._disk_of_snapshots())

    def _disk_of_snapshots(self) -> str:
        settings, widths = self.settings, self.preset.recipe.ema_widths
        one = snapshot_bytes(self.preset.cost.parameters, widths, settings.snapshot_dtype)
        count, free = -(-settings.steps // settings.snapshot_every), shutil.disk_usage(self.workdir).free
        told = (
            f"averages of widths {', '.join(map(str, widths))} in {settings.snapshot_dtype}, {one / 1e6:,.4g} MB each"
        )
        return (
            f"Snapshots every {settings.snapshot_every} steps: {told}, {count} up to step {settings.steps}: "
            f"{count * one / 1e9:,.3g} GB in {self.workdir / 'snapshots'} ({free / 1e9:,.3g} GB are free there)."
        )

    def dataset(self, split: str, bad_records: pipelines.BadRecords, **options) -> "tf.data.Dataset":
        """This process's share of the batches of one split; `options` as `pipelines.make_dataset`."""
        share = {"process_index": processes.index(), "process_count": processes.count()}
        share["batch_size"] = self.settings.batch_size // processes.count()
        return pipelines.make_dataset(
            self.settings.data,
            split=split,
            data_dir=self.settings.data_dir,
            image_size=self.preset.sample_shape[-3:-1],
            values=[*in_data(self.preset.conditions)],  # of others nothing is read
            max_bad_records=bad_records,
            **{**share, **options},
        )


def _in_words(shape: tuple, classes: int | None) -> str:
    return f"{'images' if len(shape) == 3 else 'clips'} {tuple(shape)} of {classes or 'no'} classes"
