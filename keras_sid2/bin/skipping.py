"""Batches that a run leaves out because they made its loss infinite or NaN (--on_nan=skip)."""

import json
import os
import pathlib

from keras_sid2.files import written_whole

_MOST = 10  # more than that is no matter of single batches


class Skipped:
    """Steps before which a batch of the data's order was left out, kept in a file of the work directory.

    Step s is trained on batch s + (number of entries <= s) of the order; so a run that goes on, or is done again from
    the start, sees the same batches.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads what is there; ValueError for a file that is no list of steps."""
        self.path = pathlib.Path(path)
        self.steps: list[int] = []
        if self.path.exists():
            try:
                self.steps = [int(step) for step in json.loads(self.path.read_text())]
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path} must be a list of steps as this program wrote it.") from error

    def batch(self, step: int) -> int:
        """The number of the batch that `step` is trained on."""
        return step + sum(entry <= step for entry in self.steps)

    def runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """start to stop in pieces whose batches follow one another."""
        edges = sorted({start, stop, *(step for step in self.steps if start < step < stop)})
        return list(zip(edges, edges[1:], strict=False))

    def add(self, step: int):
        """Leaves out the batch that `step` had; FloatingPointError if too many were left out already."""
        if len(self.steps) >= _MOST:
            raise FloatingPointError(f"{_MOST} batches were left out already ({self.path}): the data is not the cause.")
        self.steps = sorted([*self.steps, step])
        with written_whole(self.path) as temporary:
            temporary.write_text(json.dumps(self.steps) + "\n")
