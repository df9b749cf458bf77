"""The arithmetic of scaling.py: meshes by number of devices, bytes on longer and shorter data axes, time on a system.

A row is a dict: strategy, devices, mesh, multiply_adds (of one device), and sent, a list of {kind, group, span, bytes}.
"""

import dataclasses
import math
from collections.abc import Sequence

import hlo

STRATEGIES = {  # fixed sizes of axes, as far as there are devices for them; the first axis gets the rest
    "data": {"data": None},
    "fsdp": {"fsdp": None},
    "data x fsdp 8": {"data": None, "fsdp": 8},
    "data x fsdp 2 x model 4": {"data": None, "fsdp": 2, "model": 4},
}


def mesh_sizes(strategy: str, devices: int) -> dict[str, int]:
    """The axes of a strategy on so many devices: {"data": 16, "fsdp": 8}."""
    fixed = {axis: size for axis, size in STRATEGIES[strategy].items() if size}
    sizes = {}
    for axis in sorted(fixed, reverse=True):  # model before fsdp
        sizes[axis] = min(fixed[axis], devices)
        devices //= sizes[axis]
    first = next(axis for axis, size in STRATEGIES[strategy].items() if size is None)
    return {first: devices, **sizes}


def with_data(row: dict, sizes: dict[str, int]) -> dict | None:
    """A row as it would be on a mesh of `sizes`, whose data axis is as long or shorter; None if more differs."""
    old, sizes = mesh_of(row), {"data": 1, "fsdp": 1, "model": 1, **sizes}
    data = sizes["data"]
    if {**old, "data": data} != sizes or data > old["data"]:
        return None
    inner, sent = math.prod(old.values()) // old["data"], []
    for one in row["sent"]:
        over_data = one["span"] > inner and one["kind"] != "collective-permute"  # and perhaps over other axes too
        if over_data:
            group = one["group"] // old["data"] * data
            size = one["bytes"] / hlo.WIRE[one["kind"]](one["group"])
            span = one["span"] - (old["data"] - data) * inner
            one = {**one, "group": group, "span": span, "bytes": size * hlo.WIRE[one["kind"]](group)}
        sent += [one] if one["group"] > 1 else []
    return {**row, "sent": sent, "devices": data * inner, "mesh": ",".join(f"{a}:{n}" for a, n in sizes.items())}


def mesh_of(row: dict) -> dict[str, int]:
    """{"data": 128, "fsdp": 8, "model": 1} of a row's mesh, "data:128,fsdp:8,model:1"."""
    return {axis: int(size) for axis, size in (part.split(":") for part in row["mesh"].split(","))}


def following(rows: Sequence[dict], sizes: dict[str, int]) -> dict | None:
    """The row of a mesh of `sizes`, from the one of `rows` with the shortest data axis that it follows from."""
    found = [(mesh_of(row)["data"], row) for row in rows if with_data(row, sizes)]
    return with_data(min(found, key=lambda pair: pair[0])[1], sizes) if found else None


def filled(rows: Sequence[dict]) -> list[dict]:
    """A row for each strategy that has one and each power of two of devices, where it is compiled or follows."""
    found = []
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        most = max(row["devices"] for row in rows if row["strategy"] == strategy)
        sizes = [mesh_sizes(strategy, 2**k) for k in range(most.bit_length())]
        follows = (following(rows, axes) for axes in sizes)
        found += [{**row, "strategy": strategy} for row in follows if row]
    return found


def checks(rows: Sequence[dict]) -> list[dict]:
    """Bytes that follow from compiled rows with a longer data axis, beside those that were compiled."""
    found = []
    for row in rows:
        guess = following([one for one in rows if one["devices"] > row["devices"]], mesh_of(row))
        if guess:
            names = {"strategy": row["strategy"], "devices": row["devices"]}
            found.append({**names, "compiled": total(row), "followed": total(guess)})
    return found


def total(row: dict) -> float:
    """Bytes that a device sends a step."""
    return sum(one["bytes"] for one in row["sent"])


@dataclasses.dataclass(frozen=True)
class System:
    """Peak in multiply-adds a second; bytes a second that a device sends, within a domain and beyond it.

    Each device of a domain has its own access to the network. A group that spans domains has a ring for each of its
    members in one domain (as NCCL makes them), so what one device sends shares the accesses of all of them.

    Raises ValueError for anything but a name and four positive numbers.
    """

    name: str
    peak: float
    link: float
    domain: int
    network: float

    @classmethod
    def parse(cls, text: str) -> "System":
        """One of "name:peak TFLOP/s:link GB/s:devices in a domain:network GB/s"; a multiply-add is two FLOP."""
        name, *numbers = text.split(":")
        try:
            peak, link, domain, network = (float(n) for n in numbers)
        except ValueError:
            peak = link = domain = network = 0.0
        if not (name and min(peak, link, domain, network) > 0):
            raise ValueError(f"A system is name:TFLOP/s:GB/s:devices:GB/s, four positive numbers, got {text!r}.")
        return cls(name, peak * 1e12 / 2, link * 1e9, int(domain), network * 1e9)

    def seconds(self, row: dict, utilisation: float) -> tuple[float, float]:
        """(computing, sending) of a row's step."""
        sent = sum(self._seconds_sending(**one) for one in row["sent"])
        return row["multiply_adds"] / (self.peak * utilisation), sent

    def _seconds_sending(self, kind: str, group: int, span: int, bytes: float) -> float:
        if span <= self.domain:
            return bytes / self.link
        members = max(1, group * self.domain // span)  # in one domain
        return max(bytes / self.link, bytes / (members * self.network))


def shares(computing: float, sending: float) -> tuple[float, float]:
    """Of a step's time, what goes into sending that computing does not hide: (none hidden, all that can be)."""
    exposed = max(0.0, sending - computing)
    return sending / (computing + sending), exposed / (computing + exposed)


def times(rows: list[dict], systems: Sequence[System], utilisation: float) -> list[dict]:
    """Seconds and shares of every row on every system."""
    found = []
    for system in systems:
        for row in rows:
            computing, sending = system.seconds(row, utilisation)
            apart, hidden = shares(computing, sending)
            found.append(
                {
                    "system": system.name,
                    "strategy": row["strategy"],
                    "devices": row["devices"],
                    "bytes_sent": total(row),
                    "seconds_computing": computing,
                    "seconds_sending": sending,
                    "share_not_overlapped": apart,
                    "share_overlapped": hidden,
                }
            )
    return found
