"""Where the log of a training goes: TensorBoard, Weights & Biases, MLflow, or a tracker of your own.

A tracker is a Keras callback. `sid2-train --log_to` begins it, tells it all that its log says, and ends it; given to
`fit` with a TrackedRun, it logs by itself what `fit` reports at the end of each epoch.
"""

import dataclasses
import importlib
import json
import pathlib
import secrets
import time
from types import ModuleType

import keras
import numpy as np

from keras_sid2.backend import steps_done
from keras_sid2.io.atomic import read_json, write_json

PROJECT = "keras_sid2"
_IDS = "trackers.json"  # in the folder of a run: by the tracker's name, the run there that it goes on with


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins.

    Args:
        folder: of the run; trackers may write into it.
        name: of the run; the folder's own if not given.
        config: plain values by name, dicts in one another.
        step: that it goes on from; 0 for a new one.
        project: W&B's project, MLflow's experiment.
        upload: whether trackers are to take checkpoints themselves, and not where they lie.
    """

    folder: pathlib.Path
    name: str = ""
    config: dict = dataclasses.field(default_factory=dict)
    step: int = 0
    project: str = PROJECT
    upload: bool = False

    def __post_init__(self):
        object.__setattr__(self, "folder", pathlib.Path(self.folder).absolute())
        object.__setattr__(self, "name", self.name or self.folder.name)

    def known_id(self, tracker: str) -> str | None:
        """Of the tracker's own run that an earlier start began; None if there was none."""
        path = self.folder / _IDS
        return (read_json(path) or {}).get(tracker) if path.exists() else None

    def keep_id(self, tracker: str, own: str):
        path = self.folder / _IDS
        write_json(path, {**((read_json(path) or {}) if path.exists() else {}), tracker: own})


class Tracker(keras.callbacks.Callback):
    """Takes a run's log. What is not overridden is not logged; what raises ends the logging and not the training.

    Args:
        run: given where the tracker is used in `fit`, and not by sid2-train.
    """

    name = "tracker"

    def __init__(self, run: TrackedRun | None = None):
        super().__init__()
        self.run = run

    def begin(self, run: TrackedRun):
        """Before the first step; raises what is wrong."""

    def scalars(self, step: int, values: dict[str, float]):
        """Of one step, as {"train/loss": 0.3}; called several times for a step."""

    def picture(self, name: str, pixels: np.ndarray, step: int):
        """uint8 [H, W, 3]."""

    def checkpoint(self, step: int, path: pathlib.Path):
        """One that is whole, a folder; it may be removed later (--keep_checkpoints)."""

    def end(self, failed: bool):
        """After the last step, or where training ended early."""

    def on_train_begin(self, logs=None):
        if self.run is not None:
            self.run.folder.mkdir(parents=True, exist_ok=True)
            self.begin(self.run)

    def on_epoch_end(self, epoch, logs=None):
        if self.run is not None:
            values = {f"train/{name}": float(value) for name, value in (logs or {}).items()}
            self.scalars(steps_done(self.model), values)

    def on_train_end(self, logs=None):
        if self.run is not None:
            self.end(failed=False)


class TensorBoardTracker(Tracker):
    """Event files in folder/tensorboard, which `tensorboard --logdir` shows; needs neither it nor TensorFlow."""

    name = "tensorboard"

    def begin(self, run):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1 if run.step else None)
        if run.config:
            self._writer.add_text("config", f"    {json.dumps(run.config, indent=1)}".replace("\n", "\n    "), run.step)

    def scalars(self, step, values):
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name, pixels, step):
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def end(self, failed):
        self._writer.close()


class WandbTracker(Tracker):
    """A run of Weights & Biases, whose id lies in the folder: a later start goes on with it.

    A checkpoint is a version of the artifact RUN-checkpoint with the alias step_N: a reference to where it lies.
    """

    name = "wandb"

    def begin(self, run):
        wandb = require(self.name)
        own = run.known_id(self.name) or secrets.token_hex(4)
        told = {"project": run.project, "name": run.name, "id": own, "resume": "allow", "dir": str(run.folder)}
        self._upload = run.upload
        self._run = wandb.init(**told, settings=wandb.Settings(silent=True, console="off"))
        run.keep_id(self.name, own)
        self._run.config.update(run.config, allow_val_change=True)
        self._run.define_metric("step")  # of ours: a run that goes back to a checkpoint tells a step again
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step, values):
        self._run.log({"step": step, **values})

    def picture(self, name, pixels, step):
        self._run.log({"step": step, name: require(self.name).Image(pixels)})

    def checkpoint(self, step, path):
        artifact = require(self.name).Artifact(f"{self._run.id}-checkpoint", type="model", metadata={"step": step})
        if self._upload:
            artifact.add_dir(str(path))
        else:
            artifact.add_reference(path.absolute().as_uri(), name=path.name, checksum=False)
        self._run.log_artifact(artifact, aliases=["latest", f"step_{step}"])

    def end(self, failed):
        self._run.finish(exit_code=int(failed))


class MlflowTracker(Tracker):
    """A run of MLflow, whose id lies in the folder: a later start goes on with it.

    Without MLFLOW_TRACKING_URI it is in folder/mlflow.db, and its files in folder/mlflow. The configuration is in
    parameters, of the first start, and in config.json. A checkpoint is a tag checkpoint.NAME: where it lies.
    """

    name = "mlflow"

    def begin(self, run):
        mlflow = require(self.name)
        from mlflow.entities import Param

        set_by_user = mlflow.is_tracking_uri_set()
        uri = mlflow.get_tracking_uri() if set_by_user else f"sqlite:///{run.folder / 'mlflow.db'}"
        self._client, self._upload = mlflow.MlflowClient(tracking_uri=uri), run.upload
        self._own = run.known_id(self.name)
        if self._own is None:
            experiment = self._client.get_experiment_by_name(run.project)
            files = None if set_by_user else (run.folder / "mlflow").as_uri()
            known = experiment or self._client.get_experiment(self._client.create_experiment(run.project, files))
            self._own = self._client.create_run(known.experiment_id, run_name=run.name).info.run_id
            run.keep_id(self.name, self._own)
            params = [Param(name, str(value)[:500]) for name, value in _flat(run.config).items()]
            for first in range(0, len(params), 100):  # as many as it takes at once
                self._client.log_batch(self._own, params=params[first : first + 100])
        else:
            self._client.update_run(self._own, status="RUNNING")
        self._client.log_dict(self._own, run.config, "config.json")

    def scalars(self, step, values):
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._own, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def picture(self, name, pixels, step):
        self._client.log_image(self._own, np.asarray(pixels), key=name, step=step)

    def checkpoint(self, step, path):
        self._client.set_tag(self._own, f"checkpoint.{path.name}", str(path.absolute()))
        if self._upload:
            self._client.log_artifacts(self._own, str(path), f"checkpoints/{path.name}")

    def end(self, failed):
        self._client.set_terminated(self._own, "FAILED" if failed else "FINISHED")


TRACKERS = {tracker.name: tracker for tracker in (TensorBoardTracker, WandbTracker, MlflowTracker)}


def require(package: str) -> ModuleType:
    """The package of a tracker; ImportError, which says how to install it, where it is not there."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        told = f"{package} is needed for this and cannot be imported ({error})"
        raise ImportError(f'{told}: pip install "keras_sid2[{package}]"', name=package) from error


def _flat(values: dict, path: str = "") -> dict:
    """{"a.b": value} of dicts in one another."""
    found = {}
    for name, value in values.items():
        inner = _flat(value, f"{path}{name}.") if isinstance(value, dict) else {f"{path}{name}": value}
        found.update(inner)
    return found
