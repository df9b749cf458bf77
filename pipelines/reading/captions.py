"""The captions of a prepared data set, as text: a reader gives what an encoder made of them."""

from pipelines.extras import require
from pipelines.reading.examples import Source
from pipelines.reading.faults import BadRecord, BadRecords
from pipelines.reading.locating import StrPath, locate
from pipelines.reading.settings import LAST


def read_captions(
    name_or_dir: StrPath, count: int, *, split: str = "train", data_dir: StrPath | None = None
) -> list[str] | None:
    """The captions of the first `count` examples of a split, in file order, bad records left out; None if the data set
    has none. Raises what `pipelines.describe` raises."""
    proto = require("tensorflow_datasets.proto", extra="data").tf_example_pb2.Example
    source, found = Source(locate(name_or_dir, split=split, data_dir=data_dir), BadRecords(LAST, log=False)), []
    for number in range(len(source)):
        if len(found) == count:
            break
        try:
            source.example(number)
        except BadRecord:
            continue
        stored = proto.FromString(source.records[number]).features.feature
        if "caption" not in stored:
            return None
        found.append(b"".join(stored["caption"].bytes_list.value).decode(errors="replace"))
    return found
