"""tfds builder for arrays by name."""

import dataclasses
import functools
import os
import re
import struct
import zipfile
from typing import Any

import numpy as np

from pipelines import images
from pipelines.datasets.arrays import Arrays
from pipelines.datasets.local_builder import PictureConfig
from pipelines.extras import as_names, check_count, near
from pipelines.values import SAMPLES, in_kept_dtype

KEYS = {"image": ("images", "arr_0", "image"), "video": ("videos", "video"), "label": ("labels", "arr_1", "label")}


@dataclasses.dataclass(eq=False, kw_only=True)
class NpzConfig(PictureConfig):
    """`source`: an .npz file, whose split is "train", or a folder of them, each a split of its name.

    Attributes:
        num_classes: labels are in 0..num_classes-1; None: up to the largest label.
        channel_names: of float samples in physical units, "u,v" or ["u", "v"]: one for each channel; they may be of
            any range, mean and deviation of each are kept in the data set, and those of the floats beside them, too.
        values: which arrays are kept beside the images and labels, "text,mask" or ["text", "mask"]; "none": none; None:
            all.
    """

    num_classes: int | None = None
    values: Any = None
    channel_names: Any = None

    ENCODINGS = images.ENCODINGS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_classes", self.num_classes)
        self.values = as_names("values", self.values, "text,mask (names of arrays) or none")
        self.channel_names = as_names("channel_names", self.channel_names, "u,v (a name for each channel)")
        self.files()

    def files(self) -> dict[str, str]:
        """{split: path}."""
        if not os.path.isdir(self.source):
            if not self.source.endswith(".npz"):
                raise ValueError(f"source must be an .npz file or a folder of them, got {self.source}")
            return {"train": self.source}
        names = sorted(name for name in os.listdir(self.source) if name.endswith(".npz"))
        if not names:
            raise ValueError(f"there are no .npz files in {self.source}")
        return {name[:-4]: os.path.join(self.source, name) for name in names}

    def opened(self, path: str) -> dict[str, np.ndarray]:
        return _opened(path, os.stat(path).st_mtime_ns, self.values)


class Npz(Arrays):
    """Arrays of the user's, all with a row for each example: uint8 images [N,H,W,C] in 0..255 (or float32 or float16 in
    [-1, 1]) under "images" or "arr_0", or clips [N,F,H,W,C] under "videos"; their classes, integers [N], under "labels"
    or "arr_1", where there are any; and any others under names of their own: numbers [N], embeddings [N,L,D], second
    images and fields [N,H,W,C]. With images and labels alone that is also the layout of ADM's sample files. Four
    channels of uint8 images are RGBA, composited on `background`.

    The arrays are read row by row where they lie. In a compressed file that is not possible: save it with
    `numpy.savez`.
    """

    CONFIG = NpzConfig


@functools.lru_cache(maxsize=8)
def _opened(path: str, changed: int, values: str | None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, the sample first, mapped and not read; kept while the file stays as it is.
    Raises ValueError: it holds something else, or has no arrays of the names in `values`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name[:-4]: archive.getinfo(name) for name in archive.namelist() if name.endswith(".npy")}
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz file ({error})") from None
    keys = _chosen(path, list(members), values)
    arrays = {name: _mapped(path, members[key]) for name, key in keys.items()}
    sample, pixels = next(iter(arrays.items()))
    clips, floats = sample == "video", pixels.dtype.name in ("float16", "float32")
    if pixels.ndim != 4 + clips or not (floats or pixels.dtype == np.uint8 and pixels.shape[-1] in images.MODES):
        raise ValueError(
            f"{keys[sample]!r} of {path} must be uint8 [N,{'F,' * clips}H,W,1, 3 or 4], got {pixels.dtype} "
            f"{list(pixels.shape)}; floats in [-1, 1], or with channel_names, may be float32 or float16"
        )
    count = len(pixels)
    for name, array in arrays.items():
        what, told = f"{keys[name]!r} of {path} must", f"got {array.dtype} {list(array.shape)}"
        if name == "label" and (array.shape != (count,) or not np.issubdtype(array.dtype, np.integer)):
            raise ValueError(f"{what} be integers [{count}], {told}")
        if not array.ndim or len(array) != count:
            raise ValueError(
                f"{what} have {count} rows as {keys[sample]!r} has, {told}: mend it, or name the arrays that are to be "
                "kept (on the command line: --values=NAME,... or none)"
            )
        try:
            arrays[name] = np.array(array) if name == "label" else in_kept_dtype(keys[name], array)
        except ValueError as error:
            raise ValueError(f"array {error}, or leave it out (--values); it is in {path}") from None
    return arrays


def _chosen(path: str, keys: list[str], values: str | None) -> dict[str, str]:
    """{name: key} of the arrays that are kept, the sample first, then the label."""
    roles = {name: key for name, some in KEYS.items() if (key := next((k for k in some if k in keys), None))}
    samples = [roles[name] for name in SAMPLES if name in roles]
    if len(samples) != 1:
        what = f"both {' and '.join(samples)}" if samples else f"no array {' or '.join(KEYS['image'][:2])}"
        raise ValueError(f"{path} has {what}, but {', '.join(keys) or 'nothing'}")
    others = [key for key in keys if not any(key in some for some in KEYS.values())]
    chosen = others if values is None else [] if values == "none" else values.split(",")
    for name in chosen:
        if name not in others:
            have = ", ".join(others) or "none beside images and labels"
            raise ValueError(f"{path} has no array {name!r}, but {have}{near(name, others)}")
        if not re.fullmatch(r"[A-Za-z]\w*", name) or name.startswith("arr_"):
            raise ValueError(f"the array {name!r} of {path} needs a name of letters, digits and '_': savez(text=array)")
    return roles | {name: name for name in chosen}


def _mapped(path: str, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of an .npz file as a memory map."""
    where = f"{member.filename} in {path}"
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{where} is compressed, and cannot be read in pieces: save it with numpy.savez")
    with open(path, "rb") as file:
        try:
            # A member begins with a header of 30 bytes; its last two numbers are the lengths of the name and the extra
            # field that follow it.
            file.seek(member.header_offset + 26)
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            old = np.lib.format.read_magic(file) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            if not dtype.hasobject:
                return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
        except OSError:
            raise
        except Exception as error:  # numpy raises ValueError, SyntaxError, tokenize.TokenError...
            raise ValueError(f"{where} is no array ({' '.join(str(error).split())})") from None
    raise ValueError(f"{where} holds Python objects, which are not read")
