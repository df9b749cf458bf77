"""From positions in the stream to uint8 images: reading, checking, decoding, cropping, resizing, mirroring."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pipelines import images
from pipelines.examples import Example
from pipelines.faults import BadRecord
from pipelines.images import BadImage, Header
from pipelines.options import ReadOptions
from pipelines.source import Source

# A PNG -> uint8 [H, W, C], where somebody has a faster decoder than Pillow's; BadImage if it fails
DecodePng = Callable[[bytes, Header], np.ndarray]
# Memory that begins at a multiple of this is taken over by TensorFlow and not copied.
ALIGNMENT = 64


class Decoder:
    """Decoded examples of one source, by position.

    Attributes:
        shape: (H, W, C) of one decoded example, or (T, H, W, C) of a clip.
        key: "image", or "video" for clips.
    """

    def __init__(self, source: Source, options: ReadOptions, decode_png: DecodePng | None = None) -> None:
        self._source, self._options, self._decode_png = source, options, decode_png
        self._size = options.output_size(source.description)
        frames, channels = source.schema.num_frames, source.schema.image_shape[2]
        self.shape = (*((frames,) if frames else ()), *self._size, channels)
        self.key = "video" if frames else "image"

    def fill(self, first: int, images: np.ndarray, labels: np.ndarray, good: np.ndarray) -> str:
        """Decodes the examples at consecutive positions into arrays.

        Args:
            first: the position of the first one.
            images: uint8 [n, ...]; labels: int32 [n]; good: bool [n], False where a record is bad.

        Returns:
            why reading must stop, or the empty string.
        """
        numbers = self._options.numbers(first, len(labels), len(self._source)).tolist()
        flips = self._options.flips(first, len(labels))
        for row, number in enumerate(numbers):
            good[row] = True
            try:
                labels[row] = self._into(images[row], number, first + row, flips[row])
            except BadRecord as fault:
                good[row] = False
                reason = self._source.bad.judged(fault)
                if reason:
                    return str(BadRecord(fault.shard, fault.record, reason))
        return ""

    def batch(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        """Decodes `count` examples from a position on, in this thread: the arrays of `fill` and its reason."""
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

    def _into(self, pixels: np.ndarray, number: int, position: int, flip: bool) -> int:
        """Decodes an example into uint8 [H,W,C] or [T,H,W,C]; returns its label, or 0."""
        example = self._source.example(number)
        window = self._window(example, position)
        try:
            for frame, data in zip(pixels.reshape(-1, *self.shape[-3:]), example.images, strict=True):
                image = self._image(data, example.header, window)
                frame[...] = image[:, ::-1] if flip else image
        except BadImage as error:
            raise self._source.records.fault(
                number, f"the feature {self._source.schema.features.image} {error}"
            ) from None
        return example.label or 0

    def _window(self, example: Example, position: int) -> np.ndarray:
        height, width = example.header.height, example.header.width
        if (height, width) == self._size and self._options.crop != "random":
            return np.array([0, 0, height, width], np.int32)
        sizes = np.array([height]), np.array([width])
        return self._options.windows(position, *sizes, self._size[0] / self._size[1])[0]

    def _image(self, data: bytes, header: Header, window: np.ndarray) -> np.ndarray:
        """The window of an encoded image in the size that comes out."""
        if header.format == "png" and self._decode_png:
            return images.cut(self._decode_png(data, header), window, self._size)
        return images.decode(data, window, self._size)


def without_gaps(
    pixels: np.ndarray, labels: np.ndarray, good: np.ndarray, reason: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Puts the next good example of a batch in the place of each bad one; the last value is why reading must stop."""
    those = np.flatnonzero(good)
    if reason or len(those) == len(good):
        return pixels, labels, reason
    if not len(those):
        return pixels, labels, "every record of one batch is bad"
    chosen = those[np.searchsorted(those, np.arange(len(good))) % len(those)]
    return pixels[chosen], labels[chosen], ""


def good_ones(
    pixels: np.ndarray, labels: np.ndarray, good: np.ndarray, reason: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Leaves bad examples out of a batch; the last value is why reading must stop."""
    if reason or good.all():
        return pixels, labels, reason
    return pixels[good], labels[good], ""
