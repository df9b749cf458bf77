"""--log_to: the trackers of a run, as one that no fault of theirs stops."""

import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable

import keras

from keras_sid2.backend import name as backend_name
from keras_sid2.callbacks.trackers import PROJECT, TRACKERS, TrackedRun, Tracker, require
from keras_sid2.checkpoints.manifest import first_line
from keras_sid2.parallel import processes
from keras_sid2.version import __version__

_PROJECT_OF = {"wandb": "WANDB_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME"}  # where --project is not given


class Trackers:
    """Those of a run, begun. One that raises is told of, once, and left out from then on."""

    def __init__(self, trackers: list[Tracker], note: Callable[[str], None]):
        self._trackers, self._note = trackers, note

    def _tell(self, what: str, *values):
        for tracker in [*self._trackers]:
            try:
                getattr(tracker, what)(*values)
            except Exception as error:  # whatever the network, a server or a full disk makes of it
                self._trackers.remove(tracker)
                self._note(f"Logging to {tracker.name} failed ({first_line(error)}); training goes on without it.")

    def scalars(self, step: int, values: dict[str, float]):
        self._tell("scalars", step, values)

    def picture(self, name: str, pixels, step: int):
        self._tell("picture", name, pixels, step)

    def checkpoint(self, step: int, path: pathlib.Path):
        self._tell("checkpoint", step, path)

    def end(self, failed: bool):
        self._tell("end", failed)


def check(settings):
    """Raises, in one sentence, what is wrong with --log_to and what goes with it, before anything is begun."""
    kinds = [tracker_class(name) for name in settings.log_to]
    names = {kind.name for kind in kinds}
    for flag in ("project", "upload_checkpoints"):
        if getattr(settings, flag) and names <= {"tensorboard"}:
            raise ValueError(f"--{flag} does nothing without --log_to=wandb or mlflow.")
    for name in names & {*_PROJECT_OF}:
        require(name)


def tracker_class(name: str) -> type[Tracker]:
    """That of --log_to=NAME, or MODULE:CLASS; ValueError, in one sentence, for what is none."""
    if name in TRACKERS:
        return TRACKERS[name]
    module, _, own = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), own)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The tracker {name!r} of --log_to cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise ValueError(f"--log_to={name} must name a subclass of keras_sid2.callbacks.trackers.Tracker.")
    return found


def begun(run, step: int) -> Trackers:
    """Those of a RunContext, which goes on from `step`; of several processes the first one has them. ValueError, in one
    sentence, for one that cannot begin."""
    trackers = []
    if processes.index() == 0:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7: minutes, while training waits
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        for name in run.settings.log_to:
            tracker = tracker_class(name)()
            _begin(tracker, name, _tracked(run, step, name))
            trackers.append(tracker)
    return Trackers(trackers, run.note)


def _begin(tracker: Tracker, name: str, tracked: TrackedRun):
    try:
        tracker.begin(tracked)
    except Exception as error:  # each tracker has its own kinds
        advice = " WANDB_MODE=offline logs into the work directory." if name == "wandb" else ""
        raise ValueError(f"--log_to={name} cannot begin: {first_line(error).rstrip('.')}.{advice}") from error


def _tracked(run, step: int, name: str) -> TrackedRun:
    settings = run.settings
    project = settings.project or os.environ.get(_PROJECT_OF.get(name, "")) or PROJECT
    config = {
        "flags": dataclasses.asdict(settings),
        "preset": run.experiment.described(),
        "keras_sid2": __version__,
        "keras": keras.__version__,
        "backend": backend_name(),
    }
    return TrackedRun(run.output, "", config, step, project, settings.upload_checkpoints)
