"""What is kept of a set of images of any size: statistics of all, sums for the inception score, and a sample.

The sample is a reservoir (Vitter, "Random sampling with a reservoir", 1985, algorithm R): image i, from 0, goes to
place i below the capacity, else to place w_i mod i+1, or nowhere if that is beyond the capacity. w_i is the i-th 64-bit
word of PCG64(seed), a function of (seed, i) alone: neither batches nor saving and loading in between matter.

Statistics are kept in G groups, for intervals. Of every G images in a row one goes to each group, in an order that is
drawn anew for each row: with i mod G, ten groups of images of the classes 0 to 9 in turn would be the classes.
"""

import os
import zipfile

import numpy as np

from keras_sid2.evaluation.inception_score import InceptionScore, StreamedScore
from keras_sid2.evaluation.statistics import FeatureStatistics, finite_rows
from keras_sid2.io.atomic import atomic_write

# Images are added to the statistics this many at a time, because each addition costs D x D operations a group, and at
# multiples of it, because rounding then does not depend on the batches either.
_BLOCK = 4096
_FORMAT = 2  # of files; counted up whenever they hold something else


class FeatureSet:
    """Features of images, added batch by batch.

    Memory is groups x D x D x 8 bytes (335 MB for 10 groups of 2048 features), 4096 x D x 8 for images that wait,
    capacity x D x 4 for the sample, and up to 200 MB for the logits of 1000 classes. ValueError for other arguments.

    Args:
        groups: of images, at least 1, of which statistics are kept apart; equally many in each, up to one.
        capacity: most images in the sample, at least 0.
        seed: of the sample, in [0, 2^32).
        made_by: `Features.identity` of the function that the features are of; None: not known.
    """

    def __init__(
        self, *, groups: int = 10, capacity: int = 10_000, seed: int = 0, made_by: tuple[str, str, str] | None = None
    ):
        if groups < 1 or capacity < 0 or not 0 <= seed < 2**32:
            found = f"groups={groups}, capacity={capacity}, seed={seed}"
            raise ValueError(f"A feature set needs at least 1 group, capacity >= 0, 0 <= seed < 2**32, got {found}.")
        self.capacity, self.seed, self.made_by, self.count = capacity, seed, made_by, 0
        self._group_count = groups
        self._widths = None  # of features and logits, which the first batch tells
        self._groups, self._waiting, self._sample, self._score = [], [], None, None

    def add(self, features: np.ndarray, logits: np.ndarray | None = None):
        """The next images' features [B, D], and class logits [B, K] for all batches or for none; B may differ.

        ValueError, and nothing is added, for values that are not finite, other shapes, or other widths than before.
        """
        features, logits = self._checked(features, logits)
        self._add_to_sample(features)
        self._add_to_groups(features)
        if logits is not None:
            self._score.add(logits)

    def _checked(self, features, logits=None) -> tuple[np.ndarray, np.ndarray | None]:
        """Both in float64, and room for the first ones; ValueErrors of `add`."""
        features = finite_rows(features)
        logits = None if logits is None else finite_rows(logits, what="Logits")
        if logits is not None and len(logits) != len(features):
            raise ValueError(f"Features and logits must be of the same images, got {len(features)} and {len(logits)}.")
        widths = features.shape[1], None if logits is None else logits.shape[1]
        if self._widths is None:
            self._widths = widths
            self._groups = [FeatureStatistics.of(np.empty((0, widths[0])))] * self._group_count
            self._sample = np.empty((self.capacity, widths[0]), "float32")
            self._score = None if logits is None else StreamedScore(widths[1])
        elif self._widths != widths:
            (here, logits_here), (before, logits_before) = widths, self._widths
            raise ValueError(
                f"The batches before had {before} features and {logits_before or 'no'} logits an image, this one has "
                f"{here} and {logits_here or 'no'}."
            )
        return features, logits

    def _add_to_sample(self, features: np.ndarray):
        """Of two images for one place, numpy leaves the latter there."""
        index = np.arange(self.count, self.count + len(features), dtype="uint64")
        words = np.random.PCG64(self.seed).advance(self.count).random_raw(len(features))
        places = np.where(index < self.capacity, index, words % (index + np.uint64(1)))
        kept = places < self.capacity
        self._sample[places[kept]] = features[kept]

    def _add_to_groups(self, features: np.ndarray):
        pieces = np.split(features, range(_BLOCK - self.count % _BLOCK, len(features) + 1, _BLOCK))
        for i, piece in enumerate(pieces):
            if i:  # a piece ended at a multiple of the block
                self._groups, self._waiting = self.groups, []
            self._waiting.append(piece.copy())  # callers may write their next batch into the same array
            self.count += len(piece)

    def _check_images(self, what: str):
        if self._widths is None:
            raise ValueError(f"A feature set without images has no {what}: add some first.")

    @property
    def width(self) -> int | None:
        """Features an image; None before the first batch."""
        return None if self._widths is None else self._widths[0]

    @property
    def groups(self) -> list[FeatureStatistics]:
        """Of each group; ValueError before the first batch."""
        self._check_images("statistics")
        waiting = np.concatenate([np.empty((0, self._widths[0])), *self._waiting])
        first = self.count - len(waiting)
        group = self._groups_of(first, len(waiting))
        parts = [waiting[group == g] for g in range(self._group_count)]
        return [old.merged(FeatureStatistics.of(new)) for old, new in zip(self._groups, parts, strict=True)]

    def _groups_of(self, first: int, count: int) -> np.ndarray:
        """The groups of images first <= i < first + count, int [count]."""
        size = self._group_count
        start, rows = first // size, -(-(first + count) // size) - first // size
        words = np.random.PCG64([self.seed, 1]).advance(start * size).random_raw(rows * size)
        return np.argsort(words.reshape(rows, size), axis=1).ravel()[first - start * size :][:count]

    @property
    def statistics(self) -> FeatureStatistics:
        """Of all images; ValueError before the first batch."""
        first, *others = self.groups
        return first.merged(*others)

    @property
    def sample(self) -> np.ndarray:
        """Of features, at random, float32 [min(count, capacity), D]; of few, all in order. ValueError as `groups`."""
        self._check_images("sample")
        return self._sample[: self.count].copy()

    @property
    def inception_score(self) -> InceptionScore | None:
        """Of all images; None where no logits were added. ValueError for fewer than ten images."""
        return None if self._score is None else self._score.score()

    def save(self, path: str | os.PathLike):
        """One atomic .npz file; ValueError before the first batch."""
        arrays = self._arrays()
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def _arrays(self) -> dict[str, np.ndarray]:
        groups = self.groups
        return {
            "format": np.int64(_FORMAT),
            "made_by": np.array(self.made_by or (), "str"),
            "seed": np.int64(self.seed),
            "capacity": np.int64(self.capacity),
            "counts": np.array([g.count for g in groups], "int64"),
            "means": np.stack([g.mean for g in groups]),
            "scatters": np.stack([g.scatter for g in groups]),
            "sample": self.sample,
            **({} if self._score is None else self._score.arrays()),
        }

    @classmethod
    def load(cls, path: str | os.PathLike) -> "FeatureSet":
        """What `save` wrote, to which more may be added; ValueError for any other file or format, OSError for none."""
        with open(path, "rb") as file:
            try:
                with np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
                    return cls._from_arrays(dict(arrays))
            except (ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
                wanted = "a whole file that FeatureSet.save wrote, in the format of this version"
                raise ValueError(f"{os.fspath(path)} is not {wanted}.") from error

    @classmethod
    def _from_arrays(cls, arrays: dict[str, np.ndarray]) -> "FeatureSet":
        """ValueError unless these are what it would save again, and of one set."""
        counts, means, scatters = arrays["counts"], arrays["means"], arrays["scatters"]
        made_by = tuple(map(str, arrays["made_by"])) or None
        loaded = cls(groups=len(counts), capacity=int(arrays["capacity"]), seed=int(arrays["seed"]), made_by=made_by)
        sample, _ = loaded._checked(arrays["sample"])
        loaded._add_to_sample(sample)  # as the first images: all have room, in their order
        loaded.count = int(counts.sum())
        loaded._groups = [FeatureStatistics(int(n), m, s) for n, m, s in zip(counts, means, scatters, strict=True)]
        one_set = np.ptp(counts) <= 1 and len(made_by or ()) in (0, 3)
        if "split_logits" in arrays:
            loaded._score = score = StreamedScore.from_arrays(arrays)
            loaded._widths = (sample.shape[1], score.classes)
            one_set &= score.count == loaded.count
        again = loaded._arrays()
        same = again.keys() == arrays.keys() and all(np.array_equal(arrays[name], again[name]) for name in again)
        if not one_set or not same:  # NaN is not the same
            raise ValueError("The arrays are not those of one set.")
        return loaded
