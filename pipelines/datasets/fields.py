"""tfds builder for fields in NetCDF or Zarr, through xarray: weather, oceans, physics."""

import dataclasses
import functools
import os
from typing import Any

import numpy as np

from pipelines.datasets.arrays import Arrays
from pipelines.datasets.local_builder import SourceConfig
from pipelines.extras import as_names, near
from pipelines.xarrays import SUFFIXES, is_store, open_dataset


@dataclasses.dataclass(eq=False, kw_only=True)
class FieldsConfig(SourceConfig):
    """`source`: a .nc file or .zarr folder, whose split is "train", or a folder of them, each a split of its name.

    Attributes:
        variables: of the samples, "u,v" or ["u", "v"]: the channels, each (sample, [frame,] y, x) of one size.
        condition_variables: each a value of its own name beside the sample: (sample, [frame,] y, x) in its own
            resolution, (y, x) that is the same for all samples, (sample) one number, or (sample, k) a vector.
        sample_dim: the dimension that runs over examples.
    """

    variables: Any
    condition_variables: Any = None
    sample_dim: str = "time"

    num_classes = values = None  # there are no labels

    def __post_init__(self) -> None:
        super().__post_init__()
        self.variables = as_names("variables", self.variables, "u,v (names of variables)")
        self.condition_variables = as_names("condition_variables", self.condition_variables, "low,mask")
        if not isinstance(self.sample_dim, str) or not self.sample_dim:
            raise ValueError(f"sample_dim must be the name of a dimension, got {self.sample_dim!r}")
        self.files()

    def default_name(self) -> str:
        return super().default_name().removesuffix(f"-{self.encoding}")

    @property
    def channel_names(self) -> str:
        return self.variables

    def files(self) -> dict[str, str]:
        """{split: path}."""
        if self.source.endswith(SUFFIXES) or is_store(self.source):
            return {"train": self.source}
        names = sorted(os.listdir(self.source)) if os.path.isdir(self.source) else []
        found = {os.path.splitext(name)[0]: name for name in names if name.endswith(SUFFIXES)}
        if not found:
            raise ValueError(f"source must be a .nc file, a .zarr store, or a folder of them, got {self.source}")
        return {split: os.path.join(self.source, name) for split, name in found.items()}

    def opened(self, path: str) -> "dict[str, _Stack]":
        others = "" if self.condition_variables in (None, "none") else self.condition_variables
        return _opened(path, os.stat(path).st_mtime_ns, self.variables, others, self.sample_dim)


class Fields(Arrays):
    """Fields of the user's, float32 in physical units: variables of NetCDF files or Zarr stores as the channels of
    samples [H,W,C], or of clips [F,H,W,C], and others beside them. Mean and deviation of each are kept. Read one sample
    at a time; what is missing there (NaN) makes an example bad."""

    CONFIG = FieldsConfig


class _Stack:
    """Variables with the same dimensions, stacked as float32 [N, ..., C]; those without samples are there for all."""

    def __init__(self, variables: list, dim: str, count: int) -> None:
        self._variables, self._dim = variables, dim
        own = [size for name, size in zip(variables[0].dims, variables[0].shape, strict=True) if name != dim]
        # Of one number or a vector the numbers are the channels.
        self._stacks = len(own) > 1 or not own
        self.shape = (count, *own, *([len(variables)] if self._stacks else []))
        self.dtype, self.ndim = np.dtype("float32"), len(self.shape)

    def __getitem__(self, index: int) -> np.ndarray:
        parts = [v.isel({self._dim: index}) if self._dim in v.dims else v for v in self._variables]
        values = [np.asarray(part.values, "float32") for part in parts]
        return np.stack(values, axis=-1) if self._stacks else values[0]


@functools.lru_cache(maxsize=8)
def _opened(path: str, changed: int, variables: str, others: str, dim: str) -> dict[str, _Stack]:
    """The sample and the values beside it; nothing but descriptions is read."""
    data = open_dataset(path)
    chosen = [_variable(data, name, path) for name in variables.split(",")]
    for variable in chosen:
        _check_sample(variable, chosen[0], dim, path)
    count = chosen[0].sizes[dim]
    chosen = [variable.transpose(dim, ...) for variable in chosen]
    found = {"video" if chosen[0].ndim == 4 else "image": _Stack(chosen, dim, count)}
    for name in others.split(",") if others else ():
        variable = _variable(data, name, path)
        if dim in variable.dims:
            variable = variable.transpose(dim, ...)
        found[name] = _Stack([variable], dim, count)
    return found


def _variable(data: Any, name: str, path: str) -> Any:
    if name not in data.data_vars:
        there = ", ".join(map(str, data.data_vars)) or "none"
        raise ValueError(f"there is no variable {name!r} in {path}, but {there}{near(name, map(str, data.data_vars))}")
    if data[name].dtype.kind not in "fiub":
        raise ValueError(f"{name!r} of {path} is no variable of numbers, but {data[name].dtype}")
    return data[name]


def _check_sample(variable: Any, first: Any, dim: str, path: str) -> None:
    shown = f"{variable.name!r} of {path} is {dict(variable.sizes)}"
    if dim not in variable.dims or variable.ndim not in (3, 4):
        raise ValueError(
            f"variables must be ({dim}, y, x) or ({dim}, frame, y, x), and {shown}: give --sample_dim=NAME"
        )
    if dict(variable.sizes) != dict(first.sizes):
        raise ValueError(f"variables must have the same dimensions: {shown}, and {first.name!r} {dict(first.sizes)}")
