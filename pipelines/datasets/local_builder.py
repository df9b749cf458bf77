"""What the builders of data sets have in common: a cheap listing that names every example, and `example`, which makes
one. So they can be made in any order, by any number of processes or machines, and a run that was interrupted knows what
is left (preparing.shards). tfds's own `download_and_prepare` works too, in one process.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import re
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets import opening
from pipelines.datasets.opening import BadSource
from pipelines.extras import check_choice, check_count
from pipelines.images import BadImage
from pipelines.text_encoders import TextEncoder
from pipelines.values import ValueSpec


class Item(NamedTuple):
    """One example to be made: its name, unique in its split, which the order in the shards depends on; its class or
    None; and where it is, for the builder's `example`, in values that JSON keeps."""

    key: str
    label: int | None
    source: tuple[Any, ...]


class Made(NamedTuple):
    """One example: its features, the `digest_of` its source, and what was changed ("CMYK converted to RGB")."""

    features: dict[str, Any]
    digest: bytes
    changes: tuple[str, ...] = ()


def digest_of(data: bytes) -> bytes:
    """16 bytes that are equal for equal sources."""
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclasses.dataclass(eq=False, kw_only=True)
class SourceConfig(tfds.core.BuilderConfig):
    """What every data set made from the user's files is defined by.

    Attributes:
        source: the folder or file that it is made from.
        name: of the data set's folder; None: from the source and the settings.
        image_size: side of the square that ADM's centre crop cuts out of each image; None: images are left whole.
        encoding: "png" (no loss), "jpeg", or "original": the bytes of the file, where they are a JPEG or PNG that can
            be read as it is, and PNG for the others.
        quality: of JPEG, 1 to 100.
        channels: 3 (RGB) or 1 (grey); others are converted.
    """

    name: str | None = None
    source: str
    image_size: int | None = None
    encoding: str = "png"
    quality: int = 95
    channels: int = 3

    CHANNELS = (1, 3)  # those that are accepted
    ENCODINGS = (*images.ENCODINGS, "original")

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, os.PathLike)) or not os.fspath(self.source):
            raise ValueError(f"source must be a path, got {self.source!r}")
        if "://" in os.fspath(self.source):
            raise ValueError(f"source must be on a disk, which may be a mounted bucket, got {self.source}")
        self.source = os.path.abspath(os.path.expanduser(os.fspath(self.source)))
        if not os.path.exists(self.source):
            raise FileNotFoundError(f"source {self.source} does not exist")
        check_choice("encoding", self.encoding, self.ENCODINGS)
        check_count("image_size", self.image_size)
        if self.encoding == "original" and self.image_size is not None:
            raise ValueError(f"encoding 'original' leaves images whole: give no image_size, got {self.image_size}")
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality!r}")
        check_choice("channels", self.channels, self.CHANNELS)
        self.name = self.name or self.default_name()
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name must be made of letters, digits, '.', '_' and '-', got {self.name!r}")

    def default_name(self) -> str:
        """ "flowers-256-png" for the folder flowers, cropped to 256."""
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", os.path.basename(self.source).partition(".")[0]).strip("_") or "images"
        return "-".join(str(part) for part in (stem, self.image_size, self.encoding) if part)

    def settings(self) -> dict[str, Any]:
        """What defines the data set, for its report and to compare with an earlier run's."""
        inherited = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in inherited}

    def feature(self, *frames: int) -> tfds.features.FeatureConnector:
        """How images, or clips of so many frames, are stored."""
        shape = (*frames, self.image_size, self.image_size, self.channels)
        return feature_of(ValueSpec(shape, "uint8", encoded=True), self.encoding)


@dataclasses.dataclass(eq=False, kw_only=True)
class PictureConfig(SourceConfig):
    """A SourceConfig of data sets made from files or arrays of single pictures.

    Attributes:
        background: what transparency is composited on: "white", "black", or another colour, "#rrggbb" or a name of CSS;
            "keep": nothing, images are stored as RGBA, with 4 channels.
        min_size: pictures of which a side has fewer pixels are left out and counted; None: none. Those smaller than
            image_size are enlarged and counted.
        animated: of files with several frames or pages, as GIF, WebP, animated PNG and TIFF may have them, the "first"
            is taken and counted, or they are left out and counted ("skip").
    """

    background: str = "white"
    min_size: int | None = None
    animated: str = "first"

    CHANNELS = tuple(images.MODES)

    def __post_init__(self) -> None:
        self.background = images.parse_background(self.background)
        keep = self.background == images.KEEP
        if keep and self.encoding == "jpeg":
            raise ValueError("background 'keep' needs encoding png or original: JPEG has no transparency")
        if keep and self.channels == 3:
            self.channels = 4
        if keep != (self.channels == 4):
            accepted = 4 if keep else "1 or 3"
            raise ValueError(f"channels must be {accepted}, got {self.channels!r}: background='keep' stores RGBA")
        check_count("min_size", self.min_size)
        check_choice("animated", self.animated, opening.ANIMATED)
        super().__post_init__()

    def stored(self, data: bytes, *, upright: bool) -> tuple[bytes, tuple[str, ...]]:
        """The bytes of an image file as they are stored, and what was changed beside crop and encoding. Raises
        images.BadImage: it cannot be used; opening.Skipped: it is to be left out."""
        how = {name: getattr(self, name) for name in ("channels", "background", "animated", "min_size")}
        image, changes, profile = opening.open_source(data, upright=upright, **how)
        told = (profile,) if profile else ()
        if self.image_size is not None:
            told += (f"enlarged to {self.image_size}",) if min(image.size) < self.image_size else ()
            image = images.adm_center_crop(image, self.image_size)
        if self.encoding != "original":
            return images.encode(image, self.encoding, self.quality), changes + told
        with contextlib.suppress(BadImage):  # which the reader would not take as it is
            if not changes and images.read_header(data).channels == self.channels:
                return data, told
        return images.encode(image, "png"), (changes or ("encoded anew as PNG",)) + told


def feature_of(spec: ValueSpec, encoding: str = "png") -> tfds.features.FeatureConnector:
    """How a value is stored: pictures encoded, numbers as the bytes of the array, which are those that were given."""
    if not spec.encoded:
        return tfds.features.Tensor(shape=spec.shape, dtype=np.dtype(spec.dtype), encoding="bytes")
    image = tfds.features.Image(shape=spec.shape[-3:], encoding_format=None if encoding == "original" else encoding)
    # Not tfds's Video, which is the same but loads TensorFlow.
    return image if len(spec.shape) == 3 else tfds.features.Sequence(image, length=spec.shape[0])


def walked(source: str, leave_out: Container[str] = (), **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk with these options, sorted and without hidden names: (folder, relative to `source` and with "/", folders
    in it, files in it)."""
    for folder, folders, files in os.walk(source, **options):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in leave_out)
        relative = "" if folder == source else os.path.relpath(folder, source).replace(os.sep, "/")
        yield relative, folders, sorted(name for name in files if not name.startswith("."))


class LocalInfo(tfds.core.DatasetInfo):
    """Information about a data set that exists only on this machine."""

    def initialize_from_bucket(self) -> None:
        pass  # some versions of tfds ask a public bucket, and wait long without a network


class LocalBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A tfds builder that never uses the network and makes its examples one by one.

    Class attributes:
        CONFIG: its settings, a SourceConfig, or None if it has none.
        MAX_BAD_SOURCES: how many sources may be left out if the user does not say; None: any number.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    CONFIG: type[SourceConfig] | None = None
    MAX_BAD_SOURCES: int | None = 0
    HOMEPAGE: str | None = None

    def __init__(self, *, text_encoder: TextEncoder | None = None, **options: Any) -> None:
        """`text_encoder` adds "text", what it makes of each example's "caption"."""
        self.text_encoder = text_encoder
        super().__init__(**options)

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        """How each value of an example is stored, the sample first."""
        raise NotImplementedError

    def channel_names(self) -> dict[str, tuple[str, ...]]:
        """A name for each channel of the values that are in physical units, the sample among them; none: {}."""
        return {}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        """Names every example of every split, {split: items}, and says for the report, in sentences, what was left out.
        Raises ValueError: the source is not laid out as it must be."""
        raise NotImplementedError

    def caption(self, item: Item) -> str | None:
        """The caption of an example, where the listing knows it: then it is looked at before work starts. Raises
        BadSource: it has none that can be used."""
        return None

    def example(self, item: Item) -> Made:
        """Makes one example, with its caption, if it has one, as "caption". Raises BadSource: it cannot be made;
        opening.Skipped: the settings leave it out."""
        raise NotImplementedError

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        return self.listed()

    def listing(self) -> dict[str, list[Item]]:
        return self._listed[0]

    def notes(self) -> list[str]:
        unread = "caption" in self.values() and self.text_encoder is None
        return self._listed[1] + ["captions are kept, but no network reads them: that needs --text_encoder"] * unread

    def picture(self, item: Item, name: str, path: str, start: int = 0, size: int = -1, *, upright: bool) -> Made:
        """`example` for a picture: `size` bytes (-1: all) of a file of the source from `start` on, called `name`."""
        try:
            with open(os.path.join(self.builder_config.source, path), "rb") as file:
                if start:  # what is read whole may be a pipe
                    file.seek(start)
                data = file.read(size)
            if len(data) < size:
                raise BadImage(f"ends early: {path} is truncated")
            image, changes = self.builder_config.stored(data, upright=upright)
        except (BadImage, OSError) as error:
            raise BadSource(f"{name} {error}") from None
        label = {} if item.label is None else {"label": item.label}
        return Made({"image": image, **label}, digest_of(data), changes)

    def _stored(self) -> dict[str, tfds.features.FeatureConnector]:
        """`values`, and "text" where there is an encoder."""
        values, encoder = self.values(), self.text_encoder
        if encoder is None:
            return values
        if "caption" not in values:
            raise ValueError(f"{self.name} has no captions to encode: give --captions, or no --text_encoder")
        return values | {"text": feature_of(ValueSpec((encoder.length, encoder.width), "float16"))}

    def _info(self) -> LocalInfo:
        values = self._stored()
        return LocalInfo(
            builder=self,
            description=inspect.cleandoc(self.__class__.__doc__),
            features=tfds.features.FeaturesDict(values),
            supervised_keys=(next(iter(values)), "label") if "label" in values else None,
            homepage=self.HOMEPAGE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(items) for split, items in self.listing().items()}

    def _generate_examples(self, items: list[Item]) -> Iterator[tuple[str, dict[str, Any]]]:
        for item in items:
            with contextlib.suppress(opening.Skipped):
                yield item.key, self.example(item).features
