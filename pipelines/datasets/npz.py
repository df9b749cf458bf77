"""tfds builder for arrays of images."""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import zipfile
from typing import BinaryIO

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, LocalInfo, Made, PictureConfig

IMAGE_KEYS, LABEL_KEYS = ("images", "arr_0"), ("labels", "arr_1")


@dataclasses.dataclass(eq=False, kw_only=True)
class NpzConfig(PictureConfig):
    """`source`: an .npz file, whose split is "train", or a folder of them, each a split of its name.

    Attributes:
        num_classes: labels are in 0..num_classes-1; None: up to the largest label.
    """

    num_classes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes is not None and (not isinstance(self.num_classes, int) or self.num_classes < 1):
            raise ValueError(f"num_classes must be None or at least 1, got {self.num_classes!r}")
        if self.encoding == "original":
            raise ValueError("encoding must be png or jpeg for arrays, got 'original'")
        self.files()

    def files(self) -> dict[str, str]:
        """{split: path}."""
        if not os.path.isdir(self.source):
            if not self.source.endswith(".npz"):
                raise ValueError(f"source must be an .npz file or a folder of them, got {self.source}")
            return {"train": self.source}
        found = {
            name[:-4]: os.path.join(self.source, name)
            for name in sorted(os.listdir(self.source))
            if name.endswith(".npz")
        }
        if not found:
            raise ValueError(f"there are no .npz files in {self.source}")
        return found


class Npz(LocalBuilder):
    """Arrays of the user's: uint8 images [N,H,W,C] in 0..255 under "images" or "arr_0", and their classes, integers
    [N], under "labels" or "arr_1", where there are any. That is also the layout of ADM's sample files. Four channels
    are RGBA, composited on `background`.

    The arrays are read image by image where they lie. In a compressed file that is not possible: save it with
    `numpy.savez`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    CONFIG = NpzConfig

    def _info(self) -> LocalInfo:
        config = self.builder_config
        files = {split: _open(path) for split, path in config.files().items()}
        shapes = {arrays.images.shape[1:] for arrays in files.values()}
        size = config.image_size
        height, width, channels = shapes.pop() if len(shapes) == 1 else (None, None, 3)
        shape = (size, size, config.channels) if size else (height, width, config.channels)
        features = {"image": tfds.features.Image(shape=shape, encoding_format=config.encoding)}
        labelled = {arrays.labels is not None for arrays in files.values()}
        if len(labelled) > 1:
            raise ValueError(f"some of the files in {config.source} have labels and some have not")
        if labelled == {True}:
            most = max(int(arrays.labels.max(initial=0)) for arrays in files.values()) + 1
            features["label"] = tfds.features.ClassLabel(num_classes=config.num_classes or most)
        return LocalInfo(
            builder=self,
            description=inspect.cleandoc(self.__class__.__doc__),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if "label" in features else None,
        )

    def listing(self) -> dict[str, list[Item]]:
        return {split: self._items(path) for split, path in self.builder_config.files().items()}

    def _items(self, path: str) -> list[Item]:
        arrays, most = _open(path), self.builder_config.num_classes
        labels = [None] * len(arrays.images) if arrays.labels is None else arrays.labels.tolist()
        for index, label in enumerate(labels):
            if label is not None and not 0 <= label < (most or 2**31):
                raise ValueError(f"label {label} of image {index} in {path} is outside 0..{(most or 2**31) - 1}")
        return [Item(f"{index:09d}", label, (path, index)) for index, label in enumerate(labels)]

    def example(self, item: Item) -> Made:
        path, index = item.source
        pixels = np.ascontiguousarray(_open(path).images[index])
        try:
            image, changes = self.builder_config.stored(images.from_pixels(pixels), upright=False)
        except images.BadImage as error:
            raise BadSource(f"image {index} of {path} {error}") from None
        features = {"image": image} if item.label is None else {"image": image, "label": item.label}
        return Made(features, hashlib.blake2b(pixels.tobytes(), digest_size=16).digest(), changes)


@dataclasses.dataclass(frozen=True)
class _Arrays:
    images: np.ndarray
    labels: np.ndarray | None


def _open(path: str) -> _Arrays:
    """The arrays of an .npz file, mapped and not read; kept while the file stays as it is.

    Raises:
        ValueError: it holds something else.
    """
    return _opened(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _opened(path: str, changed: int) -> _Arrays:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist() if name.endswith(".npy")
            }
            image_key = next((key for key in IMAGE_KEYS if key in members), None)
            if image_key is None:
                raise ValueError(
                    f"{path} has no array {' or '.join(IMAGE_KEYS)}, but {', '.join(members) or 'nothing'}"
                )
            label_key = next((key for key in LABEL_KEYS if key in members), None)
            pixels = _mapped(path, archive, members[image_key])
            labels = None if label_key is None else np.array(_mapped(path, archive, members[label_key]))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no .npz file ({error})") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] not in images.MODES:
        raise ValueError(
            f"{image_key!r} of {path} must be uint8 [N,H,W,1, 3 or 4], got {pixels.dtype} {list(pixels.shape)}"
        )
    if labels is not None and (labels.shape != pixels.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"{label_key!r} of {path} must be integers [{len(pixels)}], got {labels.dtype} {list(labels.shape)}"
        )
    return _Arrays(pixels, labels)


def _mapped(path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array of an .npz file as a memory map."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{member.filename} in {path} is compressed, and cannot be read in pieces: save it with numpy.savez"
        )
    with contextlib.ExitStack() as stack:
        inside: BinaryIO = stack.enter_context(archive.open(member))
        version = np.lib.format.read_magic(inside)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(inside)
        header = inside.tell()
        file = stack.enter_context(open(path, "rb"))
        # The local header of a member, 30 bytes, is followed by its name and an extra field of any length.
        file.seek(member.header_offset + 26)
        start = member.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
    if dtype.hasobject:
        raise ValueError(f"{member.filename} in {path} holds Python objects, which are not read")
    return np.memmap(path, dtype, "r", start + header, shape, "F" if fortran else "C")
