"""A share of the time of a training, for work beside it; the sums outlive the process."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Iterator

from keras_sid2.io.atomic import written_whole


class TimeShare:
    """How long a training has gone on, over all its starts, and how much of that some work beside it has taken.

    Time passes from `begin` to `end`, which may come several times; what passes within `taking` is taken. `expected`,
    seconds or None, is what the work will take next time: its owner says it, for a later start of the training.

    Args:
        most: the share that may be taken, in (0, 1].
        path: of a small JSON file with the sums, read at once. A damaged one counts as none, one that cannot be
            written is done without.
        taken: seconds that this start took before, getting ready: they count in both sums.
        clock: gives seconds.

    Raises ValueError for a share outside (0, 1].
    """

    def __init__(
        self,
        most: float,
        *,
        path: str | os.PathLike,
        taken: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        if not 0.0 < most <= 1.0:
            raise ValueError(f"The share of time must be in (0, 1], got {most!r}.")
        self.most, self._path, self._clock = most, pathlib.Path(path), clock
        elapsed, before, self.expected = _read(self._path)
        self.elapsed, self.taken = elapsed + taken, before + taken
        self._last, self._taking = None, False

    def begin(self):
        self._last = self._clock()

    def end(self):
        self.keep()
        self._last = None

    def keep(self):
        """Writes the sums, which a process that is killed would forget."""
        self._pass()
        self._write()

    def left_after(self, seconds: float) -> float:
        """Of what may be taken, what is left if work of so many seconds is done now; below 0 there is no time for it.

        It is counted in the time of the training, too.
        """
        self._pass()
        return self.most * (self.elapsed + seconds) - (self.taken + seconds)

    def waiting_for(self, seconds: float) -> float:
        """Seconds of training until there is time for work of so many seconds."""
        return max(0.0, -self.left_after(seconds) / self.most)

    @contextlib.contextmanager
    def taking(self, seconds: float) -> Iterator[None]:
        """For work that is expected to take so many seconds.

        In the file it counts as done from the start: a process may be killed in the midst of it.
        """
        self._pass()
        self._write(promised=seconds)
        self._taking = True
        try:
            yield
        finally:
            self._pass()
            self._taking = False
            self._write()

    def _pass(self):
        if self._last is None:
            return
        now = self._clock()
        self.elapsed += now - self._last
        self.taken += (now - self._last) * self._taking
        self._last = now

    def _write(self, promised: float = 0.0):
        sums = {"elapsed_seconds": self.elapsed + promised, "taken_seconds": self.taken + promised}
        with contextlib.suppress(OSError), written_whole(self._path) as temporary:
            temporary.write_text(json.dumps({**sums, "expected_seconds": self.expected}) + "\n")


def _read(path: pathlib.Path) -> tuple[float, float, float | None]:
    """(elapsed, taken, expected) of a file; (0, 0, None) if it is none that `_write` wrote."""
    try:
        sums = json.loads(path.read_text())
        elapsed, taken, expected = (sums[f"{name}_seconds"] for name in ("elapsed", "taken", "expected"))
        if 0.0 <= taken <= elapsed < math.inf and (expected is None or 0.0 <= expected < math.inf):
            return elapsed, taken, expected
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return 0.0, 0.0, None
