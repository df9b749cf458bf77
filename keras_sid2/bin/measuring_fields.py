"""sid2-evaluate --features=fields: ensembles, or single fields, in one file beside the truth in another."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from keras_sid2.bin import signals
from keras_sid2.evaluation import Measurement, measure_fields
from keras_sid2.evaluation.ensembles import names_of
from pipelines import xarrays

_ARRAYS = ("samples", "images", "arr_0")
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a file holds: float [N, (E,) H, W, C]; names of channels and degrees of latitude [H], where it says them."""

    values: np.ndarray
    names: tuple[str, ...] | None
    latitude: np.ndarray | None


def read_fields(path: str, truth_of: tuple[str, ...] | None = None) -> Fields:
    """Of an .npz with fields as samples, images or arr_0, and beside them, where they are known, channels [C], texts,
    and latitude [H]; or of a NetCDF file or Zarr store with a variable a channel, (sample, [member,] y, x): of the
    channels `truth_of`, NAME_truth before NAME, or all that have members, or all. FileNotFoundError, and ValueError for
    files without, and for bytes."""
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{path} is no file.")
    if are_variables(path):
        return _of_variables(path, truth_of)
    if pathlib.Path(path).is_dir():
        raise ValueError(f"Fields are measured from .npz, .nc or .zarr, and {path} is another folder.")
    return _of_npz(path)


def are_variables(path: str) -> bool:
    """Whether it is named as a NetCDF file or Zarr store."""
    return path.rstrip("/").endswith(xarrays.SUFFIXES)


def _of_npz(path: str) -> Fields:
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = dict.fromkeys(archive.files)
            name = next((name for name in _ARRAYS if name in held), None)
            found = {key: archive[key] for key in (name, "channels", "latitude") if key in held}
    except (AttributeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file that can be read: {error}") from error
    if name is None:
        told = ", ".join(held) or "nothing"
        raise ValueError(f"{path} must hold fields as {', '.join(_ARRAYS[:2])} or {_ARRAYS[2]}; it holds {told}.")
    values = found[name]
    if values.ndim not in (4, 5) or not np.issubdtype(values.dtype, np.floating):
        shape = f"{values.dtype} {list(values.shape)}"
        raise ValueError(f"{name} of {path} must be float [N, H, W, C] or, of ensembles, [N, E, H, W, C], got {shape}.")
    names = names_of(tuple(map(str, found["channels"])), values.shape[-1]) if "channels" in found else None
    return Fields(values, names, found.get("latitude"))


def _of_variables(path: str, truth_of: tuple[str, ...] | None) -> Fields:
    with xarrays.open_dataset(path) as data:
        if truth_of is None:
            members = [name for name in data.data_vars if "member" in data[name].dims]
            plain = [name for name in data.data_vars if not str(name).endswith(("_truth", "_input"))]
            names = tuple(map(str, members or plain))
            chosen = names
        else:
            names = truth_of
            chosen = [f"{name}_truth" if f"{name}_truth" in data.data_vars else name for name in names]
        shapes = {data[name].shape if name in data.data_vars else None for name in chosen}
        if None in shapes or len(shapes) != 1 or len(next(iter(shapes))) not in (3, 4):
            told = ", ".join(f"{name} {dict(v.sizes)}" for name, v in data.data_vars.items()) or "nothing"
            wanted = ", ".join(chosen) or "variables"
            raise ValueError(f"{path} must hold {wanted}, of one shape (sample, [member,] y, x); it holds {told}.")
        clips = [name for name in chosen if "frame" in data[name].dims]
        if clips:  # whose frames would be taken for members
            told = f"{clips[0]} of {path} is {dict(data[clips[0]].sizes)}"
            raise ValueError(f"--features=fields are of single fields or ensembles of them, and not of clips: {told}.")
        values = np.stack([np.asarray(data[name].values, "float32") for name in chosen], axis=-1)
        latitude = next((data[name].values for name in ("latitude", "lat") if name in data.variables), None)
    return Fields(values, names, latitude)


def measure_field_files(samples: str, reference: str, *, periodic: tuple, by_latitude: bool) -> Measurement:
    """Of two files; ValueError where they do not go together, or do not say the latitude."""
    ours = read_fields(samples)
    true = read_fields(reference, ours.names)
    if ours.names and true.names and ours.names != true.names:
        told = f"{', '.join(ours.names)} in {samples} and {', '.join(true.names)} in {reference}"
        raise ValueError(f"Samples and truth must have the same channels, and these are {told}.")
    if ours.values.ndim == 5 and len(ours.values) != len(true.values):
        told = f"{len(ours.values)} in {samples} and {len(true.values)} in {reference}"
        raise ValueError(f"Each ensemble needs its truth, in their order: there are {told}.")
    latitude = true.latitude if ours.latitude is None else ours.latitude
    if by_latitude and latitude is None:
        files = samples if samples == reference else f"{samples} or {reference}"
        raise ValueError(f"--by_latitude needs an array latitude (or lat), degrees of each row, in {files}.")
    weights = _row_weights(latitude) if by_latitude else None
    names = ours.names or true.names
    batches = signals.looking_between(_batches(ours.values, true.values))
    return measure_fields(
        batches, names, periodic=periodic, weights=weights, drawn={"samples": pathlib.Path(samples).name}
    )


def _row_weights(latitude: np.ndarray) -> np.ndarray:
    """The cosine, in float64, as that of 90 degrees in float32 is below 0."""
    if not np.issubdtype(latitude.dtype, np.number):
        raise ValueError(f"The latitude must be numbers, the degrees of each row, got {latitude.dtype}.")
    return np.cos(np.deg2rad(latitude.astype("float64")))


def _batches(samples: np.ndarray, truth: np.ndarray):
    for start in range(0, max(len(samples), len(truth)), _BATCH):
        yield samples[start : start + _BATCH], truth[start : start + _BATCH]
