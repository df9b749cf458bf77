"""Reads the text of a compiled XLA program: its multiply-adds, and what its collectives send.

    (1) multiply-adds of a dot = elements of its result * elements of the dimensions that it sums over
    (2) those of a convolution = batch * features of its result * features of a kernel * (result, window) positions that
        meet an element of the input, so that padding, strides and dilations count for nothing

Bytes that a device sends in one collective over a group of n, with s bytes of operands, by ring algorithms:

    (3) all-reduce 2 (n - 1) / n s     reduce-scatter, all-to-all (n - 1) / n s     all-gather (n - 1) s
        collective-permute s

XLA for TPU writes a reduce-scatter as an all-reduce within a computation that is named so, and it counts as what it is.
An operation within a loop counts as often as the loop runs, where XLA knows how often that is. Asynchronous
operations count once, at their start. Calls of kernels that are not HLO (cuDNN, cuBLAS) are not looked into, so
multiply-adds are those of programs for CPU and TPU.
"""

import dataclasses
import functools
import math
import re
from collections import Counter, defaultdict

import numpy as np

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
WIRE = {
    "all-reduce": lambda n: 2.0 * (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "all-gather": lambda n: n - 1.0,
    "collective-permute": lambda n: 1.0,
}

_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=\{?([^,}]*(?:, ?%[^,}]*)*)"
)
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a result: "f32", (8, 128)."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)
        return -(-self.elements * (int(bits[0]) if bits else 8) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`arrays` are the leaves of its result; `operands` names; `attributes` the text behind them."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    computation: str


@dataclasses.dataclass(frozen=True)
class Collective:
    """`bytes` are those of its operands on one device, `wire` what that device sends by Eq. (3), `times` a step.

    `group` devices take part together, whose numbers lie within `span`.
    """

    kind: str
    bytes: int
    group: int
    span: int
    times: int

    @property
    def wire(self) -> float:
        return self.times * self.bytes * WIRE[self.kind](self.group)


def _arrays(text: str) -> tuple[Array, ...]:
    return tuple(Array(t, tuple(int(n) for n in dims.split(",") if n)) for t, dims in _SHAPE.findall(text))


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    raise ValueError(f"A parenthesis of the program's text is not closed: {text[start : start + 80]!r}.")


def _instruction(line: str, computation: str) -> Instruction | None:
    """An instruction of a line of text, or None where it holds none."""
    named = _NAME.match(line)
    if not named:
        return None
    rest = line[named.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, call = rest[:end], rest[end:].lstrip()
    opens = call.index("(")
    closes = _closing(call, opens)
    operands = tuple(re.findall(r"%([\w.\-]+)", call[opens:closes]))
    return Instruction(named[1], call[:opens], _arrays(result), operands, call[closes + 1 :], computation)


class Program:
    """The instructions of a compiled program's text, and how often each of its computations runs."""

    def __init__(self, text: str):
        self.instructions: dict[str, Instruction] = {}
        self._callers: dict[str, list[tuple[str, int]]] = defaultdict(list)
        self._times: dict[str, int] = {}
        self._devices, computation = 1, ""
        for line in text.splitlines():
            header = _HEADER.match(line)
            if header:
                computation = header[2]
                self._times |= {computation: 1} if header[1] else {}
            elif line.startswith("HloModule"):
                self._devices = _devices(line)
            elif (instruction := _instruction(line, computation)) is not None:
                self.instructions[instruction.name] = instruction
                self._note_calls(instruction)

    def _note_calls(self, instruction: Instruction):
        """Who calls whom, and how often in each run of the caller."""
        trips = _TRIPS.search(instruction.attributes)
        body = _BODY.search(instruction.attributes)
        for names in _CALLED.findall(instruction.attributes):
            for name in re.findall(r"%([\w.\-]+)", names):
                repeated = int(trips[1]) if trips and body and body[1] == name else 1
                self._callers[name].append((instruction.computation, repeated))

    def times(self, computation: str) -> int:
        """How often a computation runs a step."""
        if computation not in self._times:
            callers = self._callers[computation]
            self._times[computation] = sum(count * self.times(caller) for caller, count in callers)
        return self._times[computation]

    def _operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]

    def multiply_adds(self) -> int:
        """Of all its dots and convolutions, Eq. (1) and (2)."""
        counts = {"dot": self._dot, "convolution": self._convolution}
        found = (i for i in self.instructions.values() if i.opcode in counts)
        return sum(self.times(i.computation) * counts[i.opcode](i) for i in found)

    def _dot(self, instruction: Instruction) -> int:
        left = self._operands(instruction)[0].arrays[0]
        summed = _numbers(instruction.attributes, "lhs_contracting_dims")
        return instruction.arrays[0].elements * math.prod(left.dims[i] for i in summed)

    def _convolution(self, instruction: Instruction) -> int:
        left, right = (operand.arrays[0].dims for operand in self._operands(instruction)[:2])
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
        of_left, of_right, of_result = labels[1], labels[2], labels[3]
        result = instruction.arrays[0].dims
        size = result[of_result.index("b")] * result[of_result.index("f")] * right[of_right.index("i")]
        window = _window(instruction.attributes)
        for axis in (label for label in of_result if label.isdigit()):
            sizes = left[of_left.index(axis)], right[of_right.index(axis)], result[of_result.index(axis)]
            size *= _meetings(*sizes, **{key: values[int(axis)] for key, values in window.items()})
        return size

    def collectives(self) -> list[Collective]:
        """Every collective over more than one device."""
        found = []
        for instruction in self.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                size = sum(array.bytes for operand in self._operands(instruction) for array in operand.arrays)
                scatters = instruction.computation.startswith("all-reduce-scatter")
                kind = "reduce-scatter" if scatters and kind == "all-reduce" else kind
                group = _group(instruction.attributes, self._devices)
                span = max(group) - min(group) + 1
                found.append(Collective(kind, size, len(group), span, self.times(instruction.computation)))
        return [one for one in found if one.group > 1 and one.times]


def wire_bytes(collectives: list[Collective]) -> dict[tuple[str, int, int], float]:
    """Bytes a device sends a step by (kind, size of the group, span of its numbers)."""
    total: Counter = Counter()
    for one in collectives:
        total[one.kind, one.group, one.span] += one.wire
    return dict(total)


def _devices(header: str) -> int:
    counts = [re.search(rf"{name}=(\d+)", header) for name in ("num_partitions", "replica_count")]
    return math.prod(int(count[1]) for count in counts if count)


def _numbers(attributes: str, name: str) -> list[int]:
    found = re.search(rf"{name}=\{{([\d,]*)\}}", attributes)
    return [int(n) for n in found[1].split(",") if n] if found else []


def _window(attributes: str) -> dict[str, list]:
    """Stride, padding (low, high) and dilations of each spatial dimension of a convolution."""
    text = re.search(r"window=\{([^}]*)\}", attributes)
    given = dict(pair.split("=") for pair in text[1].split()) if text else {}
    rank = len(given.get("size", "").split("x")) if given else 0
    plain = {
        name: [int(n) for n in given[name].split("x")] if name in given else [1] * rank
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    }
    pads = [int(pad.split("_")[0]) for pad in given["pad"].split("x")] if "pad" in given else [0] * rank
    return {**plain, "pad": pads}


@functools.lru_cache(maxsize=4096)
def _meetings(left: int, right: int, result: int, *, stride: int, pad: int, lhs_dilate: int, rhs_dilate: int) -> int:
    """Pairs of a position in the result and one in the window that meet an element of the input."""
    count = 0
    for out in range(result):
        places = (out * stride + k * rhs_dilate - pad for k in range(right))
        count += sum(0 <= place <= (left - 1) * lhs_dilate and place % lhs_dilate == 0 for place in places)
    return count


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """Devices of the first group of a collective; of a permutation the first two that differ, or one."""
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
    if pairs:
        sent = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)", pairs[0]) if a != b]
        return sent[0] if sent else (0,)
    if "replica_groups={}" in attributes:
        return tuple(range(devices))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return tuple(int(n) for n in listed[1].split(","))
    iota = re.search(r"replica_groups=\[(\d+),(\d+)\]<=(\[[\d,]*\](?:T\([\d,]*\))?)", attributes)
    if iota:
        return tuple(_iota(iota[3]).reshape(int(iota[1]), int(iota[2]))[0].tolist())
    mesh = re.search(r"replica_groups=\w+\[([^\]]*)\](?:, ?device_ids=\(([^{]*)\))? ?\{([^}]*)\}", attributes)
    if mesh:
        return _mesh_group(*mesh.groups())
    raise ValueError(f"A collective's replica groups are in a form that is not known: {attributes[:200]!r}.")


def _iota(text: str) -> np.ndarray:
    """Device ids of "[4,2]T(1,0)": 0, 1, ... in this shape, transposed."""
    shape, order = re.fullmatch(r"\[([\d,]*)\](?:T\(([\d,]*)\))?", text).groups()
    sizes = [int(n) for n in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def _mesh_group(axes: str, device_ids: str | None, along: str) -> tuple[int, ...]:
    """The first group of "'a'=4,'b'=2", an order of devices, and "'a'" or "'a':(1)2": an axis, or 2 parts of it that
    lie within 1."""
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    ids = (_iota(device_ids) if device_ids else np.arange(math.prod(sizes.values()))).reshape(tuple(sizes.values()))
    index: list = [slice(0, 1)] * len(sizes)
    for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along):
        rest = sizes[name] // (int(before) * int(size)) if size else 1
        index[list(sizes).index(name)] = slice(0, int(size) * rest if size else None, rest)
    return tuple(ids[tuple(index)].ravel().tolist())
