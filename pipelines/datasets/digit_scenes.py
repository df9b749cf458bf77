"""tfds builder for pictures of coloured digits and what is to be seen in them, said in words."""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from pipelines import images
from pipelines.datasets.digits import TEST_EVERY, digit_pixels
from pipelines.datasets.local_builder import Item, LocalBuilder, Made, digest_of

SEED = 0
SIZES = {"train": 30_000, "test": 1_000}
CELL, CELLS = 8, 2  # a digit's side in pixels, and cells along a side of the picture
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
}
COUNTS = {1: "a", 2: "two"}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Of each: the axis of the picture, and whether what is named first is the first along it.
RELATIONS = {"above": (0, True), "below": (0, False), "left of": (1, True), "right of": (1, False)}


class Group(NamedTuple):
    """`count` digits of one kind and colour, in a row across the relation's axis."""

    count: int
    colour: str
    digit: int

    def __str__(self) -> str:
        name = DIGITS[self.digit]
        plural = name + ("es" if name in ("zero", "six") else "s")
        return f"{COUNTS[self.count]} {self.colour} {name if self.count == 1 else plural}"

    @property
    def held_out(self) -> bool:
        """Whether no picture of the training split has a digit of this kind in this colour: two digits of each colour,
        and one colour of each digit."""
        return (self.digit + list(COLOURS).index(self.colour)) % len(COLOURS) == 0


class Scene(NamedTuple):
    """What a caption says."""

    first: Group
    relation: str
    second: Group

    def __str__(self) -> str:
        return f"{self.first} {self.relation} {self.second}"

    @property
    def in_order(self) -> tuple[Group, Group]:
        """The two as they follow along the axis."""
        return (self.first, self.second) if RELATIONS[self.relation][1] else (self.second, self.first)


class DigitScenes(LocalBuilder):
    """Coloured digits in two groups: 16x16x3 uint8 RGB images in 0..255 and captions as "two red threes above a blue
    seven".

    Digits are scikit-learn's, 8x8 pixels, each in one of 2x2 cells on black; one or two of a kind and of one of five
    colours make a group, in a row (above, below) or a column (left of, right of). Every scene is a function of its
    split and number. Splits: `train` (30000) has eight of the ten digits in each colour, in handwriting of the digits'
    training split; `test` (1000) has a digit in a colour that training never saw in every scene, in handwriting of
    the test split.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "30000 pictures of 2 x 2 cells.", "1.0.0": "10000 pictures of 3 x 3 cells."}

    def values(self) -> dict[str, tfds.features.FeatureConnector]:
        side = CELL * CELLS
        image = tfds.features.Image(shape=(side, side, 3), encoding_format="png")
        return {"image": image, "caption": tfds.features.Text()}

    def listed(self) -> tuple[dict[str, list[Item]], list[str]]:
        names = {split: range(size) for split, size in SIZES.items()}
        return {s: [Item(f"{i:05d}", None, (s, i)) for i in numbers] for s, numbers in names.items()}, []

    def caption(self, item: Item) -> str:
        return str(scene_of(*item.source))

    def example(self, item: Item) -> Made:
        image = images.from_pixels(picture_of(*item.source))
        return Made({"image": image, "caption": self.caption(item)}, digest_of(image))


def _random(split: str, number: int, part: int) -> np.random.Generator:
    return np.random.default_rng([SEED, list(SIZES).index(split), number, part])


def scene_of(split: str, number: int) -> Scene:
    """What the picture of that number shows. Scenes are drawn until one belongs to the split."""
    rng, names, relations = _random(split, number, 0), list(COLOURS), list(RELATIONS)
    while True:
        groups = [Group(int(rng.integers(1, 3)), names[rng.integers(5)], int(rng.integers(10))) for _ in range(2)]
        if any(group.held_out for group in groups) == (split == "test"):
            return Scene(groups[0], relations[rng.integers(4)], groups[1])


def picture_of(split: str, number: int) -> np.ndarray:
    """uint8 [16, 16, 3], of the scene of that number."""
    return drawn(scene_of(split, number), split, _random(split, number, 1))


def drawn(scene: Scene, split: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 [16, 16, 3]: a scene in a split's handwriting; a digit alone in its line is in either cell."""
    picture = np.zeros((CELLS, CELLS, CELL, CELL, 3), np.uint8)
    pixels = handwriting(split)
    for line, group in enumerate(scene.in_order):
        for place in rng.choice(CELLS, group.count, replace=False):
            cell = (line, place) if RELATIONS[scene.relation][0] == 0 else (place, line)
            of_kind = pixels[group.digit]
            glyph = of_kind[rng.integers(len(of_kind))][..., None].astype(np.uint16)
            picture[cell] = glyph * np.array(COLOURS[group.colour], np.uint16) // 255
    return from_cells(picture)


def from_cells(cells: np.ndarray) -> np.ndarray:
    """[..., 2, 2, 8, 8, C] as [..., 16, 16, C]."""
    side = CELL * CELLS
    return np.swapaxes(cells, -4, -3).reshape(*cells.shape[:-5], side, side, cells.shape[-1])


def to_cells(pictures: np.ndarray) -> np.ndarray:
    """[..., 16, 16, C] as [..., 2, 2, 8, 8, C]."""
    *batch, _, _, channels = pictures.shape
    return np.swapaxes(pictures.reshape(*batch, CELLS, CELL, CELLS, CELL, channels), -4, -3)


@functools.cache
def handwriting(split: str) -> tuple[np.ndarray, ...]:
    """uint8 [n, 8, 8] of each of the ten digits, of a split of the data set digits."""
    pixels, kinds = digit_pixels()
    of_test = np.arange(len(pixels)) % TEST_EVERY == 0
    chosen = of_test == (split == "test")
    return tuple(pixels[chosen & (kinds == digit)] for digit in range(10))
