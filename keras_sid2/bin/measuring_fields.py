"""sid2-evaluate --features=fields: ensembles, or single fields, in one file beside the truth in another."""

import dataclasses
import pathlib
import zipfile

import numpy as np

from keras_sid2.bin import signals
from keras_sid2.evaluation import Measurement, measure_fields
from keras_sid2.evaluation.ensembles import names_of

TEXT = "or fields: scores of float fields --samples, .npz"
_ARRAYS = ("samples", "images", "arr_0")
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a file holds: float [N, (E,) H, W, C]; names of channels and degrees of latitude [H], where it says them."""

    values: np.ndarray
    names: tuple[str, ...] | None
    latitude: np.ndarray | None


def read_fields(path: str) -> Fields:
    """Of an .npz with fields as samples, images or arr_0, and beside them, where they are known, channels [C], texts,
    and latitude [H]. FileNotFoundError, and ValueError for files without, and for bytes."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file.")
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


def measure_field_files(samples: str, reference: str, *, periodic: tuple, by_latitude: bool) -> Measurement:
    """Of two files; ValueError where they do not go together, or do not say the latitude."""
    ours, true = read_fields(samples), read_fields(reference)
    if ours.names and true.names and ours.names != true.names:
        told = f"{', '.join(ours.names)} in {samples} and {', '.join(true.names)} in {reference}"
        raise ValueError(f"Samples and truth must have the same channels, and these are {told}.")
    if ours.values.ndim == 5 and len(ours.values) != len(true.values):
        told = f"{len(ours.values)} in {samples} and {len(true.values)} in {reference}"
        raise ValueError(f"Each ensemble needs its truth, in their order: there are {told}.")
    latitude = true.latitude if ours.latitude is None else ours.latitude
    if by_latitude and latitude is None:
        raise ValueError(f"--by_latitude needs an array latitude in {samples} or {reference}, degrees of each row.")
    weights = np.cos(np.deg2rad(latitude)) if by_latitude else None
    names = ours.names or true.names
    batches = signals.looking_between(_batches(ours.values, true.values))
    return measure_fields(
        batches, names, periodic=periodic, weights=weights, drawn={"samples": pathlib.Path(samples).name}
    )


def _batches(samples: np.ndarray, truth: np.ndarray):
    for start in range(0, max(len(samples), len(truth)), _BATCH):
        yield samples[start : start + _BATCH], truth[start : start + _BATCH]
