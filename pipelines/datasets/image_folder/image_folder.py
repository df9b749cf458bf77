"""tfds builder for any folder of images."""

import collections
import dataclasses
import functools
import hashlib
import inspect
import os
from collections.abc import Iterator

import tensorflow_datasets as tfds

from pipelines.datasets.local_builder import BadSource, Item, LocalBuilder, LocalInfo, Made, SourceConfig
from pipelines.images import BadImage

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# A folder of these alone holds splits without classes; others would be classes.
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "eval"})


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageFolderConfig(SourceConfig):
    """`source`: the folder; see SourceConfig for the rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not os.path.isdir(self.source):
            raise ValueError(f"source must be a folder of images, and {self.source} is a file")


class ImageFolder(LocalBuilder):
    """A folder of images of the user's: uint8 images in 0..255 and, where there are class folders, their class.

    Layouts: source/split/class/*.png; source/class/*.png, one split "train"; source/*.png, one split and no classes;
    source/train/*.png, source/test/*.png and the like, splits without classes. Suffixes: jpg, jpeg, png, webp, bmp.
    Classes are numbered by the sorted names of their folders, over all splits. Images are turned upright as their EXIF
    data say; grey, CMYK, palette and transparent ones are converted to RGB (transparency is dropped), and counted;
    animated ones and those of more than 8 bits are refused. Hidden files and folders are left out.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    CONFIG = ImageFolderConfig

    def _info(self) -> LocalInfo:
        features = {"image": self.builder_config.image_feature()}
        classes = _class_names(self.builder_config.source)
        if classes:
            features["label"] = tfds.features.ClassLabel(names=classes)
        return LocalInfo(
            builder=self,
            description=inspect.cleandoc(self.__class__.__doc__),
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label") if classes else None,
        )

    @functools.cached_property
    def _tree(self) -> "_Tree":
        return _Tree(self.builder_config.source)

    def listing(self) -> dict[str, list[Item]]:
        return self._tree.splits

    def notes(self) -> list[str]:
        return self._tree.notes

    def example(self, item: Item) -> Made:
        (path,) = item.source
        try:
            with open(os.path.join(self.builder_config.source, path), "rb") as file:
                data = file.read()
            image, change = self.builder_config.stored(data, upright=True)
        except (BadImage, OSError) as error:
            raise BadSource(f"{path} {error}") from None
        features = {"image": image} if item.label is None else {"image": image, "label": item.label}
        return Made(features, hashlib.blake2b(data, digest_size=16).digest(), change)


def _images(source: str, others: collections.Counter, empty: list[str]) -> Iterator[str]:
    """Paths of the images, relative and with "/", sorted; counts other files by suffix, and names empty folders."""

    def unreadable(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(source, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
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


def _class_names(source: str) -> list[str]:
    """The sorted names of the classes, none if there are none; workers need them, and not the list of all files."""
    depths, top_level, classes = set(), set(), set()
    for path in _images(source, collections.Counter(), []):
        folders = path.split("/")[:-1]
        depths.add(len(folders))
        top_level.update(folders[:1])
        classes.update(folders[-1:])
    return [] if _has_no_classes(top_level, max(depths, default=0)) else sorted(classes)


def _has_no_classes(top_level: set[str], depth: int) -> bool:
    return depth == 0 or (depth == 1 and {name.lower() for name in top_level} <= SPLIT_NAMES)


class _Tree:
    """The images in a folder: `splits` {name: items}, `notes` on what was left out.

    Raises:
        ValueError: no images, images at different depths, or deeper than split/class/image.
    """

    def __init__(self, source: str) -> None:
        others, empty = collections.Counter(), []
        paths = list(_images(source, others, empty))
        self.notes = self._notes_on_rest(others, empty)
        if not paths:
            raise ValueError(f"there are no images ({', '.join(SUFFIXES)}) in {source}")
        depths = {path.count("/"): path for path in reversed(paths)}
        if len(depths) > 1:
            examples = " and ".join(repr(depths[depth]) for depth in sorted(depths))
            raise ValueError(f"the images in {source} lie at different depths, such as {examples}: {_LAYOUTS}")
        (depth,) = depths
        if depth > 2:
            raise ValueError(f"the images in {source} lie too deep, such as {paths[0]!r}: {_LAYOUTS}")
        plain = _has_no_classes({path.partition("/")[0] for path in paths}, depth)
        self.splits = self._without_classes(paths) if plain else self._classified(paths)

    @staticmethod
    def _notes_on_rest(others: collections.Counter, empty: list[str]) -> list[str]:
        notes = []
        if others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(others.items()))
            notes.append(f"files of other kinds were left out: {kinds}")
        if empty:
            notes.append(f"folders without images: {', '.join(empty[:20])}" + ", ..." * (len(empty) > 20))
        return notes

    @staticmethod
    def _without_classes(paths: list[str]) -> dict[str, list[Item]]:
        splits = collections.defaultdict(list)
        for path in paths:
            split, _, name = path.rpartition("/")
            splits[split or "train"].append(Item(name, None, (path,)))
        return dict(splits)

    def _classified(self, paths: list[str]) -> dict[str, list[Item]]:
        parts = [path.split("/") for path in paths]
        classes = sorted({folders[-2] for folders in parts})
        numbers = {name: number for number, name in enumerate(classes)}
        splits = collections.defaultdict(list)
        for path, (*split, name, file) in zip(paths, parts, strict=True):
            splits[split[0] if split else "train"].append(Item(f"{name}/{file}", numbers[name], (path,)))
        for split, items in splits.items():
            absent = set(classes) - {classes[item.label] for item in items}
            if absent:
                self.notes.append(f"classes that are not in {split}: {', '.join(sorted(absent)[:20])}")
        return dict(splits)


_LAYOUTS = "expected split/class/image, class/image, or images alone"
