"""From positions in the stream to arrays by name: reading, checking, decoding, cropping, resizing, mirroring."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipelines import images
from pipelines.images import BadImage, Header
from pipelines.reading.examples import Encoded, Example, Source, size_of
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import StrPath, locate
from pipelines.reading.order import Plan, Window
from pipelines.reading.settings import ReadSettings

# GROUP encoded images of one format ("jpeg", "png"), all of the size that comes out -> uint8 [GROUP, H, W, C], if
# somebody decodes several at once faster than Pillow one by one; BadImage if one of them fails
DecodeGroup = Callable[[str, list[bytes]], np.ndarray]
GroupDecoder = Callable[[tuple[int, ...]], DecodeGroup]  # of the shape (H, W, C) that comes out
Arrays = dict[str, np.ndarray]  # values by name, each [n, ...]
GROUP = 16
# Memory that begins at a multiple of this is taken over by TensorFlow and not copied.
ALIGNMENT = 64


class Place(NamedTuple):
    """A row of a batch, the number of its example, and the draws for it."""

    row: int
    number: int
    draws: list[float]


class Decoder:
    """Decoded examples of one source, by position.

    Attributes:
        source, settings: what is read, and how.
        plan: what is read when.
        outputs: {name: ValueSpec} of the values that come out, the sample first.
        shape: of the sample, (H, W, C) or (T, H, W, C).
    """

    def __init__(self, source: Source, settings: ReadSettings, group_decoder: GroupDecoder | None = None) -> None:
        self.source, self.settings, self.plan = source, settings, Plan(settings, len(source))
        self.outputs = settings.outputs(source.schema, source.description.name)
        self._sample = source.schema.sample_name
        self.shape = self.outputs[self._sample].shape
        in_groups = group_decoder is not None and source.schema.sample.encoded and len(self.shape) == 3
        self._decode_group = group_decoder(self.shape) if in_groups else None

    def batch(self, number: int) -> Arrays:
        """Decodes a batch in this thread, without what `fill` leaves bad."""
        first, count = self.plan.batch(number)
        arrays = self.empty(count)
        return without(arrays, self.fill(first, range(count), arrays))

    def empty(self, count: int) -> Arrays:
        """Arrays for `fill`."""
        return {name: _aligned((count, *spec.shape), np.dtype(spec.dtype)) for name, spec in self.outputs.items()}

    def fill(self, first: int, rows: range, arrays: Arrays) -> list[int]:
        """Decodes the examples at the positions first + row into the rows of arrays; returns which of them are bad. In
        training none is, as the next good example of the stream stands in its place. Raises BadRecord: more are bad
        than are allowed."""
        start, count = first + rows.start, len(rows)
        places = list(map(Place, rows, self.plan.numbers(start, count), self.plan.draws(start, count)))
        bad = [place for at in range(0, count, GROUP) for place in self._fill_group(places[at : at + GROUP], arrays)]
        if not self.settings.training:
            return [place.row for place in bad]
        for place in bad:
            self._stand_in(first + place.row, place, arrays)
        return []

    def decodes_groups(self) -> bool:
        """Whether groups of examples are decoded together, judging by the first example."""
        try:
            sample = self.source.example(0)[self._sample]
        except BadRecord:
            return False
        return self._decode_group is not None and self._comes_out(sample.header)

    def _comes_out(self, header: Header) -> bool:
        """Whether an image needs nothing but decoding."""
        fits = (header.height, header.width, header.channels) == self.shape
        return fits and self.settings.crop != "random"

    def _fill_group(self, places: list[Place], arrays: Arrays) -> list[Place]:
        """`fill` for at most GROUP examples; returns those that are bad."""
        examples, bad = [], []
        for place in places:
            try:
                examples.append((place, self.source.example(place.number)))
            except BadRecord as fault:
                self.source.bad.add(fault)
                bad.append(place)
        self._decode_together([example for _, example in examples])
        for place, example in examples:
            try:
                self._put(arrays, place, example)
            except BadRecord as fault:
                self.source.bad.add(fault)
                bad.append(place)
        return bad

    def _stand_in(self, position: int, place: Place, arrays: Arrays) -> None:
        """Puts the next good example of the stream in the place of a bad one."""
        for later in range(position + 1, position + 1 + len(self.source)):
            (number,) = self.plan.numbers(later, 1)
            try:
                return self._put(arrays, place._replace(number=number), self.source.example(number))
            except BadRecord as fault:
                self.source.bad.add(fault)
        raise BadRecord(self.source.description.name, None, f"all {len(self.source)} records are bad")

    def _decode_together(self, examples: Sequence[Example]) -> None:
        """Decodes the samples of a whole group at once, unless they must be decoded one by one."""
        if self._decode_group is None or len(examples) < GROUP:
            return
        samples = [example[self._sample] for example in examples]
        format = samples[0].header.format
        if not all(self._comes_out(sample.header) and sample.header.format == format for sample in samples):
            return
        try:
            decoded = self._decode_group(format, [sample.images[0] for sample in samples])
        except BadImage:  # one by one it will show which
            return
        for example, pixels in zip(examples, decoded, strict=True):
            example[self._sample] = pixels

    def _put(self, arrays: Arrays, place: Place, example: Example) -> None:
        """Puts the values of one example into a row of the arrays."""
        stored, flip = size_of(example[self._sample]), self.plan.flips(place.draws)
        window = self.plan.window(place.draws, stored, self.shape[-3:-1])
        for name, spec in self.outputs.items():
            value = example[name]
            if spec.lies_over:
                part = window
                if window is not None and (own := size_of(value)) != stored:  # the same part, in pixels of its own
                    down, across = own[0] / stored[0], own[1] / stored[1]
                    part = window[0] * down, window[1] * across, window[2] * down, window[3] * across
                try:
                    value = self._decoded(value, part, spec.shape)
                except BadImage as error:
                    raise self.source.undecodable(place.number, name, error) from None
                value = value[..., ::-1, :] if flip else value
            arrays[name][place.row] = value

    def _decoded(self, value: Encoded | np.ndarray, window: Window | None, shape: tuple[int, ...]) -> np.ndarray:
        """A window of an image or clip, or all of it, in the shape that comes out."""
        size = shape[-3:-1]
        if isinstance(value, Encoded):
            how = {"channels": shape[-1], "background": self.source.schema.background}
            frames = [images.decode(data, window, size, **how) for data in value.images]
        elif window is None:
            return value
        else:
            frames = [images.resized(frame, window, size) for frame in value.reshape(-1, *value.shape[-3:])]
        return frames[0] if len(shape) == 3 else np.stack(frames)


def open_decoder(
    name_or_dir: StrPath,
    max_bad_records: int | BadRecords,
    which: Mapping[str, Any],
    settings: Mapping[str, Any],
    group_decoder: GroupDecoder | None = None,
) -> Decoder:
    """Finds and opens one split. `which` (split, data_dir, values, features), `settings`, which are those of
    ReadSettings, the other arguments and the errors are those of `make_dataset`."""
    asked = ReadSettings(**settings)
    bad = max_bad_records if isinstance(max_bad_records, BadRecords) else BadRecords(max_bad_records)
    source = Source(locate(name_or_dir, **which, missing_shards=bad.limit > 0), bad)
    decoder = Decoder(source, asked, group_decoder)
    if not decoder.plan.num_batches:
        share = f" for {asked.process_count} processes" * (asked.process_count > 1)
        raise ValueError(
            f"batch_size={asked.batch_size} with drop_remainder={asked.drop_remainder} gives no batch: "
            f"{source.description.name} has {len(source)} examples in {source.description.split}{share}"
        )
    return decoder


def without(arrays: Arrays, bad: list[int]) -> Arrays:
    """Leaves bad examples out of a batch."""
    return {name: np.delete(array, bad, 0) for name, array in arrays.items()} if bad else arrays


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)
