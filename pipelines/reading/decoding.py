"""From positions in the stream to uint8 images: reading, checking, decoding, cropping, resizing, mirroring."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines import images
from pipelines.images import BadImage, Header
from pipelines.reading.examples import Example, Source
from pipelines.reading.faults import BadRecord
from pipelines.reading.settings import ReadOptions

# GROUP encoded images of one format ("jpeg", "png"), all of the size that comes out -> uint8 [GROUP, H, W, C], if
# somebody decodes several at once faster than Pillow one by one; BadImage if one of them fails
DecodeGroup = Callable[[str, list[bytes]], np.ndarray]
GROUP = 16
# Memory that begins at a multiple of this is taken over by TensorFlow and not copied.
ALIGNMENT = 64


class Decoder:
    """Decoded examples of one source, by position.

    Attributes:
        shape: (H, W, C) of one decoded example, or (T, H, W, C) of a clip.
        key: "image", or "video" for clips.
    """

    def __init__(self, source: Source, options: ReadOptions, decode_group: DecodeGroup | None = None) -> None:
        self._source, self._options, self._decode_group = source, options, decode_group
        self._size = options.output_size(source.description)
        frames, channels = source.schema.num_frames, source.schema.image_shape[2]
        self.shape = (*((frames,) if frames else ()), *self._size, channels)
        self.key = "video" if frames else "image"

    def fill(self, first: int, images: np.ndarray, labels: np.ndarray, good: np.ndarray) -> BadRecord | None:
        """Decodes the examples at consecutive positions into arrays.

        Args:
            first: the position of the first one.
            images: uint8 [n, ...]; labels: int32 [n]; good: bool [n], False where a record is bad; in
                training the next good example of the stream then stands in its place.

        Returns:
            the fault for which reading must stop, or None.
        """
        good[:] = True
        for start in range(0, len(labels), GROUP):
            rows = slice(start, start + GROUP)
            fault = self._fill_group(first + start, images[rows], labels[rows], good[rows])
            if fault:
                return fault
        return None

    def decodes_groups(self) -> bool:
        """Whether groups of examples are decoded together, judging by the first example."""
        try:
            header = self._source.example(0).header
        except BadRecord:
            return False
        return self._decode_group is not None and self._comes_out(header)

    def _comes_out(self, header: Header) -> bool:
        """Whether an image needs nothing but decoding."""
        fits = (header.height, header.width, header.channels) == self.shape[-3:]
        return fits and self._options.crop != "random"

    def _fill_group(self, first: int, images: np.ndarray, labels: np.ndarray, good: np.ndarray) -> BadRecord | None:
        """`fill` for at most GROUP examples."""
        numbers = self._options.numbers(first, len(labels), len(self._source)).tolist()
        flips = self._options.flips(first, len(labels))
        examples: dict[int, Example] = {}
        for row, number in enumerate(numbers):
            try:
                examples[row] = self._source.example(number)
            except BadRecord as fault:
                good[row] = False
                if stop := self._source.bad.judged(fault):
                    return stop
        together = self._decoded_together(list(examples.values()))
        for row, example in examples.items():
            labels[row] = example.label or 0
            try:
                if together is None:
                    self._into(images[row], numbers[row], example, first + row, flips[row])
                else:
                    images[row] = together[row][:, ::-1] if flips[row] else together[row]
            except BadRecord as fault:
                good[row] = False
                if stop := self._source.bad.judged(fault):
                    return stop
        if self._options.training:
            for row in np.flatnonzero(~good).tolist():
                if stop := self._stand_in(first + row, images[row], labels[row : row + 1], flips[row]):
                    return stop
        return None

    def _stand_in(self, position: int, image: np.ndarray, label: np.ndarray, flip: bool) -> BadRecord | None:
        """Puts the next good example of the stream in the place of a bad one."""
        total = len(self._source)
        for later in range(position + 1, position + 1 + total):
            (number,) = self._options.numbers(later, 1, total).tolist()
            try:
                example = self._source.example(number)
                self._into(image, number, example, position, flip)
            except BadRecord as fault:
                if stop := self._source.bad.judged(fault):
                    return stop
                continue
            label[:] = example.label or 0
            return None
        return BadRecord(self._source.description.name, None, f"all {total} records are bad")

    def _decoded_together(self, examples: list[Example]) -> np.ndarray | None:
        """A whole group at once, uint8 [GROUP, H, W, C]; None if it must be decoded one by one."""
        if self._decode_group is None or len(examples) < GROUP or len(self.shape) == 4:
            return None
        headers = [example.header for example in examples]
        if not all(map(self._comes_out, headers)) or len({header.format for header in headers}) > 1:
            return None
        try:
            return self._decode_group(headers[0].format, [example.images[0] for example in examples])
        except BadImage:  # one by one it will show which
            return None

    def batch(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, BadRecord | None]:
        """Decodes `count` examples from a position on, in this thread: the arrays of `fill` and its fault."""
        arrays = self.empty(count)
        return *arrays, self.fill(first, *arrays)

    def empty(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arrays for `fill`."""
        size = count * int(np.prod(self.shape))
        memory = np.empty(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        pixels = memory[start : start + size].reshape(count, *self.shape)
        return pixels, np.zeros(count, np.int32), np.zeros(count, bool)

    def named(self, images: Any, labels: Any) -> dict[str, Any]:
        """{"image": images, "label": labels}, or "video", and without labels if there are none."""
        return {self.key: images} | ({} if self._source.schema.features.label is None else {"label": labels})

    def _into(self, pixels: np.ndarray, number: int, example: Example, position: int, flip: bool) -> None:
        """Decodes one example into uint8 [H,W,C] or [T,H,W,C]."""
        window, background = self._window(example, position), self._source.schema.features.background
        try:
            for frame, data in zip(pixels.reshape(-1, *self.shape[-3:]), example.images, strict=True):
                image = images.decode(data, window, self._size, channels=self.shape[-1], background=background)
                frame[...] = image[:, ::-1] if flip else image
        except BadImage as error:
            reason = f"the feature {self._source.schema.features.image} {error}"
            raise self._source.records.fault(number, reason) from None

    def _window(self, example: Example, position: int) -> np.ndarray:
        height, width = example.header.height, example.header.width
        if (height, width) == self._size and self._options.crop != "random":
            return np.array([0, 0, height, width], np.int32)
        sizes = np.array([height]), np.array([width])
        return self._options.windows(position, *sizes, self._size[0] / self._size[1])[0]


def good_ones(pixels: np.ndarray, labels: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaves bad examples out of a batch."""
    return (pixels, labels) if good.all() else (pixels[good], labels[good])
