"""What the parts of a training run share: what was asked for, its data and folders, and who asked it to stop."""

import hashlib
import json
import pathlib
from typing import TYPE_CHECKING

from rich.console import Console

import pipelines
from keras_sid2.bin import run_preset
from keras_sid2.bin.common import check_folder
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.checkpoints import checkpoints
from keras_sid2.io.atomic import read_json
from keras_sid2.parallel import processes
from keras_sid2.parallel.rules import Mesh

if TYPE_CHECKING:
    import tensorflow as tf


class RunContext:
    """All of a run but its training; everything is checked when it is made."""

    def __init__(self, settings: TrainSettings, console: Console | None = None):
        self.console = console or Console(stderr=True, quiet=processes.index() > 0)
        self.asked, self.experiment = settings, settings.experiment()
        self.settings, self.preset = settings.resolved(self.experiment)
        check_folder("workdir", settings.workdir)
        self.workdir = self.output = pathlib.Path(settings.workdir)  # where this process writes
        self.remarks = run_preset.remarks(self.workdir, self.experiment, settings) + self.settings.remarks(settings)
        self.mesh = Mesh() if settings.mesh is None else Mesh.parse(settings.mesh)
        self._check_data(settings.split)
        self.eval_batches = self._full_batches(self._check_data(settings.eval_split)) if settings.eval_split else None
        self.bad_records = pipelines.BadRecords(self.settings.max_bad_records)
        self.data_digest = self._check_same_run()
        self._check_processes()
        self.agreement = processes.Agreement()
        self.asked_by: int | None = None  # the number of a signal
        self.stopped_by: int | None = None

    @property
    def checkpoint_dir(self) -> pathlib.Path:
        return self.workdir / "checkpoints"

    @property
    def num_classes(self) -> int | None:
        """That samples are drawn of."""
        return getattr(self.preset.conditions.get("label"), "num_classes", None)

    @property
    def draws_pictures(self) -> bool:
        """Whether grids of samples are drawn on the way: of three or one channel there are pictures."""
        return bool(self.settings.sample_every) and self.preset.sample_shape[-1] in (1, 3)

    def _check_same_run(self) -> str | None:
        """The digest of the data; ValueError if the work directory is of a run that other settings or data define."""
        digest = data_digest(self.settings)
        path = self.workdir / "run.json"
        if not path.exists():
            if checkpoints(self.checkpoint_dir):
                raise ValueError(f"{self.workdir} has checkpoints but no run.json: give another --workdir.")
            return digest
        now = self.settings.defining()
        # What a run of before did not say, as it had no such flag, it did as the preset says.
        unsaid = {name: now[name] if name in TrainSettings.OF_RECIPE else TrainSettings.default(name) for name in now}
        before = unsaid | read_run(path)
        changed = [f"--{k}={now[k]} (there: {before[k]})" for k in now if k != "data" and before[k] != now[k]]
        if other := other_data(self.settings, digest, before):
            changed.append(other)
        changed += run_preset.changes(self.workdir, self.experiment, self.asked.config)
        if changed:
            raise ValueError(
                f"{self.workdir} holds a run with other settings: {', '.join(changed)}. "
                "Give the same flags to continue it, or another --workdir."
            )
        return digest or before.get("data_digest")

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
        missing = self.settings.max_bad_records > 0
        data = pipelines.describe(
            self.settings.data, split=split, data_dir=self.settings.data_dir, missing_shards=missing
        )
        shape, conditions = self.preset.sample_shape, self.preset.conditions
        there, cropped = data.sample_shape, self.settings.crop is not None or None in data.sample_shape
        fits = there == shape or (cropped and (*there[:-3], there[-1]) == (*shape[:-3], shape[-1]))
        classes = self.num_classes
        if not fits or (classes and data.num_classes != classes):
            raise ValueError(
                f"{self._preset_in_words()} is for {_in_words(shape, classes)}, and --data={self.settings.data} has "
                f"{_in_words(there, data.num_classes)}."
            )
        for name, condition in conditions.items():
            spec = data.values.get(name)
            if name != "label" and (spec is None or spec.shape != condition.shape):
                has = "none" if spec is None else f"it of shape {spec.shape}"
                raise ValueError(
                    f"{self._preset_in_words()} is conditioned on {name} of shape {condition.shape}, and "
                    f"--data={self.settings.data} has {has}."
                )
        return data

    def _preset_in_words(self) -> str:
        config = self.asked.config
        if self.asked.proposes:
            return "The proposed network"
        return f"--preset={self.preset.name}" if config is None else f"--config={config}"

    def _check_processes(self):
        """ValueError for what several processes cannot do, or one would do alone."""
        count = processes.count()
        if count == 1:
            return
        if self.settings.mesh is None:
            raise ValueError(f"{count} processes train together on a --mesh, such as data:{count}; got none.")
        if self.settings.measure_every:
            raise ValueError(f"--measure_every is for one process, got {count}: use sid2-evaluate on the checkpoints.")
        if self.settings.batch_size % count:
            raise ValueError(
                f"--batch_size must be divisible by the {count} processes, got {self.settings.batch_size}."
            )

    def note(self, text: str):
        self.console.print(text, highlight=False, soft_wrap=True)

    def dataset(self, split: str, bad_records: pipelines.BadRecords, **options) -> "tf.data.Dataset":
        """Batches of one split for this preset; `options` as `pipelines.make_dataset`."""
        return pipelines.make_dataset(
            self.settings.data,
            split=split,
            data_dir=self.settings.data_dir,
            batch_size=self.settings.batch_size // processes.count(),
            process_index=processes.index(),
            process_count=processes.count(),
            image_size=self.preset.sample_shape[-3:-1],
            values=[*self.preset.conditions],  # of others nothing is read
            max_bad_records=bad_records,
            **options,
        )


def _in_words(shape: tuple, classes: int | None) -> str:
    kind = "images" if len(shape) == 3 else "clips"
    return f"{kind} {tuple(shape)} of {classes or 'no'} classes"


def data_digest(settings: TrainSettings, data: str | None = None) -> str | None:
    """Of the size and both ends of each shard that is trained on; None where shards are missing, which may be.

    It is the same wherever they lie and whatever they are called. Raises what `pipelines.fingerprint` raises.
    """
    try:
        stamps = pipelines.fingerprint(data or settings.data, split=settings.split, data_dir=settings.data_dir)
    except FileNotFoundError:
        if settings.max_bad_records:
            return None
        raise
    shards = [(size, digest) for _, size, _, digest in stamps]
    return hashlib.sha256(json.dumps(shards).encode()).hexdigest()[:32]


def read_run(path: pathlib.Path) -> dict:
    """run.json of a work directory; ValueError, in one sentence, for what is none."""
    if (found := read_json(path)) is None:
        raise ValueError(f"{path} is damaged, so it is not known which run this is: give another --workdir.")
    return found


def other_data(settings: TrainSettings, digest: str | None, before: dict) -> str | None:
    """What a sentence says of data that are not those of the run in `before`; None if they are."""
    same_name = before["data"] == settings.data
    if same_name and settings.max_bad_records:  # damaged since then, perhaps, and that is allowed
        return None
    if _digest_of(settings, before) == digest is not None:
        return None
    if not same_name:
        return f"--data={settings.data} (there: {before['data']})"
    if "data_digest" in before:
        return f"--data={settings.data}, whose records have changed"
    return None


def _digest_of(settings: TrainSettings, before: dict) -> str | None:
    """As it was written, or, by a version that did not, of what lies there now."""
    if "data_digest" in before:
        return before["data_digest"]
    for data_dir in {settings.data_dir, None}:
        try:
            asked = {"data": before["data"], "data_dir": data_dir, "split": before["split"]}
            return data_digest(TrainSettings(preset=settings.preset, workdir=settings.workdir, **asked))
        except (ValueError, OSError):
            continue
    return None
