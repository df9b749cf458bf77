"""Where each variable goes on a mesh of devices: rules on variable paths, and the table they make.

A mesh has three axes. `data` splits the batch; `fsdp` splits the batch too, and the variables; `model` splits the work
of one layer (attention heads, hidden units, channels between two convolutions). In every pair of layers (query, key,
value and out; mlp1 and mlp2; conv1 and conv2) the first is split by its outputs and the second by its inputs over
`model`, so what is between them never leaves its device, and one all-reduce ends the pair.

The rules are a network's own: the attribute `sharding_rules` of its class, a tuple of `Rule`. Of a network without it
`fsdp` splits every large variable along the largest dimension that it divides, and `model` must be 1. All of this is
arithmetic on paths and shapes and needs no devices.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

from keras_sid2.shapes import whole_number

AXES = ("data", "fsdp", "model")
LARGE = 2**14  # elements; every variable of at least so many must have its rule
TRAINED_COPIES = 4  # a weight, Adam's two moments, its average

Layout = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How many devices lie along each axis; `data` and `fsdp` together share a batch. Raises ValueError, naming the
    axis, for anything but integers >= 1."""

    data: int = 1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self):
        for axis in AXES:
            whole_number(f"A mesh's {axis} axis", getattr(self, axis))

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """The mesh of a text such as "data:4,fsdp:2": axes in any order, 1 where not named; str() writes it back.
        ValueError for an axis that is unknown or named twice, and a size that is no integer >= 1."""
        sizes: dict[str, int] = {}
        for part in text.split(","):
            axis, _, size = (piece.strip() for piece in part.partition(":"))
            if axis not in AXES:
                raise ValueError(f"A mesh has the axes {', '.join(AXES)}, as in data:4,fsdp:2,model:1; got {text!r}.")
            if axis in sizes:
                raise ValueError(f"A mesh names each axis once, got {axis} twice in {text!r}.")
            if not re.fullmatch("[0-9]+", size):
                raise ValueError(f"A mesh's {axis} axis must be an integer >= 1, got {size!r} in {text!r}.")
            sizes[axis] = int(size)
        return cls(**sizes)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.data, self.fsdp, self.model)

    @property
    def size(self) -> int:
        """Devices in all."""
        return math.prod(self.shape)

    @property
    def batch_shards(self) -> int:
        """Parts of a batch."""
        return self.data * self.fsdp

    def __str__(self):
        return ",".join(f"{axis}:{getattr(self, axis)}" for axis in AXES)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The axes of all variables whose path ends in `pattern`, a regular expression; None leaves a dimension whole."""

    pattern: str | None  # None in the rule of a variable that no other matches
    axes: Layout

    def matches(self, path: str) -> bool:
        return re.fullmatch(f"(?:.*/)?(?:{self.pattern})", path) is not None


@dataclasses.dataclass(frozen=True)
class Placement:
    """One variable on a mesh. `axes` split its dimensions; those that its rule names and that do not divide them are
    `dropped`. `rule` is the pattern that matched, None where none did. Bytes count a trained weight with its two
    moments and its average."""

    path: str
    shape: tuple[int, ...]
    trainable: bool
    rule: str | None
    axes: Layout
    dropped: tuple[str, ...]
    bytes_whole: int
    bytes_per_device: int

    @property
    def large(self) -> bool:
        return math.prod(self.shape) >= LARGE


def place(variable, mesh: Mesh, rules: Sequence[Rule] | None, copies: int = TRAINED_COPIES) -> Placement:
    """Where a variable (anything with path, shape, dtype and trainable) goes; by `fsdp` alone without rules. ValueError
    if several rules match its path, or one that was written for another number of dimensions."""
    path, shape = variable.path, tuple(variable.shape)
    rule = _along_the_largest(shape, mesh) if rules is None else _matching(path, shape, rules)
    named = [(axis, size, getattr(mesh, axis) if axis else 1) for axis, size in zip(rule.axes, shape, strict=True)]
    axes = tuple(axis if parts > 1 and size % parts == 0 else None for axis, size, parts in named)
    dropped = tuple(axis for axis, size, parts in named if size % parts)
    whole = math.prod(shape) * itemsize(variable.dtype) * (copies if variable.trainable else 1)
    part = whole // math.prod(getattr(mesh, axis) for axis in axes if axis)
    return Placement(path, shape, variable.trainable, rule.pattern, axes, dropped, whole, part)


def _matching(path: str, shape: tuple[int, ...], rules: Sequence[Rule]) -> Rule:
    matching = [rule for rule in rules if rule.matches(path)] or [Rule(None, (None,) * len(shape))]
    if len(matching) > 1:
        patterns = " and ".join(repr(rule.pattern) for rule in matching)
        raise ValueError(f"The variable {path} must be matched by exactly one sharding rule, got {patterns}.")
    pattern, axes = matching[0].pattern, matching[0].axes
    if len(axes) != len(shape):
        raise ValueError(f"The sharding rule {pattern!r} is for {len(axes)} dimensions, and {path} has {len(shape)}.")
    return matching[0]


def _along_the_largest(shape: tuple[int, ...], mesh: Mesh) -> Rule:
    """For a network without rules."""
    sizes = [size if size % mesh.fsdp == 0 and math.prod(shape) >= LARGE else 0 for size in shape]
    split = sizes.index(max(sizes)) if any(sizes) else None
    return Rule("", tuple("fsdp" if i == split else None for i in range(len(shape))))


def itemsize(dtype: str) -> int:
    """Bytes of one number: "float32", "bfloat16", "int8", "bool"."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1


@dataclasses.dataclass(frozen=True)
class Table:
    """What lands where; str() is a text for people. Gradients and activations are not in it."""

    mesh: Mesh
    rows: tuple[Placement, ...]

    @property
    def bytes_whole(self) -> int:
        return sum(row.bytes_whole for row in self.rows)

    @property
    def bytes_per_device(self) -> int:
        return sum(row.bytes_per_device for row in self.rows)

    def __str__(self):
        """A line for all variables that lie alike and whose paths differ in numbers alone; not for small whole ones."""
        groups: dict[tuple, list[Placement]] = {}
        for row in self.rows:
            if row.large or any(row.axes) or row.dropped:
                name = re.sub(r"\d+", "*", row.path.partition("/")[2])
                groups.setdefault((name, row.shape, row.axes, row.dropped), []).append(row)
        whole = [row.bytes_per_device for row in self.rows if not any(row.axes)]
        lines = [
            f"{'variables':<60} {'shape':<18} {'split over':<24} {'bytes a device':>14}",
            *(_line(*lying, [row.bytes_per_device for row in rows]) for lying, rows in groups.items()),
            f"{len(whole)} of {len(self.rows)} variables are replicated: {sum(whole):,} bytes a device.",
            f"On {self.mesh} each device holds {self.bytes_per_device:,} of {self.bytes_whole:,} bytes of weights, "
            "optimizer state and averages.",
        ]
        return "\n".join(lines)


def _line(name: str, shape: tuple[int, ...], axes: Layout, dropped: tuple[str, ...], sizes: list[int]) -> str:
    split = ", ".join(axis or "-" for axis in axes) if any(axes) else "replicated"
    note = f"  ({' and '.join(dropped)} cannot divide it)" if dropped else ""
    return f"{len(sizes):>3} x {name:<54} {'x'.join(map(str, shape)):<18} {split:<24} {sum(sizes):>14,}{note}"


def table(model, mesh: Mesh, rules: Sequence[Rule] | None = None, *, ema_widths: Sequence[float] = ()) -> Table:
    """The table of a model's (or a network's) weights with their averages, of a network also those of `ema_widths`, and
    what `EmaAdam` keeps of them. `rules` take the place of the network's own. ValueError where no rule matches a large
    variable that could be split, and where the model axis does not divide the attention heads, or has no rules."""
    network = getattr(model, "network", model)
    rules = getattr(network, "sharding_rules", None) if rules is None else rules
    if rules is None and mesh.model > 1:
        raise ValueError(
            f"A mesh's model axis needs sharding rules, got model:{mesh.model} and {type(network).__name__} without: "
            "give its class `sharding_rules`, or use fsdp."
        )
    for where, heads in getattr(network, "attention_heads", {}).items():
        if heads % mesh.model:
            raise ValueError(
                f"A mesh's model axis must divide the attention heads of every level, got model:{mesh.model} and "
                f"{heads} heads at {where}."
            )
    copies = TRAINED_COPIES + len(ema_widths or getattr(getattr(model, "recipe", None), "ema_widths", ()))
    variables = (*network.trainable_variables, *network.non_trainable_variables)
    rows = tuple(place(v, mesh, rules, copies) for v in variables)
    missed = [row for row in rows if row.large and row.rule is None]
    if missed and mesh.size > mesh.data:
        raise ValueError(
            f"No sharding rule matches the variable {missed[0].path} {list(missed[0].shape)}, so each device of {mesh} "
            f"would hold all of it; variables of {LARGE} elements and more need a rule, and {len(missed)} have none."
        )
    return Table(mesh, rows)
