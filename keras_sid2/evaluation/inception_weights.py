"""Weights of the FID Inception-v3: the published file, the same as .npz, and a hash that both share.

The published file is torch-fidelity's conversion of TensorFlow's graph of 2015-12-05; pytorch-fid's is the same. To
read it takes PyTorch. An .npz made of it, by `write_weights("inception.npz", read_weights(download_weights(folder)))`,
says that its arrays are the published ones, with their hash, which is checked; any other is of weights of one's own.
"""

import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping

import keras
import numpy as np

from keras_sid2 import backend
from keras_sid2.evaluation.inception_tables import weight_shapes
from keras_sid2.io import atomic

URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
FILE_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_ORIGIN = "published"  # the array of an .npz that says whose its weights are


class Weights(dict):
    """Arrays by name; `published`: whether they are known to be the published file's."""

    def __init__(self, arrays: Mapping[str, np.ndarray], *, published: bool):
        super().__init__(arrays)
        self.published = published


def read_weights(path: str | os.PathLike) -> Weights:
    """The arrays of `path` by torch-fidelity's names, float32, of the shapes that `weight_shapes` lists.

    A `.npz` holds these arrays. A `.pth` must be the published file, by its SHA-256, before anything in it is read.
    Raises FileNotFoundError; ValueError for another suffix, a damaged file, other arrays than these, or than the
    published ones in a file that says so; ImportError for a `.pth` where PyTorch is not installed.
    """
    path = pathlib.Path(path)
    readers = {".npz": read_arrays, ".pth": _read_pth}
    if path.suffix not in readers:
        raise ValueError(f"Inception weights are read from a .npz or the published .pth, got {str(path)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of Inception weights at {str(path)!r}.")
    arrays = readers[path.suffix](path)
    # Batch normalization's count of training steps; no prediction looks at it, and not every file has it.
    arrays = {name: array for name, array in arrays.items() if not name.endswith(".num_batches_tracked")}
    origin = arrays.pop(_ORIGIN, None)
    weights = _checked(arrays, str(path))
    if origin is not None and str(origin) != _origin(weights):
        raise ValueError(f"The Inception weights in {str(path)!r} are not the published ones, as it says they are.")
    return Weights(weights, published=path.suffix == ".pth" or origin is not None)


def write_weights(path: str | os.PathLike, weights: Mapping[str, np.ndarray]):
    """Saves `weights`, as `read_weights` gives them, as an atomic `.npz` that needs no PyTorch.

    ValueError for another suffix, or weights that `read_weights` would refuse.
    """
    if pathlib.Path(path).suffix != ".npz":
        raise ValueError(f"Inception weights are written as .npz, got {str(path)!r}.")
    arrays = _checked(weights, "what is to be written")
    origin = {_ORIGIN: np.array(_origin(arrays))} if getattr(weights, "published", False) else {}
    with atomic.atomic_write(path) as temporary:
        np.savez(temporary, **arrays, **origin)


def download_weights(folder: str | os.PathLike) -> pathlib.Path:
    """Path of the published file in `folder`, downloaded (96 MB) unless it is there already.

    ConnectionError where it cannot be had; ValueError where what is there, or came, is another file.
    """
    path = pathlib.Path(folder).expanduser() / URL.rpartition("/")[2]
    if path.exists():
        _check_hash(path)
        return path
    with atomic.atomic_write(path) as temporary:
        try:
            keras.utils.get_file(temporary.name, URL, cache_dir=temporary.parent, cache_subdir="")
        except Exception as error:  # Keras raises plain Exception here, and sockets errors of their own
            advice = "fetch that file where there is a network and give its path as `weights`"
            raise ConnectionError(
                f"The Inception weights could not be downloaded from {URL} ({error}); {advice}."
            ) from error
        _check_hash(temporary)
    return path


def weights_digest(weights: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, shapes and values, in hexadecimal: the same whichever file they came from."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {list(weights[name].shape)}\n".encode())
        digest.update(np.ascontiguousarray(weights[name], "<f4"))
    return digest.hexdigest()


def _origin(weights: Mapping[str, np.ndarray]) -> str:
    """What a file says of `weights` that came out of the published file."""
    return f"{FILE_SHA256} {weights_digest(weights)}"


def _check_hash(path: pathlib.Path):
    found = atomic.file_sha256(path)
    if found != FILE_SHA256:
        raise ValueError(
            f"{str(path)!r} is not the published file of Inception weights, whose SHA-256 starts with "
            f"{FILE_SHA256[:8]}: its own starts with {found[:8]}; delete it and download it again from {URL}."
        )


def _read_pth(path: pathlib.Path) -> dict[str, np.ndarray]:
    _check_hash(path)
    return backend.read_torch_file(path)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; ValueError for a file that is none, or holds anything else."""
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in arrays.files}  # bytes where it is no array
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is no .npz of plain arrays, or it is damaged ({error}).") from error


def _checked(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """`arrays` in the order of `weight_shapes`; ValueError naming the first that is not as it should be."""
    shapes = weight_shapes()
    for name in [*shapes, *arrays]:
        if name not in arrays:
            raise ValueError(f"Inception weights need an array {name!r}, which {source} lacks.")
        if name not in shapes:
            raise ValueError(f"Inception weights have no array {name!r}, which {source} has.")
        found = arrays[name]
        if found.shape != shapes[name] or found.dtype != np.float32:
            wanted, found = f"float32 {list(shapes[name])}", f"{found.dtype} {list(found.shape)}"
            raise ValueError(f"Inception weights need {name!r} as {wanted}, {source} has {found}.")
    return {name: arrays[name] for name in shapes}
