"""--log_to: the trackers of a run, as one that no fault of theirs stops."""

import dataclasses
import os
import pathlib

import keras

from keras_sid2.backend import name as backend_name
from keras_sid2.bin.common import named
from keras_sid2.callbacks.trackers import PROJECT, TRACKERS, TrackedRun, Tracker, require
from keras_sid2.checkpoints.manifest import first_line
from keras_sid2.parallel import processes
from keras_sid2.version import __version__

_PROJECT_OF = {"wandb": "WANDB_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME"}  # where --project is not given


class Trackers:
    """Those of a RunContext; of several processes the first one has them.

    One that raises is told of, once, and left out from then on; only one that cannot begin, the first time, ends a run.
    """

    def __init__(self, run):
        self._run, self._begun = run, False
        self._trackers: dict[str, Tracker | None] = {}  # by --log_to's names; those that were not left out
        if processes.index() == 0:
            self._trackers = dict.fromkeys(run.settings.log_to)

    def begin(self, step: int):
        """For what comes behind `step`, also anew, where training goes back. ValueError, in one sentence, for one that
        cannot begin."""
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7: minutes, while training waits
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        for name in [*self._trackers]:
            try:
                self._trackers[name] = _begun(name, _tracked(self._run, step, name))
            except ValueError as error:
                del self._trackers[name]
                if not self._begun:
                    self._trackers = {name: one for name, one in self._trackers.items() if one is not None}
                    self.end(failed=True)
                    raise
                self._run.note(f"{error} Training goes on without it.")
        self._begun = True

    def _tell(self, what: str, *values):
        for name, tracker in [*self._trackers.items()]:
            try:
                getattr(tracker, what)(*values)
            except Exception as error:  # whatever the network, a server or a full disk makes of it
                del self._trackers[name]
                told = f"Logging to {tracker.name} failed ({first_line(error)})"
                self._run.note(f"{told}; training goes on without it.")

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
    try:
        found = named(name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The tracker {name!r} of --log_to cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise ValueError(f"--log_to={name} must name a subclass of keras_sid2.callbacks.trackers.Tracker.")
    return found


def _begun(name: str, tracked: TrackedRun) -> Tracker:
    try:
        tracker = tracker_class(name)()
        tracker.begin(tracked)
        return tracker
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
