"""tfds builder for arrays by name."""

import dataclasses
import functools
import os
import re
import struct
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, PictureConfig, digest_of, feature_of
from pipelines.extras import check_count, near
from pipelines.values import SAMPLES, ValueSpec, fault_in, in_kept_dtype

KEYS = {"image": ("images", "arr_0", "image"), "video": ("videos", "video"), "label": ("labels", "arr_1", "label")}


@dataclasses.dataclass(eq=False, kw_only=True)
class NpzConfig(PictureConfig):
    """`source`: an .npz file, whose split is "train", or a folder of them, each a split of its name.

    Attributes:
        num_classes: labels are in 0..num_classes-1; None: up to the largest label.
        values: which arrays are kept beside the images and labels, "text,mask" or ["text", "mask"]; "none": none; None:
            all.
    """

    num_classes: int | None = None
    values: Any = None

    ENCODINGS = images.ENCODINGS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_classes", self.num_classes)
        if self.values is not None:
            names = self.values.split(",") if isinstance(self.values, str) else self.values
            if not isinstance(names, Iterable) or not all(isinstance(name, str) and name for name in names):
                raise ValueError(f"values must be like text,mask (names of arrays) or none, got {self.values!r}")
            self.values = ",".join(names) or "none"
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


class Npz(LocalBuilder):
    """Arrays of the user's, all with a row for each example: uint8 images [N,H,W,C] in 0..255 (or float32 or float16 in
    [-1, 1]) under "images" or "arr_0", or clips [N,F,H,W,C] under "videos"; their classes, integers [N], under "labels"
    or "arr_1", where there are any; and any others under names of their own: numbers [N], embeddings [N,L,D], second
    images and fields [N,H,W,C]. With images and labels alone that is also the layout of ADM's sample files. Four
    channels of uint8 images are RGBA, composited on `background`.

    The arrays are read row by row where they lie. In a compressed file that is not possible: save it with
    `numpy.savez`.
    """

    CONFIG = NpzConfig

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        encodings = dict.fromkeys(SAMPLES, self.builder_config.encoding)
        features = {name: feature_of(spec, encodings.get(name, "png")) for name, spec in self._specs.items()}
        if "label" in features:
            features["label"] = tfds.features.ClassLabel(num_classes=self._specs["label"].num_classes)
        return features

    @functools.cached_property
    def _specs(self) -> dict[str, ValueSpec]:
        """What is stored of each value, over all files, the sample first."""
        specs, files = {}, self.builder_config.files()
        for split, path in files.items():
            arrays = self._arrays(path)
            if odd := sorted(set(arrays) ^ set(specs or arrays)):
                have = "labels" if odd == ["label"] else ", ".join(odd)
                raise ValueError(f"some of the files in {self.builder_config.source} have {have} and some have not")
            size = next(iter(arrays.values())).shape[-3:-1]
            for name, array in arrays.items():
                spec = self._spec(name, array, size)
                before = specs.setdefault(name, spec)
                if name == "label":
                    specs[name] = max(before, spec, key=lambda label: label.num_classes)
                elif spec != before and name in SAMPLES and _of_any_size(spec) == _of_any_size(before):
                    specs[name] = _of_any_size(spec)
                elif spec != before:
                    raise ValueError(f"{name!r} is {before} in {next(iter(files))} and {spec} in {split}")
        return specs

    def _spec(self, name: str, array: np.ndarray, size: tuple[int, int]) -> ValueSpec:
        """What is stored of a value in one file, whose samples have `size`."""
        config, shape = self.builder_config, array.shape[1:]
        if name == "label":
            return ValueSpec((), "int32", num_classes=config.num_classes or int(array.max(initial=0)) + 1)
        encoded = array.dtype == np.uint8 and len(shape) in (3, 4) and shape[-1] in images.MODES
        spec, cropped = ValueSpec(shape, array.dtype, encoded), (config.image_size,) * 2
        if config.image_size and spec.lies_over and not encoded:
            raise ValueError(
                f"image_size={config.image_size} crops pictures of uint8, and {name!r} is {spec}: give no image_size, "
                "and crop when reading"
            )
        if name in SAMPLES and encoded:
            shape = (*shape[:-3], *(cropped if config.image_size else size), config.channels)
        elif config.image_size and spec.lies_over:
            shape = spec.following(name, size, cropped)
        return dataclasses.replace(spec, shape=shape)

    def _arrays(self, path: str) -> dict[str, np.ndarray]:
        return _opened(path, os.stat(path).st_mtime_ns, self.builder_config.values)

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        splits, most = {}, self.builder_config.num_classes or 2**31
        for split, path in self.builder_config.files().items():
            arrays = self._arrays(path)
            labels = arrays["label"].tolist() if "label" in arrays else [None] * len(next(iter(arrays.values())))
            for index, label in enumerate(labels):
                if label is not None and not 0 <= label < most:
                    raise ValueError(f"label {label} of image {index} in {path} is outside 0..{most - 1}")
            splits[split] = [Item(f"{index:09d}", label, (path, index)) for index, label in enumerate(labels)]
        return splits, []

    def example(self, item: Item) -> Made:
        path, index = item.source
        features, changes, arrays = {}, (), self._arrays(path)
        sample = next(iter(arrays))
        for name, spec in self._specs.items():
            value, where = np.array(arrays[name][index], order="C"), f"{name} {index} of {path}"
            if not spec.encoded:
                if reason := fault_in(name, value):
                    raise BadSource(f"{where} {reason}")
                features[name] = value
                continue
            frames = list(value) if value.ndim == 4 else [value]
            try:
                if name == sample:
                    made = [self.builder_config.stored(images.from_pixels(frame), upright=False) for frame in frames]
                    frames, changes = [image for image, _ in made], made[0][1]
                else:
                    frames = [_beside(frame, spec) for frame in frames]
            except images.BadImage as error:
                raise BadSource(f"{where} {error}") from None
            features[name] = frames if value.ndim == 4 else frames[0]
        if item.label is not None:
            features["label"] = item.label
        return Made(features, digest_of(arrays[sample][index].tobytes()), changes)


def _of_any_size(spec: ValueSpec) -> ValueSpec:
    return dataclasses.replace(spec, shape=(*spec.shape[:-3], None, None, spec.shape[-1]))


def _beside(pixels: np.ndarray, spec: ValueSpec) -> bytes:
    """A picture beside the sample, with ADM's crop where that made it smaller, as PNG."""
    picture = images.from_array(pixels)
    if pixels.shape != spec.shape[-3:]:
        picture = images.adm_center_crop(picture, spec.shape[-2])
    return images.encode(picture, "png")


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
            f"{list(pixels.shape)}; floats in [-1, 1] may be float32 or float16"
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
