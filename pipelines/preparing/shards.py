"""Writing a data set shard by shard: what each holds is settled first, then any process may write any of them.

    work directory (incomplete.VERSION beside the place of the data set)
        plan.json                         what is being prepared; another plan does not continue it
        parts/SPLIT-00003.items.json      what belongs into a shard
        parts/SPLIT-00003.done.json       what was written; there when the shard is whole
        NAME-SPLIT.tfrecord-00003-of-...  the shard; appears under its name when it is whole

A shard depends on its items alone, to the byte, so it does not matter who writes it, how often, or after what.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from pipelines import tfrecord
from pipelines.datasets import ENTRIES
from pipelines.datasets.opening import heard_from_pillow
from pipelines.extras import require, require_tfds
from pipelines.images import read_header
from pipelines.preparing import moments
from pipelines.preparing.captions import fault_in_caption, with_text
from pipelines.text_encoders import text_encoder

if TYPE_CHECKING:
    from etils import epath

    from pipelines.datasets.local_builder import Item, LocalBuilder, Made, SourceConfig

PARTS = "parts"
REMEDY = "--max_bad_sources=N leaves out and lists up to N such sources"
TEMPORARY = re.compile(r"\..+\.writing-[^/]+-\d+")  # names of files that are being written
_BUILDING = threading.Lock()  # Beam's local runner has threads


@dataclasses.dataclass(frozen=True)
class BuilderSpec:
    """How another process makes the same builder."""

    entry: str
    config: "SourceConfig | None" = dataclasses.field(compare=False)
    data_dir: str
    file_format: str
    text_encoder: str | None = None  # its name
    run: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)  # of `prepare`: sources change between two

    @property
    def settings(self) -> dict[str, Any]:
        """What defines the data set."""
        encoder = None if self.text_encoder is None else text_encoder(self.text_encoder).signature
        own = self.config.settings() if self.config else {}
        return {"file_format": self.file_format, "text_encoder": encoder, **own}

    def build(self) -> "LocalBuilder":
        builder_class = ENTRIES[self.entry].load()
        encoder = None if self.text_encoder is None else text_encoder(self.text_encoder)
        config = {} if self.config is None else {"config": self.config}
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # tfds warns of every config that is not one of a fixed list
        try:
            return builder_class(text_encoder=encoder, data_dir=self.data_dir, file_format=self.file_format, **config)
        except ValueError as error:
            if "File format is already set" not in str(error):
                raise
            raise ValueError(
                f"{self.entry} is already in {self.data_dir}, and in another format than {self.file_format}: "
                "give another data_dir or config name"
            ) from None
        finally:
            logging.set_verbosity(verbosity)


# Of a run made once in each process, for making one may mean to look through the whole source.
_build = functools.lru_cache(maxsize=1)(BuilderSpec.build)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard of a split: its number among how many."""

    split: str
    number: int
    count: int

    @property
    def part(self) -> str:
        return f"{PARTS}/{self.split}-{self.number:05d}"

    def filename(self, builder: "LocalBuilder") -> str:
        suffix = builder.info.file_format.file_suffix
        return f"{builder.name}-{self.split}.{suffix}-{self.number:05d}-of-{self.count:05d}"


def cut(split: str, items: "Sequence[Item]", examples_per_shard: int) -> "Iterator[tuple[Shard, list[Item]]]":
    """Cuts the examples of a split into shards of about equal length, in an order that depends on their keys alone.

    Files come sorted by class; the order is that of hashes, so that every shard holds a fair sample of the split.
    """

    def place(item: "Item") -> tuple[bytes, str]:
        return hashlib.blake2b(item.key.encode(errors="surrogatepass"), digest_size=8).digest(), item.key

    order = sorted(items, key=place)
    # Small sets get several shards too, so that several processes or threads have something to do.
    count = max(-(-len(order) // examples_per_shard), min(4, len(order)))
    for number in range(count):
        start, stop = (len(order) * i // count for i in (number, number + 1))
        yield Shard(split, number, count), order[start:stop]


def write_shard(spec: BuilderSpec, directory: str, shard: Shard, allowed: int | None) -> tuple[int, list[str]]:
    """Writes one shard of a work directory, unless it is there; returns what `written` does.

    One from which sources were left out is written anew, as they may have been mended since; but not if any number may
    be left out. `allowed` is how many, of all shards; 0: the first one raises BadSource; None: any number.
    """
    root = require("etils.epath", extra="data").Path(directory)
    done = root / f"{shard.part}.done.json"
    if not done.exists() or (allowed is not None and json.loads(done.read_text())["bad"]):
        done.unlink(missing_ok=True)  # or, after a kill in between, an old report would stand beside a new shard
        with _BUILDING:
            builder = _build(spec)
        report = _write(builder, root, shard, stop_at_bad=allowed == 0)
        write_atomically(done, json.dumps(report, sort_keys=True).encode())
    return written(directory, shard)


def written(directory: str, shard: Shard) -> tuple[int, list[str]]:
    """Of a shard that is there: how many sources were dealt with beside bad ones, and what is wrong with those."""
    root = require("etils.epath", extra="data").Path(directory)
    report = json.loads((root / f"{shard.part}.done.json").read_text())
    return len(report["digests"]) + sum(report["skipped"].values()), report["bad"]


def _write(builder: "LocalBuilder", root: "epath.Path", shard: Shard, stop_at_bad: bool) -> dict[str, Any]:
    """Writes the file of a shard; returns what goes into its report."""
    from pipelines.datasets.local_builder import BadSource, Item
    from pipelines.datasets.opening import Skipped

    items = [Item(*fields) for fields in json.loads((root / f"{shard.part}.items.json").read_text())]
    serializer = require_tfds().core.example_serializer.ExampleSerializer(builder.info.features.get_serialized_info())
    counters = {name: collections.Counter() for name in ("changes", "skipped", "labels")}
    report = {"bad": [], "digests": [], "keys": [], "sizes": set(), **counters}
    sample, measured = next(iter(builder.values())), builder.channel_names()
    report |= {"moments": {}} if measured else {}

    def examples() -> "Iterator[tuple[Item, Made]]":
        for item in items:
            try:
                with heard_from_pillow() as warned:
                    made = builder.example(item)
                if fault := fault_in_caption(builder, item, made):
                    raise BadSource(fault)
            except BadSource as error:
                if stop_at_bad:
                    raise BadSource(f"{error} ({REMEDY})") from None
                report["bad"].append(str(error))
                continue
            except Skipped as reason:
                report["skipped"].update([str(reason)])
                continue
            report["changes"].update([*made.changes, *warned])
            report["labels"].update([] if item.label is None else [str(item.label)])
            report["digests"].append(made.digest.hex())
            report["keys"].append(item.key)
            yield item, made

    def records() -> Iterator[bytes]:
        for _, made in with_text(builder, examples()):
            for name in measured:
                moments.add(report["moments"], name, made.features[name])
            if len(report["sizes"]) < 2:  # are all alike?
                report["sizes"].add(_size_of(made.features[sample]))
            # tfds's own serialize_example leaves the order of the features open.
            example = serializer.get_tf_example(builder.info.features.encode_example(made.features))
            yield example.SerializeToString(deterministic=True)

    write = _write_array_record if builder.info.file_format.value == "array_record" else _write_tfrecord
    with _replacing(root / shard.filename(builder)) as temporary:
        report["offsets"] = write(temporary, records())
    return report | {"sizes": sorted(report["sizes"])}


def _size_of(sample: Any) -> tuple[int, int]:
    """(H, W) of an encoded image, of the first frame of a clip, or of an array."""
    if hasattr(sample, "shape"):
        return sample.shape[-3:-1]
    header = read_header(sample if isinstance(sample, bytes) else sample[0])
    return header.height, header.width


def _write_tfrecord(path: "epath.Path", records: Iterator[bytes]) -> list[int]:
    """Writes records; returns their offsets."""
    with path.open("wb") as file:
        return tfrecord.write_records(file, records).tolist()


def _write_array_record(path: "epath.Path", records: Iterator[bytes]) -> list[int]:
    """Writes records; a file of this format has offsets of its own."""
    module = require("array_record.python.array_record_module", extra="data")
    # One record a group, or single ones could not be read; images are compressed already.
    writer = module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    return []


def write_atomically(path: "epath.Path", data: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    with _replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def _replacing(path: "epath.Path") -> Iterator["epath.Path"]:
    """A path to write to; what was written then takes the place of `path`, unless there was an error."""
    # The process's own: one that was left behind by a killed run, or still runs, is not in the way.
    temporary = path.parent / f".{path.name}.writing-{os.uname().nodename}-{os.getpid()}"
    try:
        yield temporary
        if "://" not in os.fspath(path):  # remote storage has no such thing
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
