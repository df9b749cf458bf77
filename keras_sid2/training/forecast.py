"""What a measurement will take, learned from its pieces as they are done."""

import math
from collections.abc import Callable, Iterator

import numpy as np

_TRIED = 0.1  # of a batch's sampler steps: the first two reports of a Drawing, one of which may be compiled


class _Pace:
    """Mean seconds of a piece of work; the first one, which may have been compiled, is left out."""

    def __init__(self):
        self.first: float | None = None
        self._seconds, self._count = 0.0, 0

    def add(self, seconds: float, count: int = 1):
        """So many pieces."""
        if self.first is None:
            self.first = seconds
        else:
            self._seconds, self._count = self._seconds + seconds, self._count + count

    @property
    def known(self) -> bool:
        return self._count > 0

    @property
    def mean(self) -> float:
        return self._seconds / self._count if self._count else 0.0

    def of(self, count: int) -> float:
        """Seconds of so many pieces, at least: those of the first one where no other was seen."""
        return count * self.mean if self.known else self.first or 0.0


class Forecast:
    """Seconds that a measurement takes: those of the last whole one, before that what its pieces tell.

    As long as nothing was drawn, compiling counts as long as the first step of training, which was compiled too, and
    a sampler step as long as a later one; only a tenth of a batch is counted, for that will tell. As long as no
    distances were computed, they count as long as all before them. `before`, what an earlier process expected, takes
    the place of both: then only compiling is added.
    """

    def __init__(self, clock: Callable[[], float], before: float | None = None):
        self._clock, self._mark, self._before = clock, clock(), before
        self._training, self._sampling, self._features, self._distances = (_Pace() for _ in range(4))
        self._training_steps = self._steps_a_batch = self._batches = self._distance_count = 0
        self._whole: float | None = None

    def lap(self) -> float:
        """Seconds since the one before."""
        before, self._mark = self._mark, self._clock()
        return self._mark - before

    # -- training ----------------------------------------------------------------------------------------------------

    def training_begins(self):
        self._training_steps = 0
        self.lap()

    def training_step_ends(self):
        if self._training.first is None:
            self._training.add(self.lap())
        else:
            self._training_steps += 1

    def training_ends(self):
        """All steps of a window are done, not only under way."""
        if self._training_steps:
            self._training.add(self.lap(), self._training_steps)

    # -- measuring ---------------------------------------------------------------------------------------------------

    def whole_is(self, steps_a_batch: int, batches: int):
        self._steps_a_batch, self._batches = steps_a_batch, batches

    def drawn(self, steps: int):
        self._sampling.add(self.lap(), steps)

    def extracted(self):
        """The features of a batch."""
        self._features.add(self.lap())

    def compared(self, count: int):
        """One of so many distances."""
        self._distance_count = count
        self._distances.add(self.lap())

    def took(self, seconds: float):
        """A whole measurement."""
        self._whole = seconds

    # -- what is known -----------------------------------------------------------------------------------------------

    @property
    def certain(self) -> bool:
        """Whether there was a whole one."""
        return self._whole is not None

    def seconds(self) -> float:
        """Of the next one, as far as is known; before anything was drawn, of the beginning of one."""
        if self._whole is not None:
            return self._whole
        if self._sampling.first is not None:
            return max(self._images() + self._comparing(), self._before or 0.0)
        tried = math.ceil(_TRIED * self._steps_a_batch) * self._training.mean
        return (self._training.first or 0.0) + (tried if self._before is None else self._before)

    def left(self, *, steps: int, batches: int, distances: int | None = None) -> float:
        """Seconds of the rest of one, after so many sampler steps, batches with features, and distances."""
        steps, batches = self._steps_a_batch * self._batches - steps, self._batches - batches
        images = steps * self._sampling.mean + batches * self._features.mean
        if distances is None:
            return images + self._comparing()
        return (self._distance_count - distances) * self._distances.mean

    def _images(self) -> float:
        """Of drawing all images, and their features."""
        return self._sampling.of(self._steps_a_batch * self._batches) + self._features.of(self._batches)

    def _comparing(self) -> float:
        """Of all distances."""
        if self._distances.known:
            return self._distances.of(self._distance_count)
        guess = self._images() if self._before is None else self._before - self._images()
        return max(guess, self._distances.first or 0.0)


class Attempt:
    """A measurement on its way: tells a forecast of its pieces, and `check`, behind each, of the seconds of the rest.

    What `check` raises ends it.
    """

    def __init__(self, forecast: Forecast, check: Callable[[float], None], *, shown: int):
        self.images: list[np.ndarray] = []  # the first batches, of at least so many images as are to be shown
        self._forecast, self._check, self._shown = forecast, check, shown
        self._done = {"steps": 0, "batches": 0}

    def begin(self):
        self._forecast.lap()

    def drawn(self, steps: int, _: int):
        """The `progress` of a Drawing."""
        self._forecast.drawn(steps - self._done["steps"])
        self._done["steps"] = steps
        self._check(self._forecast.left(**self._done))

    def passed_on(self, batches: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same batches."""
        for batch in batches:
            if sum(map(len, self.images)) < self._shown:
                self.images.append(batch)
            self._forecast.lap()
            yield batch
            self._forecast.extracted()
            self._done["batches"] += 1
            self._check(self._forecast.left(**self._done))

    def compared(self, done: int, total: int):
        """The `progress` of distances."""
        self._forecast.compared(total)
        self._check(self._forecast.left(**self._done, distances=done))
