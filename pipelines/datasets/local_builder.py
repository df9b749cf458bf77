"""What the builders of data sets have in common: a cheap listing that names every example, and `example`, which makes
one. So they can be made in any order, by any number of processes or machines, and a run that was interrupted knows what
is left (preparing.shards). tfds's own `download_and_prepare` works too, in one process.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets import opening
from pipelines.extras import check_count
from pipelines.images import adm_center_crop
from pipelines.values import ValueSpec

ENCODINGS = (*images.ENCODINGS, "original")


class Item(NamedTuple):
    """One example to be made: its name, unique in its split, for messages and for the order in the shards; its class,
    or None; and where it is, in values that JSON keeps: what the builder's `example` needs."""

    key: str
    label: int | None
    source: tuple[Any, ...]


class Made(NamedTuple):
    """One example that was made: its features, 16 bytes that are equal for equal sources, and what had to be changed
    in it (phrases like "CMYK converted to RGB")."""

    features: dict[str, Any]
    digest: bytes
    changes: tuple[str, ...] = ()


def digest_of(data: bytes) -> bytes:
    """What two sources have in common if they are the same."""
    return hashlib.blake2b(data, digest_size=16).digest()


class BadSource(ValueError):
    """A source that no example can be made of; the message names it."""


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

    def __post_init__(self) -> None:
        if not isinstance(self.source, (str, os.PathLike)) or not os.fspath(self.source):
            raise ValueError(f"source must be a path, got {self.source!r}")
        if "://" in os.fspath(self.source):
            raise ValueError(f"source must be on a disk, which may be a mounted bucket, got {self.source}")
        self.source = os.path.abspath(os.path.expanduser(os.fspath(self.source)))
        if not os.path.exists(self.source):
            raise FileNotFoundError(f"source {self.source} does not exist")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, got {self.encoding!r}")
        check_count("image_size", self.image_size)
        if self.encoding == "original" and self.image_size is not None:
            raise ValueError(f"encoding 'original' leaves images whole: give no image_size, got {self.image_size}")
        if not isinstance(self.quality, int) or not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, got {self.quality!r}")
        if self.channels not in self.CHANNELS:
            raise ValueError(f"channels must be {' or '.join(map(str, self.CHANNELS))}, got {self.channels!r}")
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
        return {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in inherited
        }

    def image_feature(self) -> tfds.features.Image:
        size, encoding = self.image_size, None if self.encoding == "original" else self.encoding
        return tfds.features.Image(shape=(size, size, self.channels), encoding_format=encoding)


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

    def __post_init__(self) -> None:
        self.background = images.parse_background(self.background)
        if self.background == images.KEEP:
            self.CHANNELS = (4,)
            self.channels = 4 if self.channels == 3 else self.channels
            if self.encoding == "jpeg":
                raise ValueError("background 'keep' needs encoding png or original: JPEG has no transparency")
        elif self.channels == 4:
            raise ValueError("channels must be 1 or 3, got 4: background='keep' stores RGBA")
        check_count("min_size", self.min_size)
        if self.animated not in opening.ANIMATED:
            raise ValueError(f"animated must be {' or '.join(opening.ANIMATED)}, got {self.animated!r}")
        super().__post_init__()

    def stored(self, data: bytes, *, upright: bool) -> tuple[bytes, tuple[str, ...]]:
        """The bytes of an image file as they are stored, and what was changed beside crop and encoding.

        Raises images.BadImage: it cannot be used; opening.Skipped: it is to be left out.
        """
        image, changes, profile = opening.open_source(
            data,
            channels=self.channels,
            upright=upright,
            background=self.background,
            animated=self.animated,
            min_size=self.min_size,
        )
        told = (profile,) if profile else ()
        if self.image_size is not None:
            told += (f"enlarged to {self.image_size}",) if min(image.size) < self.image_size else ()
            image = adm_center_crop(image, self.image_size)
        if self.encoding != "original":
            return images.encode(image, self.encoding, self.quality), changes + told
        if not changes and self._readable(data):
            return data, told
        return images.encode(image, "png", self.quality), (changes or ("encoded anew as PNG",)) + told

    def _readable(self, data: bytes) -> bool:
        """Whether the reader takes these bytes as they are."""
        try:
            return images.read_header(data).channels == self.channels
        except images.BadImage:
            return False


def feature_of(spec: ValueSpec) -> tfds.features.FeatureConnector:
    """How a value is stored: pictures as PNG, numbers as the bytes of the array, which are those that were given."""
    if not spec.encoded:
        return tfds.features.Tensor(shape=spec.shape, dtype=np.dtype(spec.dtype), encoding="bytes")
    image = tfds.features.Image(shape=spec.shape[-3:], encoding_format="png")
    return image if len(spec.shape) == 3 else tfds.features.Sequence(image, length=spec.shape[0])


class LocalInfo(tfds.core.DatasetInfo):
    """Information about a data set that exists only on this machine."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: some versions of tfds ask a public bucket, and wait long without a network."""


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

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        """How each value of an example is stored, the sample first."""
        raise NotImplementedError

    def listing(self) -> dict[str, list[Item]]:
        """Names every example of every split. Raises ValueError: the source is not laid out as it must be."""
        raise NotImplementedError

    def example(self, item: Item) -> Made:
        """Makes one example. Raises BadSource: it cannot be made; opening.Skipped: the settings leave it out."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What `listing` saw and left out, in sentences for the report."""
        return []

    def _info(self) -> LocalInfo:
        values = self.values()
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
