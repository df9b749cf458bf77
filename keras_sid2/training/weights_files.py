"""Files with the weights of a model, compared with it by names and shapes before any weight is loaded.

Keras passes over weights that it finds no place for, and of those that do not fit it says that none were there.
"""

import contextlib
import os
import pathlib
import zipfile

import h5py
import numpy as np
from keras.src.saving import saving_lib

_IN_KERAS_FILE = "model.weights.h5"
_PART = "layers/"  # of the names in a file; what is beside them is the model's own, or its optimizer's


class _Shapes(saving_lib.H5IOStore):
    """What keras would write, by name, without writing it."""

    def __init__(self):
        self.found, self._at = {}, ""

    def make(self, path, metadata=None):
        self._at = path
        return self

    def __bool__(self):
        return True

    def __setitem__(self, key, value):
        self.found[f"{self._at}/vars/{key}"] = tuple(value.shape)


def save_weights(path: os.PathLike, model):
    """keras's save_weights, without the optimizer's."""
    saving_lib.save_weights_only(model, path, objects_to_skip=[getattr(model, "optimizer", None)])


def save_averages(path: pathlib.Path, model, dtype: str):
    """The averages of an `AveragedModel`, as the weights of its network, rounded to `dtype`; `step`, and nothing else.

    Keras converts what it reads to the variables' float32. ValueError for weights that are not finite in `dtype`.
    """
    whole = path.with_name(f"whole_{path.name}")
    with model.averaged_weights():
        save_weights(whole, model)
    with h5py.File(whole) as source, h5py.File(path, "w") as file:
        _copy_rounded(source, file, dtype)
    whole.unlink()


def _copy_rounded(source: h5py.Group, to: h5py.Group, dtype: str):
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            group = to.create_group(name)
            group.attrs.update(item.attrs)
            _copy_rounded(item, group, dtype)
        elif item.name.startswith(f"/{_PART}"):
            with np.errstate(over="ignore"):
                values = item[()].astype(dtype if item.dtype == "float32" else item.dtype)
            if not np.isfinite(values).all():
                raise ValueError(f"The weights cannot be written as {dtype}: {item.name} is not finite in it.")
            to[name] = values
        elif name == "step":  # beside it the model's own are averages
            to[name] = item[()]


def check_weights_file(path: str | os.PathLike, model):
    """ValueError, with the first difference, unless a .weights.h5 or .keras file has the weights of `model`'s layers.

    Files of other kinds are left to keras. OSError if the disk does not answer, or there is no such file.
    """
    kind = next((kind for kind in (".weights.h5", ".keras") if str(path).endswith(kind)), None)
    if kind is None:
        return
    store, there = _Shapes(), _shapes_in(path, kind)
    saving_lib._save_state(model, store, None, inner_path="", visited_saveables={id(getattr(model, "optimizer", None))})
    wanted = {name: shape for name, shape in store.found.items() if name.startswith(_PART)}
    for name in sorted({*wanted, *there}):
        if wanted.get(name) != there.get(name):
            has, needs = (f"{list(s[name])}" if name in s else "none" for s in (there, wanted))
            differs = f"of {name.removeprefix(_PART)} it has {has}, and the network {needs}"
            advice = "Make the model that it is of, or pass skip_mismatch=True to load what fits."
            raise ValueError(f"{path} does not hold the weights of this model's network: {differs}. {advice}")


def _shapes_in(path: str | os.PathLike, kind: str) -> dict[str, tuple]:
    found = {}

    def look(name, item):
        if isinstance(item, h5py.Dataset) and name.startswith(_PART):
            found[name] = tuple(item.shape)

    try:
        with contextlib.ExitStack() as stack:
            file = path
            if kind == ".keras":
                file = stack.enter_context(stack.enter_context(zipfile.ZipFile(path)).open(_IN_KERAS_FILE))
            stack.enter_context(h5py.File(file)).visititems(look)
    except (OSError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        if getattr(error, "errno", None):  # the disk's; h5py's own has none
            raise
        raise ValueError(f"{path} is no {kind} file that can be read: {error}.") from error
    return found
