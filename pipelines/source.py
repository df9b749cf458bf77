"""Examples by number: records, what must be in them, and the count of those that are bad; shared by all readers."""

import os

from pipelines.examples import Example, RecordFeatures, parse
from pipelines.faults import BadRecord, BadRecords
from pipelines.locating import Located, locate
from pipelines.records import Records, open_records


class Source:
    """The examples of one split. Reads may come from several threads."""

    def __init__(self, located: Located, bad: BadRecords) -> None:
        self.description, self.schema, self.bad = located.description, located.schema, bad
        self.records: Records = open_records(
            located.shards, located.lengths, located.file_format, located.description.split, bad
        )
        if not len(self.records):
            raise ValueError(f"there are no records in {', '.join(located.shards[:3])}")
        self.shards, self.file_format = located.shards, located.file_format

    def __len__(self) -> int:
        return len(self.records)

    def example(self, number: int) -> Example:
        """Reads and checks an example, up to the headers of its images.

        Raises:
            BadRecord: it cannot be used.
        """
        try:
            return parse(self.records[number], self.schema)
        except BadRecord:
            raise
        except ValueError as error:
            raise self.records.fault(number, str(error)) from None


def open_source(
    name_or_dir: str | os.PathLike,
    *,
    split: str,
    data_dir: str | os.PathLike | None,
    features: RecordFeatures | None,
    max_bad_records: int | BadRecords,
) -> Source:
    """Finds and opens one split; the arguments and the errors are those of `make_dataset`."""
    bad = max_bad_records if isinstance(max_bad_records, BadRecords) else BadRecords(max_bad_records)
    located = locate(name_or_dir, split=split, data_dir=data_dir, features=features, missing_shards=bad.limit > 0)
    return Source(located, bad)
