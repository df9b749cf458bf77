"""Models from checkpoints of either kind, and from `.keras` files."""

import contextlib
import json
import os
import pathlib
import random
import re
import zipfile
from collections.abc import Iterator

import keras

from keras_sid2 import backend
from keras_sid2.checkpoints.manifest import ARRAYS, CONFIG, MODEL, SHARDED, checkpoint_format, first_line
from keras_sid2.checkpoints.sharded import check_available, orbax_handler, variables_by_path

PRESET_CONFIG = "config.json"  # in a preset's folder, and in a .keras file


def first_reason(error: Exception) -> str:
    """What keras says of the first weight that could not be loaded, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [first_line(error)]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"{reason.removesuffix('.')}."


def unreadable(error: Exception, path: pathlib.Path, kind: str) -> ValueError:
    """What to raise where an `error` of keras, h5py or Orbax says that `path` is not what it should be, a `kind`."""
    if found := re.search(r"Could not locate class '(\w+)'", str(error)):
        advice = "import what defines and registers it first, in a program by --config=FILE"
        return ValueError(f"{path} holds a {found[1]}, a class that is not imported: {advice}.")
    reason = first_reason(error)
    if kind.startswith(".keras") and path.is_file() and not zipfile.is_zipfile(path):  # keras says other things
        reason = "it is no zip archive, or not all of one."
    return ValueError(f"{path} is no {kind} that can be read: {reason}")


def load_model(path: str | os.PathLike):
    """The SiD2Model in a checkpoint or a `.keras` file; ValueError, in one sentence, if there is none to be read.

    Sharded checkpoints, which their manifest tells, need jax (elsewhere a ValueError) and Orbax (an ImportError). Each
    process reads the parts that lie on its devices, on the present mesh, whatever the model was saved on.
    """
    path = pathlib.Path(path)
    sharded = path.is_dir() and checkpoint_format(path) == SHARDED
    file = path / MODEL if path.is_dir() and not sharded else path
    if sharded and backend.name() != "jax":
        advice = "KERAS_BACKEND=jax sid2-export --workdir=RUN --out=model.keras makes a file of it for all backends"
        wrong = f"{path} is a sharded checkpoint, which jax alone reads, and this is {backend.name()}"
        raise ValueError(f"{wrong}: {advice}.")
    if sharded:
        check_available()
    try:
        with _alike():
            model = _load_sharded(path.absolute()) if sharded else keras.saving.load_model(file)
    except Exception as error:  # keras, zip, h5py, Orbax and tensorstore raise many kinds
        raise unreadable(error, file, f"{'sharded checkpoint' if sharded else '.keras file'} of a SiD2Model") from error
    if not hasattr(model, "generate"):
        raise ValueError(f"{file} holds a {type(model).__name__}, not a SiD2Model.")
    return model


def model_config(path: str | os.PathLike) -> dict:
    """What keras wrote of the model in a checkpoint, a `.keras` file or a preset's folder, unpacked; ValueError, in one
    sentence, for what is no SiD2Model's."""
    path = pathlib.Path(path)
    try:
        if path.is_dir() and not (path / PRESET_CONFIG).is_file():
            sharded = checkpoint_format(path) == SHARDED
            path = path / (CONFIG if sharded else MODEL)
        elif path.is_dir():
            path = path / PRESET_CONFIG
        if path.suffix == ".json":
            found = json.loads(path.read_text())
        else:
            with zipfile.ZipFile(path) as file:
                found = json.loads(file.read(PRESET_CONFIG))
        found["config"]["network"]
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} holds no configuration of a SiD2Model.") from error
    return found


@contextlib.contextmanager
def _alike() -> Iterator[None]:
    """Weights made in it, before they are loaded, are the same in all processes: jax refuses others on a common mesh,
    and keras draws the seeds of its initializers from Python's random numbers."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _load_sharded(path: pathlib.Path):
    """Makes the model and gives all variables their values; ValueError where these are of other paths or types."""
    import orbax.checkpoint as ocp
    from etils import epath

    def as_it_lies(variable):
        return ocp.ArrayRestoreArgs(sharding=variable.value.sharding, global_shape=variable.shape)

    model, folder = keras.models.model_from_json((path / CONFIG).read_text()), epath.Path(path / ARRAYS)
    parts = _destinations(model, orbax_handler().metadata(folder).tree)
    wanted = {part: {key: as_it_lies(to[0]) for key, to in found.items()} for part, found in parts.items()}
    empty = {part: dict.fromkeys(found, 0) for part, found in wanted.items()}
    for variable in (*model.variables, *model.optimizer.variables):
        variable.value.delete()  # what it began with: there may be no room for both
    found = orbax_handler().restore(folder, args=ocp.args.PyTreeRestore(empty, restore_args=wanted))
    for part, variables in parts.items():
        for key, variable in ((key, v) for key, to in variables.items() for v in to):
            value = found[part][key]
            if value.dtype != variable.dtype:
                raise ValueError(f"{key} is {value.dtype}, not {variable.dtype}.")
            variable.assign(value)
    return model


def _destinations(model, there: dict[str, dict]) -> dict[str, dict[str, list]]:
    """The variables that each array of a checkpoint is for. Before version 0.2 the optimizer had the averages, and the
    count of steps was its own."""
    parts = {part: {} for part in there}
    for part, variables in variables_by_path(model).items():
        for key, variable in variables.items():
            moved = part == "model" and key not in there[part]
            name = "iteration" if variable is model.step else variable.name
            place = ("optimizer", f"{model.optimizer.name}/{name}") if moved else (part, key)
            parts[place[0]].setdefault(place[1], []).append(variable)
    return parts
