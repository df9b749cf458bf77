"""Which examples make which batch, and every random draw of the readers, as pure functions of (seed, position).

With n examples, batches of B and P processes, row r of step k in process i is

    position p = (k P + i) B + r,   epoch e = p // n,   example = permutation_e[p % n]

so together the processes see the batch that one with batches of P B would see, and over an epoch each example once.
Draws are raw bits of numpy's Philox, which no version changes (as it may `permutation` and `uniform`).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from pipelines.reading.settings import LAST, ReadSettings

DRAWS = 2**64 - 1  # second word of the key of the draws; those of the permutations are epochs
Window = tuple[float, float, float, float]  # (top, left, height, width) in pixels


@dataclasses.dataclass(frozen=True)
class Plan:
    """The batches that settings make of `num_examples` examples."""

    settings: ReadSettings
    num_examples: int

    @property
    def num_batches(self) -> int:
        """Of one pass of this process; in training, of the endless stream, counted from step 0."""
        asked = self.settings
        if not asked.training and not asked.drop_remainder:
            return -(-len(self._part()) // asked.batch_size)
        return (LAST if asked.training else self.num_examples) // (asked.batch_size * asked.process_count)

    def batch(self, number: int) -> tuple[int, int]:
        """Position of the first example of a batch, in the order of all processes, and how many it has."""
        asked = self.settings
        if asked.training or asked.drop_remainder:
            return (number * asked.process_count + asked.process_index) * asked.batch_size, asked.batch_size
        part, start = self._part(), number * asked.batch_size
        return part[start], min(asked.batch_size, len(part) - start)

    def _part(self) -> range:
        """The examples, in file order, that this process reads in one pass whose batches need not be full."""
        index, count = self.settings.process_index, self.settings.process_count
        return range(*(self.num_examples * i // count for i in (index, index + 1)))

    def numbers(self, first: int, count: int) -> list[int]:
        """Numbers of the `count` examples from position `first` on."""
        if self.settings.training:
            return examples_at(self.settings.seed, first, count, self.num_examples).tolist()
        return list(range(first, first + count))

    def draws(self, first: int, count: int) -> list[list[float]]:
        """For each of the positions from `first` on what `flips` and `window` take."""
        return uniforms(self.settings.seed, first, count).tolist()

    def flips(self, draws: Sequence[float]) -> bool:
        """Whether the example with these draws is mirrored."""
        return self.settings.flip and draws[0] < 0.5

    def window(self, draws: Sequence[float], stored: tuple[int, int], size: tuple[int, int]) -> Window | None:
        """What is cut out of a sample, `stored` high and wide, to become `size`; None: all of it, as it is."""
        asked, aspect = self.settings, size[0] / size[1]
        if asked.crop == "random":
            return random_window(*stored, draws[1:], asked.min_crop, aspect)
        return None if stored == size else center_window(*stored, aspect)


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """The order of one epoch: int64 [num_examples], each of 0..num_examples-1 once. It takes about 0.1 s for a million
    examples, and 16 bytes for each; the newest few are kept."""
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_examples)
    order = np.argsort(bits, kind="stable")
    order.flags.writeable = False
    return order


def examples_at(seed: int, first: int, count: int, num_examples: int) -> np.ndarray:
    """Numbers of the examples at positions first..first+count-1 of the endless shuffled stream: int64 [count]."""
    epochs, places = np.divmod(first + np.arange(count), num_examples)
    chosen = np.empty(count, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        chosen[here] = permutation(seed, epoch, num_examples)[places[here]]
    return chosen


def uniforms(seed: int, first: int, count: int) -> np.ndarray:
    """Four independent uniform numbers in [0, 1) for each of the positions first..first+count-1: float64 [count, 4]."""
    generator = np.random.Philox(key=np.array([seed, DRAWS], np.uint64), counter=np.array([first, 0, 0, 0], np.uint64))
    return (generator.random_raw(4 * count) >> np.uint64(11)).reshape(count, 4) * 2.0**-53


def center_window(height: int, width: int, aspect: float = 1.0) -> Window:
    """The largest centred window of `aspect` = height / width, in whole pixels."""
    h, w = _sides(height, width, aspect, 1.0)
    return (height - h) // 2, (width - w) // 2, h, w


def random_window(height: int, width: int, draws: Sequence[float], min_crop: float, aspect: float = 1.0) -> Window:
    """A window of `aspect` = height / width, in whole pixels, by three uniform draws: side, from `min_crop` of the
    largest one's to that; row; column."""
    h, w = _sides(height, width, aspect, min_crop + (1 - min_crop) * draws[0])
    return int(draws[1] * (height - h + 1)), int(draws[2] * (width - w + 1)), h, w


def _sides(height: int, width: int, aspect: float, fraction: float) -> tuple[int, int]:
    """Sides, in whole pixels, of `fraction` of the largest window of `aspect`."""
    across = min(width, height / aspect) * fraction
    return min(max(round(across * aspect), 1), height), min(max(round(across), 1), width)
