"""The settings of a reader, checked before anything is opened, and which example is read when."""

import dataclasses
import operator
from typing import Any

import numpy as np

from pipelines.reading import order
from pipelines.reading.locating import DatasetDescription

LAST = 2**63 - 1  # positions end here
CROPS = (None, "center", "random")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """The arguments of `make_dataset` that say what is read and in which order; see there."""

    batch_size: int
    image_size: int | tuple[int, int] | None = None
    training: bool = True
    seed: int = 0
    start_step: int = 0
    flip: bool = False
    crop: str | None = None
    min_crop: float = 0.8
    drop_remainder: bool | None = None
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        for name, least in {
            "batch_size": 1,
            "seed": 0,
            "start_step": 0,
            "process_index": 0,
            "process_count": 1,
        }.items():
            object.__setattr__(self, name, integer(name, getattr(self, name), at_least=least))
        if self.process_index >= self.process_count:
            raise ValueError(
                f"process_index must be below process_count={self.process_count}, got {self.process_index}"
            )
        if self.start_step * self.batch_size * self.process_count > LAST:
            raise ValueError(f"start_step={self.start_step} with batch_size={self.batch_size} is beyond example 2**63")
        for name in ("training", "flip"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.drop_remainder is not None and not isinstance(self.drop_remainder, bool):
            raise ValueError(f"drop_remainder must be True, False or None, got {self.drop_remainder!r}")
        if self.crop not in CROPS:
            raise ValueError(f"crop must be None, 'center' or 'random', got {self.crop!r}")
        if not isinstance(self.min_crop, (int, float)) or not 0 < self.min_crop <= 1:
            raise ValueError(f"min_crop must be in (0, 1], got {self.min_crop!r}")
        if not self.training and (self.start_step or self.flip or self.crop == "random"):
            raise ValueError(
                f"start_step, flip and crop='random' are for training=True, got start_step={self.start_step}, "
                f"flip={self.flip}, crop={self.crop!r}"
            )
        if self.image_size is not None:
            object.__setattr__(self, "image_size", _size(self.image_size))

    def output_size(self, data: DatasetDescription) -> tuple[int, int]:
        """(H, W) of the images that come out.

        Raises:
            ValueError: the stored images cannot be given in that size.
        """
        stored, what = data.image_shape[:2], f"the images of {data.name}"
        if None in stored:
            if self.image_size is None:
                raise ValueError(f"{what} may differ in size (stored as {data.image_shape}): give image_size")
            return self.image_size
        if self.image_size is None and self.crop is None:
            return stored
        size = self.image_size or stored
        if self.crop is None and size != stored:
            raise ValueError(
                f"image_size {size[0]}x{size[1]} was asked for and {what} are {stored[0]}x{stored[1]}: "
                "give crop='center' or crop='random' to cut and resize them"
            )
        return size

    def position(self, step: int) -> int:
        """Position, in the order of all processes, of the first example of this process in a step."""
        return (step * self.process_count + self.process_index) * self.batch_size

    def numbers(self, first: int, count: int, num_examples: int) -> np.ndarray:
        """Numbers of the `count` examples from position `first` on: int64 [count]."""
        if self.training:
            return order.examples_at(self.seed, first, count, num_examples)
        return np.arange(first, first + count)

    def part(self, num_examples: int) -> range:
        """The examples, in file order, that this process reads in one pass whose batches need not be full."""
        start, stop = (num_examples * i // self.process_count for i in (self.process_index, self.process_index + 1))
        return range(start, stop)

    def num_batches(self, num_examples: int) -> int:
        """Number of batches of one pass of this process."""
        if self.drop_remainder:
            return num_examples // (self.batch_size * self.process_count)
        return -(-len(self.part(num_examples)) // self.batch_size)

    def batch_span(self, number: int, num_examples: int) -> tuple[int, int]:
        """First example and length of a batch of one pass."""
        if self.drop_remainder:
            return self.position(number), self.batch_size
        part, start = self.part(num_examples), number * self.batch_size
        return part[start], min(self.batch_size, len(part) - start)

    def windows(self, first: int, heights: np.ndarray, widths: np.ndarray, aspect: float) -> np.ndarray:
        """What is cut out of the images at the positions from `first` on: int32 [N, 4], (top, left, height, width)."""
        if self.crop == "random":
            draws = order.uniforms(self.seed, first, len(heights))
            return order.random_windows(heights, widths, draws[:, 1:], self.min_crop, aspect)
        return order.center_windows(heights, widths, aspect)

    def flips(self, first: int, count: int) -> np.ndarray:
        """Which images at the positions from `first` on are mirrored: bool [count]."""
        if not self.flip:
            return np.zeros(count, bool)
        return order.uniforms(self.seed, first, count)[:, 0] < 0.5


def integer(name: str, value: Any, *, at_least: int) -> int:
    """`value` as an int; ValueError if it is none, too small, or beyond 2**63 - 1."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not at_least <= number <= LAST:
        raise ValueError(f"{name} must be an integer of at least {at_least} (and below 2**63), got {value!r}")
    return number


def _size(image_size: Any) -> tuple[int, int]:
    size = tuple(image_size) if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    if len(size) != 2:
        raise ValueError(f"image_size must be one integer or (height, width), got {image_size!r}")
    return integer("image_size", size[0], at_least=1), integer("image_size", size[1], at_least=1)
