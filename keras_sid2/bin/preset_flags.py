"""--preset, --config and --set: which preset a program works with."""

import dataclasses
import functools
import pathlib
import sys
import traceback
import types

from keras_sid2.bin.flag_table import flag
from keras_sid2.training import Preset, find_preset, list_trained
from keras_sid2.training.overrides import overridden
from keras_sid2.training.preset_folder import is_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class PresetFlags:
    """The three flags."""

    preset: str | None = flag(None, "name of the model, see keras_sid2.list_presets()", defines=True)
    config: str | None = flag(None, "a Python file that defines `preset`, a keras_sid2.training.Preset")
    set: tuple = flag((), "path=value, any number of times: changes the preset, as objective.weighting.bias=-2")


def chosen_preset(asked) -> Preset:
    """What --preset or --config, one of both, name, with the changes of --set; `asked` has the three as attributes.

    ValueError or FileNotFoundError, in one sentence, for what is none.
    """
    name, config = asked.preset, asked.config
    if (name is None) == (config is None):
        raise ValueError("Give --preset, the name of one, or --config, a file that defines one.")
    if name in list_trained():
        raise ValueError(f"--preset={name} is a trained model: to train it on, give --init_from={name} in its place.")
    if name is not None and is_folder(name):
        raise ValueError(f"--preset={name} is no name: a folder of save_preset says nothing of training.")
    return overridden(find_preset(name) if config is None else read_config(config), asked.set)


def read_config(path: str) -> Preset:
    """What a --config file defines. Run once, whoever asks; its classes are registered then.

    FileNotFoundError or ValueError, in one sentence, for no file, an error in it, and one that defines no preset.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"--config={path} is no file.")
    found = getattr(_module(file.resolve(), file.stat().st_mtime_ns), "preset", None)
    if not isinstance(found, Preset):
        has = "no variable `preset`" if found is None else f"a `preset` of type {type(found).__name__}"
        raise ValueError(f"--config={path} has {has}: it must define preset = keras_sid2.training.Preset(...).")
    return found


@functools.cache
def _module(path: pathlib.Path, _):
    name = f"sid2_config_{path.stem}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as of a program's own file
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        raise ValueError(f"--config={path}, {_where(error, path)}: {_reason(error)}") from error
    return module


def _where(error: BaseException, path: pathlib.Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}" if lines else "read as Python"


def _reason(error: BaseException) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    message = str(error.msg if isinstance(error, SyntaxError) else error).strip() or "no reason given"
    return f"{kind}{' '.join(message.split())}" + "." * (not message.endswith((".", "?")))
