"""tfds builder for any folder of images."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from pipelines.datasets.folder_layout import CLASSES, Folder, Layout, parse_splits
from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, Made, PictureConfig, digest_of
from pipelines.images import BadImage

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What systems put beside pictures; like hidden folders. Some hold thumbnails, which would be taken for pictures.
_OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageFolderConfig(PictureConfig):
    """`source`: the folder; see PictureConfig for the rest.

    Attributes:
        splits: which folders are which splits, "train=train2017,test=val2017" or {"train": "train2017", ...}, relative
            to source; a split may be named several times, and folders that are not named are left out. "none": no
            folder is a split, all images are of the split train. None: the first folders, if all of their names are
            known names of splits; if only some of them look like it, that is an error.
        classes: which folder is the class of an image: "top", the first below the split; "parent", the one that holds
            the file; "none": there are no labels. None: there is one folder between split and image, or none at all.
    """

    splits: Any = None
    classes: str | None = None

    def __post_init__(self) -> None:
        self.splits = parse_splits(self.splits)
        if self.classes not in (None, *CLASSES):
            raise ValueError(f"classes must be None or one of {', '.join(CLASSES)}, got {self.classes!r}")
        super().__post_init__()
        if not os.path.isdir(self.source):
            raise ValueError(f"source must be a folder of images, and {self.source} is a file")


class ImageFolder(LocalBuilder):
    """A folder of images of the user's: uint8 images in 0..255 and, where there are class folders, their class.

    Layouts: source/split/class/*.png; source/class/*.png, one split "train"; source/*.png, one split and no classes;
    source/train/*.png, source/test/*.png and the like, splits without classes; any other with `splits` and `classes`.
    Suffixes: jpg, jpeg, png, webp, bmp, gif, tif, tiff and their variants. Classes are numbered by the sorted names of
    their folders, over all splits. Images are turned upright as their EXIF data say, those of other colour modes are
    converted, transparent ones composited on `background`, 16 bits a channel scaled to 8, and of several frames or
    pages the first is taken: all of that is counted in the report. Hidden files and folders are left out.
    """

    CONFIG = ImageFolderConfig

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        features = {"image": self.builder_config.image_feature()}
        classes = self._layout.class_names
        if classes:
            features["label"] = tfds.features.ClassLabel(names=classes)
        return features

    @functools.cached_property
    def _layout(self) -> Layout:
        """What workers need: the folders, and not the list of all files. Raises ValueError: there are no images, or it
        is not clear which folder is what."""
        source, folders = self.builder_config.source, {}
        for path in _images(source, collections.Counter(), []):
            folder, _, name = path.rpartition("/")
            before = folders.get(folder, Folder(0, name))
            folders[folder] = Folder(before.count + 1, before.first)
        if not folders:
            raise ValueError(f"there are no images ({', '.join(SUFFIXES)}) in {source}")
        return Layout(source, folders, self.builder_config.splits, self.builder_config.classes)

    @functools.cached_property
    def _listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        """The items of each split, and notes on what was left out."""
        others, empty = collections.Counter(), []
        numbers = {name: number for number, name in enumerate(self._layout.class_names)}
        splits = collections.defaultdict(list)
        for path in _images(self.builder_config.source, others, empty):
            place = self._layout.places.get(path.rpartition("/")[0])
            if place is not None:
                key = path[len(place.root) :].removeprefix("/")
                splits[place.split].append(Item(key, numbers.get(place.label), (path,)))
        return dict(splits), _notes_on_rest(others, empty) + self._layout.notes

    def listing(self) -> dict[str, list[Item]]:
        return self._listed[0]

    def notes(self) -> list[str]:
        return self._listed[1]

    def example(self, item: Item) -> Made:
        (path,) = item.source
        try:
            with open(os.path.join(self.builder_config.source, path), "rb") as file:
                data = file.read()
            image, changes = self.builder_config.stored(data, upright=True)
        except (BadImage, OSError) as error:
            raise BadSource(f"{path} {error}") from None
        features = {"image": image} if item.label is None else {"image": image, "label": item.label}
        return Made(features, digest_of(data), changes)


def _images(source: str, others: collections.Counter, empty: list[str]) -> Iterator[str]:
    """Paths of the images, relative and with "/", sorted; counts other files by suffix, and names empty folders."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(source, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _OF_SYSTEMS)
        if _leads_back(folder, source):
            folders.clear()
            empty.append(f"{os.path.relpath(folder, source)} (a link back, not followed)")
            continue
        visible = sorted(name for name in files if not name.startswith("."))
        images = [name for name in visible if name.lower().endswith(SUFFIXES)]
        others.update(os.path.splitext(name)[1].lower() or "no suffix" for name in set(visible) - set(images))
        relative = os.path.relpath(folder, source).replace(os.sep, "/")
        if not images and not folders:
            empty.append(relative)
        yield from (name if relative == "." else f"{relative}/{name}" for name in images)


def _leads_back(folder: str, source: str) -> bool:
    """Whether a folder is a link to one that it lies in, which would never end."""
    return os.path.islink(folder) and os.path.realpath(folder) in {
        os.path.realpath(os.path.join(source, *parts[:count]))
        for parts in [os.path.relpath(folder, source).split(os.sep)]
        for count in range(len(parts))
    }


def _notes_on_rest(others: collections.Counter, empty: list[str]) -> list[str]:
    notes = []
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
        notes.append(f"files of other kinds were left out: {kinds}")
    if empty:
        notes.append(f"folders without images: {', '.join(empty[:20])}" + ", ..." * (len(empty) > 20))
    return notes
