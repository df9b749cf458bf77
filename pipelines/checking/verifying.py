"""Looking at a prepared data set: is every record valid, what is in it, and what does it look like?"""

import collections
import dataclasses
import hashlib
import math
from typing import Any

import numpy as np

from pipelines import images
from pipelines.extras import require
from pipelines.images import BadImage
from pipelines.reading import order
from pipelines.reading.decoding import Decoder
from pipelines.reading.examples import Encoded, Source, size_of
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import StrPath, locate, split_names
from pipelines.reading.settings import LAST, ReadSettings, integer
from pipelines.values import RecordFeatures

RUN = 64  # records that a thread checks at a time
LISTED = 20  # faults, classes and sizes that a report names


@dataclasses.dataclass
class SplitReport:
    """What is in one split.

    Attributes:
        split, shards, records: its name, and how many it has of them.
        decoded: whether the images were decoded, and not only looked at by their headers.
        faults: what is wrong with which record, in file order.
        per_class: {label: number}; empty without labels.
        sizes: {(H, W): number} of the images, or of the first frame of clips.
        kinds: {"JPEG, RGB": number}, or of what is stored as numbers {"float32, RGB": number}.
        values: {name: what it is and where its numbers lie}, of what is beside them and the label.
        channels: {name: names, mean and deviation of the channels in the training split}, of what has them.
        class_names: as the data set has them, or None.
        duplicates: pairs of records ("shard, record i") of equal encoded images; the first of each group comes first.
    """

    split: str
    shards: int
    records: int
    decoded: bool
    faults: list[BadRecord] = dataclasses.field(default_factory=list)
    per_class: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    values: dict[str, str] = dataclasses.field(default_factory=dict)
    channels: dict[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    duplicates: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.split}: {self.records} records in {self.shards} shards, {len(self.faults)} of them bad"]
        lines += [f"  bad: {fault}" for fault in self.faults[:LISTED]]
        lines += [f"  ... and {len(self.faults) - LISTED} more"] * (len(self.faults) > LISTED)
        sizes = collections.Counter({"x".join(map(str, size)): count for size, count in self.sizes.items()})
        lines += [f"  kinds: {_listed(self.kinds.most_common())}", f"  sizes (HxW): {_listed(sizes.most_common())}"]
        if self.per_class:
            counts = self.per_class.values()
            named = [(self.class_names[i] if self.class_names else i, n) for i, n in sorted(self.per_class.items())]
            lines.append(f"  classes: {len(counts)} of {min(counts)} to {max(counts)} each: {_listed(named)}")
        lines += [f"  {name}: {what}" for name, what in self.values.items()]
        lines += [f"  channels of {name}: {what}" for name, what in self.channels.items()]
        lines.append(f"  duplicates: {len(self.duplicates)}")
        lines += [f"    {second} is equal to {first}" for first, second in self.duplicates[:LISTED]]
        return "\n".join(lines)


def _listed(counts: list[tuple[object, int]]) -> str:
    return ", ".join(f"{key} ({count})" for key, count in counts[:LISTED]) + ", ..." * (len(counts) > LISTED)


def verify(
    name_or_dir: StrPath,
    *,
    split: str | None = None,
    data_dir: StrPath | None = None,
    features: RecordFeatures | None = None,
    decode: bool = True,
) -> list[SplitReport]:
    """Reads every record of a data set and decodes it: CRC, features, images, numbers. Takes what `make_dataset` takes;
    of all splits, if none is named. Nothing is raised for what is wrong inside the shards: it is in the reports, one a
    split. Without `decode`, as `stats`."""
    reports = []
    for name in split_names(name_or_dir, data_dir) if split is None else [split]:
        located = locate(name_or_dir, split=name, data_dir=data_dir, features=features, missing_shards=True)
        source = Source(located, BadRecords(LAST, log=False))
        report = SplitReport(name, len(source.shards), len(source), decode, class_names=located.description.class_names)
        _fill(report, source)
        named = {(fault.shard, fault.record) for fault in report.faults}
        # What was found before any record was read, and belongs to none that could be.
        report.faults += [fault for fault in source.bad.faults if (fault.shard, fault.record) not in named]
        reports.append(report)
    return reports


def stats(name_or_dir: StrPath, **which: Any) -> list[SplitReport]:
    """As `verify`, without decoding: several times faster, and it finds all but images that are damaged inside."""
    return verify(name_or_dir, **which, decode=False)


def random_grid(
    name_or_dir: StrPath,
    *,
    split: str = "train",
    data_dir: StrPath | None = None,
    features: RecordFeatures | None = None,
    count: int = 64,
    image_size: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """A picture of `count` random examples, which ones `seed` says, as the reader gives them: uint8 [H, W, 3]; of clips
    the middle frame; of channels in physical units each by itself, grey from mean - 3 std to mean + 3 std. `image_size`
    None: as stored, or 128 where sizes differ.

    Raises ValueError: as `make_dataset`; BadRecord: one of the chosen records is bad.
    """
    integer("seed", seed, at_least=0)
    located = locate(name_or_dir, split=split, data_dir=data_dir, features=features, values=())
    source = Source(located, BadRecords())
    if image_size is None and None in located.description.image_shape:
        image_size = 128
    decoder = Decoder(source, ReadSettings(batch_size=1, image_size=image_size, training=False))
    chosen = order.permutation(seed, 0, len(source))[:count].tolist()
    pixels = np.concatenate([decoder.batch(number)[source.schema.sample_name] for number in chosen])
    pixels = pixels[:, pixels.shape[1] // 2] if pixels.ndim == 5 else pixels
    channels = source.schema.sample.channels
    if channels is not None:
        pixels = (pixels - np.array(channels.mean)) / (3 * np.array(channels.std))
        pixels = np.concatenate(np.split(pixels, pixels.shape[-1], axis=-1), axis=-2)
    if pixels.dtype != np.uint8:
        pixels = np.rint((np.clip(pixels.astype(np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)
    return grid(pixels if pixels.shape[-1] in images.MODES else pixels[..., :1])


def grid(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 1, 3 or 4] side by side as one picture, uint8 [H', W', 3].

    Small images are enlarged, transparent ones lie on grey.
    """
    count, height, width, channels = pixels.shape
    if channels == 4:
        alpha = pixels[..., 3:] / 255
        pixels = np.rint(pixels[..., :3] * alpha + 128 * (1 - alpha)).astype(np.uint8)
    scale, columns = max(1, 64 // max(height, width)), math.ceil(math.sqrt(count))
    large = np.repeat(np.repeat(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), scale, 1), scale, 2)
    cells = np.full((-(-count // columns) * columns, height * scale + 2, width * scale + 2, 3), 255, np.uint8)
    cells[:count, 1:-1, 1:-1] = large
    rows = cells.reshape(-1, columns, *cells.shape[1:]).transpose(0, 2, 1, 3, 4)
    return rows.reshape(rows.shape[0] * rows.shape[1], -1, 3)


def _fill(report: SplitReport, source: Source) -> None:
    """Checks all records with all cores, and counts."""
    first_of: dict[bytes, int] = {}
    ranges: dict[str, tuple[float, float]] = {}
    joblib = require("joblib", extra="data")
    threads = joblib.Parallel(-1, backend="threading", return_as="generator", batch_size=RUN, pre_dispatch=16 * RUN)
    checks = threads(joblib.delayed(_checked)(source, number, report.decoded) for number in range(len(source)))
    for number, found in enumerate(checks):
        if isinstance(found, BadRecord):
            report.faults.append(found)
            continue
        digest, kind, size, numbers = found
        report.kinds[kind] += 1
        report.sizes[size] += 1
        if "label" in numbers:
            report.per_class[numbers["label"][0]] += 1
        for name, (low, high) in numbers.items():
            before = ranges.get(name, (low, high))
            ranges[name] = min(before[0], low), max(before[1], high)
        first = first_of.setdefault(digest, number)
        if first != number:
            report.duplicates.append((source.records.name(first), source.records.name(number)))
    for name, spec in source.schema.values.items():
        if spec.channels is not None:
            report.channels[name] = str(spec.channels)
        if name not in ("label", source.schema.sample_name):
            lie = "{:.4g} to {:.4g}".format(*ranges[name]) if name in ranges else "encoded"
            report.values[name] = f"{spec}, {lie}{f', by {spec.encoder}' if spec.encoder else ''}"


def _checked(source: Source, number: int, decode: bool):
    """The fault of a record, or of its sample digest, kind and (H, W), and of all numbers {name: (least, greatest)}."""
    numbers = {}
    try:
        example = source.example(number)
    except BadRecord as fault:
        return fault
    for name, value in example.items():
        if not isinstance(value, Encoded):
            numbers[name] = value.min().item(), value.max().item()
            continue
        try:
            for image in value.images if decode else ():
                images.decode(image)
        except BadImage as error:
            return source.undecodable(number, name, error)
    sample = example[source.schema.sample_name]
    if isinstance(sample, Encoded):
        header, data = sample.header, b"".join(sample.images)
        kind = f"{header.format.upper()}, {images.name_of_channels(header.channels, header.format)}"
    else:
        channels = source.schema.sample.channels
        said = images.name_of_channels(sample.shape[-1]) if channels is None else ", ".join(channels.names)
        data, kind = sample.tobytes(), f"{sample.dtype.name}, {said}"
    return hashlib.blake2b(data, digest_size=16).digest(), kind, size_of(sample), numbers
