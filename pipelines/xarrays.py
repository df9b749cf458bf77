"""NetCDF files and Zarr stores through xarray."""

import json
import os
from typing import Any

from pipelines.extras import require

SUFFIXES = (".nc", ".zarr")
_STORE = ("zarr.json", ".zgroup", ".zmetadata")  # files that make a folder a Zarr store


def open_dataset(path: str) -> Any:
    """The data set of a NetCDF file or a Zarr store. Raises ValueError: it is none, or pickles are in it."""
    xarray = require("xarray", extra="fields")
    try:
        engine = _engine(path)
        require({"zarr": "zarr", "h5netcdf": "h5netcdf", "scipy": "scipy.io"}[engine], extra="fields")
        return xarray.open_dataset(path, engine=engine, decode_timedelta=False)
    except (ImportError, FileNotFoundError):
        raise
    except Exception as error:  # of many kinds, from h5py, zarr and xarray
        raise ValueError(f"{path} cannot be read as NetCDF or Zarr: {' '.join(str(error).split())}") from None


def _engine(path: str) -> str:
    if os.path.isdir(path):
        _refuse_pickles(path)
        return "zarr"
    with open(path, "rb") as file:
        return "scipy" if file.read(3) == b"CDF" else "h5netcdf"


def _refuse_pickles(store: str) -> None:
    """Objects in a Zarr store may be pickles, which run code when they are read."""
    for folder, _, names in os.walk(store):
        for name in names:
            if name not in (".zarray", ".zmetadata", "zarr.json"):
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                told = json.dumps(json.load(file))
            if '"pickle"' in told:
                raise ValueError(f"{name} in {folder} says that it holds pickled objects, which are not read")


def is_store(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in _STORE)
