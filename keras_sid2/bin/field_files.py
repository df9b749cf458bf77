"""What samples of fields are drawn for, and how they are written: NetCDF files and Zarr stores with named variables."""

import json
import os
import pathlib

import numpy as np

from keras_sid2 import SiD2Model
from keras_sid2.conditions import Frames, Image, Vector
from keras_sid2.io.atomic import atomic_write
from pipelines import xarrays
from pipelines.extras import require

_DIMENSIONS = ("sample", "member", "frame", "frame_truth", "y", "x")  # of what is written


def is_field_file(text: str) -> bool:
    """Whether a --condition is a file of variables, and not name=FILE."""
    return text.endswith(xarrays.SUFFIXES) and "=" not in text


def read_fields(path: str, model: SiD2Model) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """(conditions by name, the truth or None) in a file whose variables are named as the model's channels are, the
    samples their first dimension; what is there once for all samples has one row. Raises FileNotFoundError, and
    ValueError for what is no such file, and one that lacks a condition of the model or has a truth of another
    size."""
    if model.channels is None:
        raise ValueError(f"--condition={path} is of models with channels; for others there is --condition=name=FILE.")
    if not os.path.exists(path):
        raise FileNotFoundError(f"--condition={path} is no file.")
    _check_apart(model, dict.fromkeys(model.channels.names, "the samples"))
    with xarrays.open_dataset(path) as data:
        truth, found = _truth(data, path, model), {}
        for name, condition in model.conditions.items():
            if name == "label":
                continue
            if isinstance(condition, Frames):
                values = None if truth is None else truth[:, : condition.counts[1]]
            else:
                names = _variables(name, condition)
                whole = isinstance(condition, Vector) and name in data.data_vars and data[name].ndim == 2
                values = _stacked(data, (name,) if whole else names, len(condition.shape))
            if values is None:
                names = ", ".join(model.channels.names if condition.from_samples else _variables(name, condition))
                there = ", ".join(map(str, data.data_vars)) or "nothing"
                raise ValueError(f"--condition={path} must hold {names}, of the condition {name}; it holds {there}.")
            found[name] = values[None] if values.ndim == len(condition.shape) else values
    return found, truth


def _truth(data, path: str, model: SiD2Model) -> np.ndarray | None:
    """What samples should be, [N, ...], if the file says it; ValueError where it is of another size."""
    names, shape = model.channels.names, model.sample_shape
    values = _stacked(data, names, len(shape))
    if values is None:
        return None
    values = values[None] if values.ndim == len(shape) else values
    if values.ndim != len(shape) + 1 or values.shape[-3:] != shape[-3:]:
        told = f"{dict(data[names[0]].sizes)}, and the model draws {list(shape)}"
        raise ValueError(f"--condition={path} holds {', '.join(names)} of {told}: leave them out of the file.")
    return values


def _variables(name: str, condition) -> tuple[str, ...]:
    if condition.channels is not None:
        return condition.channels.names
    count = condition.shape[-1] if condition.shape else 1
    return (name,) if count == 1 else tuple(f"{name}_{i}" for i in range(count))


def _check_apart(model: SiD2Model, taken: dict[str, str]):
    """ValueError where conditions have variables of one name, or of those that are `taken`, by whom: the file would
    hold one in place of the other."""
    for name, condition in model.conditions.items():
        for variable in _variables(name, condition) if isinstance(condition, Image | Vector) else ():
            if variable in taken:
                told = f"{variable} is a channel of {taken[variable]} and of the condition {name}"
                advice = "give --condition=name=FILE.npz for each, and --format=npz"
                raise ValueError(f"{told}, which a NetCDF file cannot tell apart: {advice}.")
            taken[variable] = f"the condition {name}"


def _stacked(data, names: tuple[str, ...], rank: int) -> np.ndarray | None:
    """Variables [N, ...] as float32 [N, ..., C] of `rank` and one axes; None where one is not there."""
    if not all(name in data.data_vars for name in names):
        return None
    parts = [np.asarray(data[name].values, "float32") for name in names]
    return parts[0] if len(parts) == 1 and parts[0].ndim == rank + 1 else np.stack(parts, axis=-1)


def check_writable(model: SiD2Model):
    """Raises, before work starts, what stops `write_fields`: ImportError, or ValueError for names that it takes."""
    for module in ("xarray", "h5netcdf"):
        require(module, extra="fields")
    if taken := [name for name in model.channels.names if name in _DIMENSIONS or "/" in name]:
        raise ValueError(f"A NetCDF file cannot hold a channel named {taken[0]!r} beside its axes: give --format=npz.")
    _check_apart(model, {})


def write_fields(path, model: SiD2Model, made: np.ndarray, conditions: dict, truth: np.ndarray | None, drawn: dict):
    """A NetCDF file of `made` [N, (E,) (F,) H, W, C]: variables NAME of the channels, NAME_truth of what they should
    be, where it is known, and NAME_input of the conditions; how they were drawn as an attribute."""
    xarray = require("xarray", extra="fields")
    frames = ("frame",) * (len(model.sample_shape) == 4)
    size, variables = model.sample_shape[-3:-1], {}
    members = ("member",) * (made.ndim > len(model.sample_shape) + 1)
    for i, name in enumerate(model.channels.names):
        variables[name] = ("sample", *members, *frames, "y", "x"), made[..., i]
        if truth is not None:
            dims = ("sample", *(("frame_truth",) if frames and truth.shape[1] != made.shape[-4] else frames), "y", "x")
            variables[f"{name}_truth"] = dims, truth[..., i]
    for name, values in conditions.items():
        condition = model.conditions[name]
        if not isinstance(condition, Image | Vector):
            continue
        values = np.broadcast_to(values, (len(made), *values.shape[1:]))
        own = ("y", "x") if condition.shape[-3:-1] == size else (f"y_{name}", f"x_{name}")
        there = frames if frames and condition.shape[0] == made.shape[-4] else (f"frame_{name}",)
        dims = ("sample", *there[: len(condition.shape) - 3], *own) if isinstance(condition, Image) else ("sample",)
        for i, variable in enumerate(_variables(name, condition)):
            variables[f"{variable}_input"] = dims, values[..., i]
    data = xarray.Dataset(variables, attrs={"drawn_by": json.dumps(drawn)})
    with atomic_write(pathlib.Path(path)) as temporary:
        data.to_netcdf(temporary, engine="h5netcdf")
