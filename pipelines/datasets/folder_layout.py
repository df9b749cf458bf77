"""Which folder of a tree of images is a split, and which a class: decided by the folders, without their files.

What names leave open is asked, in one sentence, and not guessed: a split taken for a class is trained on.
"""

import collections
import os
import posixpath
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

CLASSES = ("top", "parent", "none")
SPLIT_NAMES = frozenset("train training val valid validation test testing eval evaluation".split())  # in any case
# "train2017", "images_test": likely splits, but of what name?
_LIKE_A_SPLIT = re.compile(rf"(?:^|[^a-z])({'|'.join(SPLIT_NAMES)})(?:$|[^a-z])")
_NAMED = 20  # folders that a sentence names


class Folder(NamedTuple):
    """Images that lie in one folder: how many, and the name of the first."""

    count: int
    first: str


class Place(NamedTuple):
    """What the images of one folder are: their split, their class or None, and where their names begin."""

    split: str
    label: str | None
    root: str

    def key(self, path: str) -> str:
        return path[len(self.root) :].removeprefix("/")


def parse_splits(value: Any) -> dict[str, list[str]] | None:
    """{split: folders} from "train=train2017,test=val2017" or a mapping; {} from "none"; None from None. Raises
    ValueError: it is something else, or names no split and folder."""
    if value is None or value == "none":
        return None if value is None else {}
    if isinstance(value, str):
        pairs = [part.strip().partition("=")[::2] for part in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = [
            (key, one) for key, some in value.items() for one in (some if isinstance(some, (list, tuple)) else [some])
        ]
    else:
        pairs = [("", "")]  # refused below
    splits = collections.defaultdict(list)
    for name, folder in pairs:
        if not folder or not isinstance(folder, str) or not re.fullmatch(r"[A-Za-z]\w*", str(name)) or name == "all":
            raise ValueError(
                "splits must be like train=train2017,test=val2017 (SPLIT=FOLDER, several joined by commas), or none, "
                f"got {value!r}"
            )
        folder = posixpath.normpath(folder)
        if folder.startswith(("/", "..")):
            raise ValueError(f"splits must name folders inside of source, got {folder!r}")
        splits[name].append("" if folder == "." else folder)
    return dict(splits)


class Layout:
    """The meaning of each folder with images: `places` {folder: Place} without those that are left out, `class_names`,
    sorted and empty without classes, and `notes` for the report."""

    def __init__(
        self, source: str, folders: dict[str, Folder], splits: dict[str, list[str]] | None, classes: str | None
    ) -> None:
        """`folders` {path relative to source, "" for itself: Folder}; the others are the settings. Raises ValueError:
        it is not clear what is what, or not possible."""
        self._source, self._folders = source, folders
        roots = {"train": [""]} if splits == {} else splits or self._guessed()
        self._check_given(roots)
        split_of = {root: split for split, some in roots.items() for root in some}
        inside = {folder: root for root in split_of for folder in folders if _within(folder, root)}
        below = {f: [part for part in f[len(root) :].split("/") if part] for f, root in inside.items()}
        classes = classes or self._way(below)
        bare = [folder for folder, parts in below.items() if not parts]
        if classes != "none" and bare:
            raise ValueError(
                f"{self._count(bare)} images in {source} lie in no folder of a class, such as {self._first(bare[0])}: "
                "move them into one, or give --classes=none"
            )
        self.places = {}
        for folder, root in inside.items():
            split = split_of[root]
            label = None if classes == "none" else below[folder][0 if classes == "top" else -1]
            # Names begin at the split, or at source where several folders make one.
            self.places[folder] = Place(split, label, root if len(roots[split]) == 1 else "")
        self.class_names = sorted({place.label for place in self.places.values()} - {None})
        self.notes = self._notes(classes)

    def _first(self, folder: str) -> str:
        return repr(posixpath.join(folder, self._folders[folder].first))

    def _count(self, folders: Collection[str]) -> int:
        return sum(self._folders[folder].count for folder in folders)

    def _guessed(self) -> dict[str, list[str]]:
        """The roots of the splits by the names of the first folders: all of them are names of splits, or none is."""
        tops, source = _tops(self._folders), self._source
        if tops and "" not in self._folders and all(name.lower() in SPLIT_NAMES for name in tops):
            return {name: [name] for name in tops}
        alike = {name: match[1] for name in tops if (match := _LIKE_A_SPLIT.search(name.lower()))}
        if alike:
            given = ",".join([f"{word}={name}" for name, word in alike.items()][:_NAMED])
            others = [name for name in tops if name not in alike]
            others += [self._folders[""].first] if "" in self._folders else []
            raise ValueError(
                f"{listed(alike)} in {source} are named like splits{' beside ' * bool(others)}{listed(others)}, and it "
                f"is not clear what is what: give --splits={given} or the like (what it does not name is left out), or "
                "--splits=none if they are classes"
            )
        # Refused are cat/train/1.png, and wrapper/train/cat/1.png: folders that have nothing but splits in them.
        children = collections.defaultdict(set)
        for folder in self._folders:
            parts = folder.split("/")
            for depth in range(1, len(parts)):
                children["/".join(parts[:depth])].add(parts[depth])
        holders = [folder for folder, names in children.items() if all(name.lower() in SPLIT_NAMES for name in names)]
        if holders:
            first, names = holders[0], sorted(children[holders[0]])
            given = ",".join(f"{name.lower()}={first}/{name}" for name in names)
            other = f"--source={posixpath.join(source, first)}" if len(holders) == 1 else f"--splits={given},..."
            raise ValueError(
                f"folders named like splits lie inside of others in {source}, such as {first}/{names[0]}: give "
                f"{other}, or --splits=none if they are no splits"
            )
        return {"train": [""]}

    def _check_given(self, splits: dict[str, list[str]]) -> None:
        """Refuses folders of splits that hold no images, or lie in one another, by a link too."""
        seen = {}  # where each folder really is: (its split, its name)
        for split, root in ((split, root) for split, some in splits.items() for root in some):
            if not any(_within(folder, root) for folder in self._folders):
                raise ValueError(
                    f"splits names the folder {root!r}, and there are no images in such a one of {self._source}: "
                    f"there are in {listed(_tops(self._folders))}"
                )
            place = os.path.realpath(os.path.join(self._source, root))
            for other, (first, name) in seen.items():
                if _within(place, other) or _within(other, place):
                    raise ValueError(
                        f"the splits {first} ({name or '.'}) and {split} ({root or '.'}) of {self._source} share "
                        f"images: name each folder once, as in --splits={first}={name or '.'}"
                    )
            seen[place] = split, root

    def _way(self, below: dict[str, list[str]]) -> str:
        """How classes are found if the user does not say."""
        depths = {len(parts): folder for folder, parts in reversed(below.items())}
        if set(depths) in ({0}, {1}):
            return "parent" if 1 in depths else "none"
        how = "at different depths" if len(depths) > 1 else "too deep"
        paths = [self._first(depths[depth]) for depth in sorted(depths)]
        raise ValueError(
            f"the images in {self._source} lie {how}, such as {' and '.join(paths[:3])}: expected split/class/image, "
            "class/image, or images alone; give --classes=top (the first folder below the split is the class), parent "
            "(the folder that holds the file) or none, and --splits=train=FOLDER,... if the first folders are splits"
        )

    def _notes(self, classes: str) -> list[str]:
        notes = []
        outside = sorted(set(self._folders) - set(self.places))
        if outside:
            where = f"in folders that splits does not name: {listed(outside)}"
            notes.append(f"{self._count(outside)} images were left out, {where}")
        in_split, made_of = collections.defaultdict(set), collections.defaultdict(list)
        for folder, place in self.places.items():
            in_split[place.split].add(place.label)
            made_of[place.split, place.label].append(folder)
        if classes != "none" and len(self.class_names) == 1:
            notes.append(f"all images are of one class, {self.class_names[0]!r}: --classes=none gives them no label")
        for (_, label), folders in made_of.items():
            if classes == "parent" and len(folders) > 1:
                notes.append(f"the class {label!r} is made of several folders: {listed(sorted(folders))}")
        for split, labels in in_split.items():
            absent = sorted(set(self.class_names) - labels)
            if absent:
                notes.append(f"classes that are not in {split}: {listed(absent)}")
        return notes


def _within(folder: str, root: str) -> bool:
    return not root or f"{folder}/".startswith(f"{root}/")


def _tops(folders: Collection[str]) -> list[str]:
    return sorted({folder.partition("/")[0] for folder in folders} - {""})


def listed(names: Collection[str]) -> str:
    """Names for a sentence, "." for an empty one; the first ones of many."""
    return ", ".join([name or "." for name in names][:_NAMED]) + ", ..." * (len(names) > _NAMED)
