"""tfds builder for any folder of images."""

import collections
import dataclasses
import functools
import os
import pathlib
import posixpath
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from pipelines.datasets.folder_layout import CLASSES, Folder, Layout, listed, parse_splits
from pipelines.datasets.local_builder import Item, LocalBuilder, Made, PictureConfig, walked
from pipelines.extras import check_choice

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
        check_choice("classes", self.classes, (None, *CLASSES))
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
        classes = self._layout.class_names
        label = {"label": tfds.features.ClassLabel(names=classes)} if classes else {}
        return {"image": self.builder_config.feature(), **label}

    @functools.cached_property
    def _layout(self) -> Layout:
        """What workers need: the folders, and not the list of all files."""
        config = self.builder_config
        found = ((folder, images) for folder, images, _, _ in _folders(config.source) if images)
        folders = {folder: Folder(len(images), images[0]) for folder, images in found}
        if not folders:
            raise ValueError(f"there are no images ({', '.join(SUFFIXES)}) in {config.source}")
        return Layout(config.source, folders, config.splits, config.classes)

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        others, empty, notes = collections.Counter(), [], []
        numbers = {name: number for number, name in enumerate(self._layout.class_names)}
        splits = collections.defaultdict(list)
        for folder, images, rest, note in _folders(self.builder_config.source):
            others.update(os.path.splitext(name)[1].lower() or "no suffix" for name in rest)
            empty += [note] * bool(note)
            if place := self._layout.places.get(folder):
                paths = [posixpath.join(folder, name) for name in images]
                splits[place.split] += [Item(place.key(path), numbers.get(place.label), (path,)) for path in paths]
        if others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            notes.append(f"files of other kinds were left out: {kinds}")
        if empty:
            notes.append(f"folders without images: {listed(empty)}")
        return dict(splits), notes + self._layout.notes

    def example(self, item: Item) -> Made:
        (path,) = item.source
        return self.picture(item, path, path, upright=True)


def _folders(source: str) -> Iterator[tuple[str, list[str], list[str], str]]:
    """(folder, its images, its other files, what a note says of it if it is empty)."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, names in walked(source, _OF_SYSTEMS, followlinks=True, onerror=unreadable):
        if _leads_back(source, folder):
            folders.clear()
            yield folder, [], [], f"{folder} (a link back, not followed)"
        else:
            images = [name for name in names if name.lower().endswith(SUFFIXES)]
            others = [name for name in names if not name.lower().endswith(SUFFIXES)]
            yield folder, images, others, "" if images or folders else folder


def _leads_back(source: str, folder: str) -> bool:
    """Whether a folder is a link to one that it lies in, which would never end."""
    path = os.path.join(source, folder)
    above = (os.path.join(source, parent) for parent in pathlib.PurePath(folder).parents)
    return os.path.islink(path) and os.path.realpath(path) in map(os.path.realpath, above)
