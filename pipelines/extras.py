"""The optional dependencies, each imported only by the function that needs it, and checks that all modules share."""

import difflib
import importlib
import os
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etils import epath


def require(module: str, *, extra: str) -> ModuleType:
    """Imports and returns `module`. Raises ImportError: it cannot be imported; the sentence names the extra with it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f'{package} is needed for this and cannot be imported ({error}): pip install "keras_sid2[{extra}]"',
            name=package,
        ) from error


def require_tfds() -> ModuleType:
    return require("tensorflow_datasets", extra="data")


def require_tensorflow() -> ModuleType:
    """Imports and returns tensorflow. Where Keras computes with another backend, GPUs and TPUs are hidden from it: it
    would reserve most of their memory at its first operation."""
    tf = require("tensorflow", extra="data")
    keras = sys.modules.get("keras")
    if keras is not None and keras.backend.backend() != "tensorflow":
        for kind in ("GPU", "TPU"):
            try:
                tf.config.set_visible_devices([], kind)
            except (ValueError, RuntimeError, tf.errors.NotFoundError):
                pass  # no such device, or TensorFlow has already taken it: too late to change
    return tf


def tfds_path(path: str | os.PathLike | None) -> "epath.Path":
    """Returns `path` as tfds reads paths, with ~ expanded; None: the default directory of tfds."""
    core = require_tfds().core
    return core.Path(core.constants.DATA_DIR if path is None else path).expanduser()


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'digits'?" for a name close to a known one, else the empty string."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def as_names(setting: str, value: Any, such_as: str) -> str | None:
    """Names joined by commas, as settings keep them, of such a text or a list; "none" of an empty one. Raises
    ValueError: it is neither, or names one twice."""
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Iterable) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{setting} must be like {such_as}, got {value!r}")
    if len(set(names)) < len(list(names)):
        raise ValueError(f"{setting} names one twice: {','.join(names)}")
    return ",".join(names) or "none"


def check_count(name: str, value: Any, least: int = 1, *, none: bool = True) -> None:
    """ValueError unless `value` is a whole number of at least `least`, or None where that may be."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole and not (none and value is None):
        raise ValueError(f"{name} must be {'None or' if none else 'an integer of'} at least {least}, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
