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

from pipelines.datasets.captions import TXT, check_captions, open_captions
from pipelines.datasets.folder_layout import CLASSES, Folder, Layout, listed, parse_splits
from pipelines.datasets.local_builder import Item, LocalBuilder, Made, PictureConfig, walked
from pipelines.datasets.opening import BadSource
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
        captions: a .csv or .jsonl file with columns, or keys, file and caption (datasets/captions.py); "txt": of each
            image that in the .txt of its name; "names": the words of the files' names. None: there are none.
    """

    splits: Any = None
    classes: str | None = None
    captions: str | None = None

    def __post_init__(self) -> None:
        self.splits = parse_splits(self.splits)
        check_choice("classes", self.classes, (None, *CLASSES))
        super().__post_init__()
        if not os.path.isdir(self.source):
            raise ValueError(f"source must be a folder of images, and {self.source} is a file")
        self.captions = check_captions(self.captions, self.source)

    def default_name(self) -> str:
        return super().default_name() + "-captions" * (self.captions is not None)


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
        caption = {"caption": tfds.features.Text()} if self.builder_config.captions else {}
        return {"image": self.builder_config.feature(), **label, **caption}

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
        splits, captions = collections.defaultdict(list), _Captioned(self.builder_config)
        for folder, images, rest, note in _folders(self.builder_config.source):
            others.update(captions.others(folder, images, rest))
            empty += [note] * bool(note)
            if place := self._layout.places.get(folder):
                paths = [posixpath.join(folder, name) for name in images]
                label = numbers.get(place.label)
                splits[place.split] += [Item(place.key(path), label, (path, *captions.of(path))) for path in paths]
        if others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            notes.append(f"files of other kinds were left out: {kinds}")
        if empty:
            notes.append(f"folders without images: {listed(empty)}")
        return dict(splits), notes + captions.notes() + self._layout.notes

    def caption(self, item: Item) -> str | None:
        path, *told = item.source
        if not told:
            return None
        caption, fault = told
        if fault:
            raise BadSource(f"{path} {fault}")
        return caption

    def example(self, item: Item) -> Made:
        path, caption = item.source[0], self.caption(item)
        made = self.picture(item, path, path, upright=True)
        return made if caption is None else made._replace(features={**made.features, "caption": caption})


class _Captioned:
    """The captions of a folder's images, and which of them, and of its other files, were not needed."""

    def __init__(self, config: ImageFolderConfig) -> None:
        self._kind, self._seen = config.captions, set()
        self._file = os.path.relpath(config.captions, config.source) if config.captions else None
        self._of, self._there = open_captions(config.captions, config.source) if config.captions else (None, ())

    def of(self, path: str) -> tuple[str, ...]:
        """(caption, what is wrong with it); () if there are to be none."""
        self._seen.add(path)
        return () if self._of is None else self._of(path)

    def others(self, folder: str, images: list[str], rest: list[str]) -> Iterator[str]:
        """The suffixes of other files than those with captions."""
        stems = {posixpath.splitext(name)[0] for name in images} if self._kind == TXT else ()
        for name in rest:
            stem, suffix = posixpath.splitext(name)
            if not (suffix == ".txt" and stem in stems) and posixpath.join(folder, name) != self._file:
                yield suffix.lower() or "no suffix"

    def notes(self) -> list[str]:
        """A sentence where a file has captions of what is no image here."""
        left = [path for path in self._there if path not in self._seen]
        return [f"{len(left)} captions are of no image that is taken: {listed(left)}"] if left else []


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
