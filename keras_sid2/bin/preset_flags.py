"""--preset, --config and --set: which preset a program works with."""

import functools
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Iterable

from absl import flags

from keras_sid2.training import Preset, find_preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.preset_folder import is_folder

TEXTS = {
    "preset": "name of the model, see keras_sid2.list_presets()",
    "config": "a Python file that defines `preset`, a keras_sid2.training.Preset; it may define a network's class, too",
    "set": "path=value, any number of times: changes the preset, as objective.weighting.bias=-2",
}


def define(values: flags.FlagValues = flags.FLAGS, **texts: str):
    """Defines the three flags; `texts` say otherwise what they are."""
    texts = {**TEXTS, **texts}
    flags.DEFINE_string("preset", None, texts["preset"], flag_values=values)
    flags.DEFINE_string("config", None, texts["config"], flag_values=values)
    flags.DEFINE_multi_string("set", [], texts["set"], flag_values=values)


def preset_from_flags(values: flags.FlagValues = flags.FLAGS) -> Preset:
    """The preset that the flags say; raises, in one sentence, what is wrong with them."""
    return chosen_preset(values.preset, values.config, values.set)


def chosen_preset(name: str | None, config: str | None, changes: Iterable[str] = ()) -> Preset:
    """Of a name or a --config file, one of both, with changes; ValueError or FileNotFoundError for what is none."""
    if (name is None) == (config is None):
        raise ValueError("Give --preset, the name of one, or --config, a file that defines one.")
    if name is not None and is_folder(name):
        raise ValueError(
            f"--preset={name} is no name: a folder of save_preset says nothing of training, sid2-sample takes it."
        )
    return overridden(find_preset(name) if config is None else read_config(config), changes)


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
    spec = importlib.util.spec_from_loader(name, loader=None, origin=str(path))
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as of a program's own file
    sys.modules[name] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name)
        raise ValueError(f"--config={path}, {_where(error, path)}: {_told(error)}") from error
    return module


def _where(error: BaseException, path: pathlib.Path) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}" if lines else "read as Python"


def _told(error: BaseException) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    message = str(error.msg if isinstance(error, SyntaxError) else error).strip() or "no reason given"
    return f"{kind}{' '.join(message.split())}" + "." * (not message.endswith((".", "?")))
