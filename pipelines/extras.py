"""The optional dependencies, each imported only by the function that needs it, and what all modules say alike."""

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
    """Imports and returns `module`. Raises ImportError: if the module cannot be imported; the sentence names the extra
    that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f'{package} is needed for this and cannot be imported ({error}): pip install "keras_sid2[{extra}]"',
            name=package,
        ) from error


def near(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'digits'?" for a name close to a known one, else the empty string."""
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def check_count(name: str, value: Any, least: int = 1, *, none: bool = True) -> None:
    """ValueError unless `value` is a whole number of at least `least`, or None where that may be."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not whole and not (none and value is None):
        raise ValueError(f"{name} must be {'None or' if none else 'an integer of'} at least {least}, got {value!r}")


def require_tensorflow() -> ModuleType:
    """Imports and returns tensorflow, made safe to stand beside another Keras backend."""
    tf = require("tensorflow", extra="data")
    _leave_accelerators_to_keras(tf)
    return tf


def require_tfds() -> ModuleType:
    """Imports and returns tensorflow_datasets."""
    return require("tensorflow_datasets", extra="data")


def tfds_path(path: str | os.PathLike | None) -> "epath.Path":
    """Returns `path` as tfds reads paths, with ~ expanded; None: the default directory of tfds."""
    core = require_tfds().core
    return core.Path(core.constants.DATA_DIR if path is None else path).expanduser()


def _leave_accelerators_to_keras(tf: ModuleType) -> None:
    """Hides GPUs and TPUs from TensorFlow if Keras computes with another backend.

    TensorFlow would otherwise reserve most of the accelerator's memory at its first operation, beside jax or
    torch, which need it. Without Keras in the process TensorFlow is left alone.
    """
    keras = sys.modules.get("keras")
    if keras is None or keras.backend.backend() == "tensorflow":
        return
    for kind in ("GPU", "TPU"):
        try:
            tf.config.set_visible_devices([], kind)
        except (ValueError, RuntimeError, tf.errors.NotFoundError):
            pass  # no such device, or TensorFlow has already taken it: too late to change
