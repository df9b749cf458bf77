"""The inception score: is each image of one class for sure, and are all classes there? (Salimans et al. 1606.03498)

    (1) p_i = softmax(logits_i),   q = mean of p_i
    (2) IS  = exp(mean of KL(p_i | q)) = exp(H(q) - mean of H(p_i)),     H(p) = -sum p ln p

between 1 and the number of classes, in float64. As in the paper it is the mean over ten splits of the images, each with
a q of its own; a split of n images scores at most n, so only scores of as many images compare. As torch-fidelity does,
all are shuffled first. Others take splits as images come (the paper's code ten, ADM's evaluator 5000 images each). With
labels drawn at random that is the same to 0.1 %; with labels in turn (as sid2-evaluate draws) their q is more even than
chance makes it: such images scored 328, not 307.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from keras_sid2.evaluation.statistics import finite_rows

_SPLITS, _SEED = 10, 2020
_AT_ONCE = 1000  # images, so that probabilities in float64 take 8 MB of 1000 classes


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits."""

    mean: float
    std: float


def inception_score(logits: np.ndarray, *, splits: int = _SPLITS, seed: int = _SEED) -> InceptionScore:
    """Eq. (2) of class logits [N, K], any finite numbers; ValueError for others, or for fewer images than splits."""
    if splits < 1:
        raise ValueError(f"splits must be at least 1, got {splits}.")
    logits = finite_rows(logits, fewest=splits, what="Logits")
    return _Sums.of_none(splits, logits.shape[1]).adding(logits, seed).score()


class _Sums(NamedTuple):
    """What Eq. (2) needs of the images in each of S splits."""

    counts: np.ndarray  # int [S], of images
    p: np.ndarray  # float64 [S, K], the sum of their p_i
    p_log_p: np.ndarray  # float64 [S], the sum of their -H(p_i)

    @classmethod
    def of_none(cls, splits: int, classes: int) -> "_Sums":
        return cls(np.zeros(splits, "int64"), np.zeros((splits, classes)), np.zeros(splits))

    def adding(self, logits: np.ndarray, seed: int) -> "_Sums":
        """With the images of finite logits [N, K], which are shuffled among themselves."""
        splits = len(self.counts)
        sizes = np.diff([i * len(logits) // splits for i in range(splits + 1)])
        split = np.empty(len(logits), int)
        split[np.random.RandomState(seed).permutation(len(logits))] = np.repeat(np.arange(splits), sizes)
        p, p_log_p = self.p.copy(), self.p_log_p.copy()
        for start in range(0, len(logits), _AT_ONCE):
            here = slice(start, start + _AT_ONCE)
            log_p = special.log_softmax(logits[here].astype("float64"), axis=1)
            member = split[here] == np.arange(splits)[:, None]
            p += member @ np.exp(log_p)
            p_log_p += member @ (np.exp(log_p) * log_p).sum(axis=1)
        return _Sums(self.counts + sizes, p, p_log_p)

    def score(self) -> InceptionScore:
        """Eq. (2); ValueError if a split has no images."""
        splits, images = len(self.counts), self.counts.sum()
        if not self.counts.all():
            raise ValueError(f"An inception score over {splits} splits needs as many images, got {images}.")
        entropy = special.entr(self.p / self.counts[:, None]).sum(axis=1)
        scores = np.exp(self.p_log_p / self.counts + entropy)
        return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


class StreamedScore:
    """The inception score of images that come batch by batch, in memory that does not grow with their number.

    Up to SHUFFLED images it is `inception_score`'s. Of more, every SHUFFLED in a row are shuffled among themselves.
    """

    SHUFFLED = 50_000  # images, as many as published scores are of: 200 MB of 1000 classes

    def __init__(self, classes: int, sums: _Sums | None = None):
        """`sums` of images before, a multiple of SHUFFLED."""
        self._sums = _Sums.of_none(_SPLITS, classes) if sums is None else sums
        self.classes, self._waiting, self._count = classes, np.empty((self.SHUFFLED, classes), "float32"), 0

    @property
    def count(self) -> int:
        """Of images."""
        return int(self._sums.counts.sum()) + self._count

    def add(self, logits: np.ndarray):
        """Of the next images, finite [B, K]."""
        while len(logits):
            taken = logits[: self.SHUFFLED - self._count]
            self._waiting[self._count : self._count + len(taken)] = taken
            self._count, logits = self._count + len(taken), logits[len(taken) :]
            if self._count == self.SHUFFLED:
                self._sums, self._count = self._all(), 0

    def _all(self) -> _Sums:
        seed = _SEED + int(self._sums.counts.sum()) // self.SHUFFLED
        return self._sums.adding(self._waiting[: self._count], seed)

    def score(self) -> InceptionScore:
        """Of all images; ValueError for fewer than ten."""
        return self._all().score()

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` needs to go on from here."""
        sums = {f"split_{name}": array for name, array in self._sums._asdict().items()}
        return {"split_logits": self._waiting[: self._count].copy(), **sums}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "StreamedScore":
        """ValueError where they do not fit together."""
        sums, logits = _Sums(*(arrays[f"split_{name}"] for name in _Sums._fields)), arrays["split_logits"]
        shapes = [array.shape for array in _Sums.of_none(_SPLITS, logits.shape[1])]
        if [array.shape for array in sums] != shapes or int(sums.counts.sum()) % cls.SHUFFLED:
            raise ValueError("The sums over splits are not those of one set.")
        found = cls(logits.shape[1], sums)
        found.add(logits)
        return found
