"""Batches that a run leaves out because they made its loss infinite or NaN (--on_nan=skip)."""

import json
import os
import pathlib

from keras_sid2.io.atomic import written_whole

_MOST = 10  # more than that is no matter of single batches


class Skipped:
    """Batches of the data's order that are left out, by their numbers, kept in a file of the work directory.

    Each step is trained on the next batch that is not left out; so a run that goes on, or is done again from the start,
    sees the same batches at the same steps.
    """

    def __init__(self, path: str | os.PathLike, output: str | os.PathLike | None = None):
        """Reads what is there; ValueError for a file that is no list of numbers.

        With `output` it is written there, under the same name: one of several processes has the file.
        """
        self.path = pathlib.Path(path)
        self._written = self.path if output is None else pathlib.Path(output) / self.path.name
        self.batches: list[int] = []
        if self.path.exists():
            try:
                self.batches = sorted({int(batch) for batch in json.loads(self.path.read_text())})
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path} must be a list of batches as this program wrote it.") from error

    def batch(self, step: int) -> int:
        """The number of the batch that `step`, counted from 0, is trained on."""
        for left_out in self.batches:
            step += left_out <= step
        return step

    def runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """start to stop in pieces whose batches follow one another."""
        jumps = (batch - number for number, batch in enumerate(self.batches))
        edges = sorted({start, stop, *(step for step in jumps if start < step < stop)})
        return list(zip(edges, edges[1:], strict=False))

    def add(self, batch: int):
        """Leaves a batch out from now on; FloatingPointError if too many were left out already."""
        if len(self.batches) >= _MOST:
            raise FloatingPointError(f"{_MOST} batches were left out already ({self.path}): the data is not the cause.")
        self.batches = sorted({*self.batches, batch})
        with written_whole(self._written) as temporary:
            temporary.write_text(json.dumps(self.batches) + "\n")
