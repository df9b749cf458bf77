"""Records that cannot be used: what is wrong with which, and how many may be skipped: none in silence."""

import threading

from absl import logging

LISTED = 1000  # faults that are kept with their reasons; further ones are counted and logged only


class BadRecord(ValueError):
    """One record, or one whole shard, that cannot be used: `shard` is its file name, `record` the number in it, from 0,
    or None, and `reason` what is wrong, without a full stop."""

    def __init__(self, shard: str, record: int | None, reason: str) -> None:
        super().__init__(f"{shard}{'' if record is None else f', record {record}'}: {reason}")
        self.shard, self.record, self.reason = shard, record, reason


class BadRecords:
    """Counts distinct bad records up to a limit; may be used from several threads.

    Pass one to `make_dataset(max_bad_records=...)` in place of a number to read the count while training.
    Each fault is logged once, as a warning. A record that comes again in a later epoch is not counted again.

    Attributes:
        limit: how many bad records are skipped before reading stops.
        stopped: the fault that stopped the reading, because more records were bad; None as long as there is none.
    """

    def __init__(self, limit: int = 0, *, log: bool = True) -> None:
        """`limit` 0: the first bad record stops reading. Raises ValueError: it is no integer of at least 0."""
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
            raise ValueError(f"max_bad_records must be an integer of at least 0, got {limit!r}")
        self.limit, self._log = limit, log
        self.stopped: BadRecord | None = None
        self._seen: dict[tuple[str, int | None], BadRecord | None] = {}
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """Number of distinct bad records so far."""
        return len(self._seen)

    @property
    def faults(self) -> tuple[BadRecord, ...]:
        """The first bad records, at most 1000, in the order in which they were met."""
        with self._lock:
            return tuple(fault for fault in self._seen.values() if fault is not None)

    def add(self, fault: BadRecord) -> None:
        """Counts and logs a fault; one that was met before is left alone. Raises BadRecord: more than `limit` records
        are bad; the sentence names this one."""
        with self._lock:
            key = (fault.shard, fault.record)
            if key not in self._seen:
                self._seen[key] = fault if len(self._seen) < LISTED else None
                if self._log and len(self._seen) <= self.limit:
                    logging.warning("skipped a bad record (%d of at most %d): %s", self.count, self.limit, fault)
            if self.count <= self.limit:
                return
            tail = f"; {self.count} records are bad, and max_bad_records is {self.limit}"
            if not self.limit:
                tail = " (max_bad_records=N would skip and count up to N such records)"
            stop = BadRecord(fault.shard, fault.record, f"{fault.reason}{tail}")
            self.stopped = self.stopped or stop
            raise stop from None
