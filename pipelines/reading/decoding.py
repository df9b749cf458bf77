"""From positions in the stream to arrays by name: reading, checking, decoding, cropping, resizing, mirroring."""

from collections.abc import Callable

import numpy as np

from pipelines import images
from pipelines.images import BadImage, Header
from pipelines.reading.examples import Encoded, Example, Source, size_of
from pipelines.reading.faults import BadRecord
from pipelines.reading.order import Plan
from pipelines.reading.settings import ReadSettings

# GROUP encoded images of one format ("jpeg", "png"), all of the size that comes out -> uint8 [GROUP, H, W, C], if
# somebody decodes several at once faster than Pillow one by one; BadImage if one of them fails
DecodeGroup = Callable[[str, list[bytes]], np.ndarray]
Arrays = dict[str, np.ndarray]  # values by name, each [n, ...]
GROUP = 16
# Memory that begins at a multiple of this is taken over by TensorFlow and not copied.
ALIGNMENT = 64


class Decoder:
    """Decoded examples of one source, by position.

    Attributes:
        outputs: {name: ValueSpec} of the values that come out, the sample first.
        shape: of the sample, (H, W, C) or (T, H, W, C).
        plan: what is read when.
    """

    def __init__(self, source: Source, settings: ReadSettings, decode_group: DecodeGroup | None = None) -> None:
        self._source, self._settings, self._decode_group = source, settings, decode_group
        self.plan = Plan(settings, len(source))
        self.outputs = settings.outputs(source.schema, source.description.name)
        self._sample = source.schema.sample_name
        self._over = {name for name, spec in self.outputs.items() if spec.lies_over}
        self.shape = self.outputs[self._sample].shape

    def fill(self, first: int, arrays: Arrays, good: np.ndarray) -> BadRecord | None:
        """Decodes the examples at consecutive positions, from `first` on, into arrays.

        `good`, bool [n], becomes False where a record is bad; in training the next good example of the stream then
        stands in its place. Returns the fault for which reading must stop, or None.
        """
        good[:] = True
        for start in range(0, len(good), GROUP):
            rows = slice(start, start + GROUP)
            fault = self._fill_group(first + start, {name: array[rows] for name, array in arrays.items()}, good[rows])
            if fault:
                return fault
        return None

    def batch(self, number: int) -> tuple[Arrays, np.ndarray, BadRecord | None]:
        """Decodes a batch in this thread: the arrays of `fill` and its fault."""
        first, count = self.plan.batch(number)
        arrays, good = self.empty(count)
        return arrays, good, self.fill(first, arrays, good)

    def empty(self, count: int) -> tuple[Arrays, np.ndarray]:
        """Arrays for `fill`."""
        return {
            name: _aligned((count, *spec.shape), np.dtype(spec.dtype)) for name, spec in self.outputs.items()
        }, np.zeros(count, bool)

    def decodes_groups(self) -> bool:
        """Whether groups of examples are decoded together, judging by the first example."""
        try:
            sample = self._source.example(0)[self._sample]
        except BadRecord:
            return False
        return self._decode_group is not None and isinstance(sample, Encoded) and self._comes_out(sample.header)

    def _comes_out(self, header: Header) -> bool:
        """Whether an image needs nothing but decoding."""
        fits = (header.height, header.width, header.channels) == self.shape[-3:]
        return fits and self._settings.crop != "random"

    def _fill_group(self, first: int, arrays: Arrays, good: np.ndarray) -> BadRecord | None:
        """`fill` for at most GROUP examples."""
        numbers = self.plan.numbers(first, len(good)).tolist()
        flips = self.plan.flips(first, len(good))
        examples: dict[int, Example] = {}
        for row, number in enumerate(numbers):
            try:
                examples[row] = self._source.example(number)
            except BadRecord as fault:
                good[row] = False
                if stop := self._source.bad.judged(fault):
                    return stop
        together = self._decoded_together([example[self._sample] for example in examples.values()])
        for row, example in examples.items():
            if together is not None:
                example[self._sample] = together[row]
            try:
                self._into(_row(arrays, row), numbers[row], example, first + row, flips[row])
            except BadRecord as fault:
                good[row] = False
                if stop := self._source.bad.judged(fault):
                    return stop
        if self._settings.training:
            for row in np.flatnonzero(~good).tolist():
                if stop := self._stand_in(first + row, _row(arrays, row), flips[row]):
                    return stop
        return None

    def _stand_in(self, position: int, row: Arrays, flip: bool) -> BadRecord | None:
        """Puts the next good example of the stream in the place of a bad one."""
        total = len(self._source)
        for later in range(position + 1, position + 1 + total):
            (number,) = self.plan.numbers(later, 1).tolist()
            try:
                self._into(row, number, self._source.example(number), position, flip)
                return None
            except BadRecord as fault:
                if stop := self._source.bad.judged(fault):
                    return stop
        return BadRecord(self._source.description.name, None, f"all {total} records are bad")

    def _decoded_together(self, samples: list[Encoded]) -> np.ndarray | None:
        """The samples of a whole group at once, uint8 [GROUP, H, W, C]; None if they must be decoded one by one."""
        if self._decode_group is None or len(samples) < GROUP:
            return None
        headers = [sample.header for sample in samples]
        if not all(map(self._comes_out, headers)) or len({header.format for header in headers}) > 1:
            return None
        try:
            return self._decode_group(headers[0].format, [sample.images[0] for sample in samples])
        except BadImage:  # one by one it will show which
            return None

    def _into(self, row: Arrays, number: int, example: Example, position: int, flip: bool) -> None:
        """Puts the values of one example into their places."""
        stored = size_of(example[self._sample])
        window = self.plan.window(position, stored, self.shape[-3:-1])
        for name, place in row.items():
            value = example[name]
            if name not in self._over:
                place[...] = value
                continue
            part = window
            if window is not None and (own := size_of(value)) != stored:  # the same part, in pixels of its own
                part = window * (np.array([*own, *own]) / np.array([*stored, *stored]))
            try:
                pixels = self._decoded(value, part, place.shape)
            except BadImage as error:
                raise self._source.undecodable(number, name, error) from None
            place[...] = pixels[..., ::-1, :] if flip else pixels

    def _decoded(self, value: Encoded | np.ndarray, window: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
        """A window of an image or clip, or all of it, in the shape that comes out."""
        size = shape[-3:-1]
        if isinstance(value, Encoded):
            how = {"channels": shape[-1], "background": self._source.schema.background}
            return _stacked([images.decode(data, window, size, **how) for data in value.images], shape)
        if window is None:
            return value
        return _stacked([images.resized(frame, window, size) for frame in value.reshape(-1, *value.shape[-3:])], shape)


def _stacked(frames: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return frames[0] if len(shape) == 3 else np.stack(frames)


def _row(arrays: Arrays, row: int) -> Arrays:
    return {name: array[row, ...] for name, array in arrays.items()}  # views, of single numbers too


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def good_ones(arrays: Arrays, good: np.ndarray) -> Arrays:
    """Leaves bad examples out of a batch."""
    return arrays if good.all() else {name: array[good] for name, array in arrays.items()}
