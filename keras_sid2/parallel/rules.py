"""Where each variable goes on a mesh of devices: a short list of rules on variable paths, and the table they make.

A mesh has three axes. `data` splits the batch; `fsdp` splits the batch too, and the variables (each device keeps its
part and gets the others when a layer needs them); `model` splits the work of one layer (attention heads, the 4C hidden
units, the channels between a block's two convolutions). A rule names for each dimension of a kernel the axis that
splits it. In every pair of layers (query, key, value and out; mlp1 and mlp2; conv1 and conv2) the first is split by its
outputs and the second by its inputs over `model`, so that what is between them never leaves its device, and one
all-reduce ends the pair.

All of this is arithmetic on paths and shapes: it needs no devices, and a table can be made anywhere for any mesh.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

AXES = ("data", "fsdp", "model")
LARGE = 2**14  # elements; every variable of at least so many must have its rule
TRAINED_COPIES = 4  # a weight, Adam's two moments, its average

Layout = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """How many devices lie along each axis; `data` and `fsdp` together share a batch.

    Raises ValueError, naming the axis, for anything but integers >= 1.
    """

    data: int = 1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self):
        for axis in AXES:
            size = getattr(self, axis)
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"A mesh's {axis} axis must be an integer >= 1, got {size!r}.")

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """The mesh of a text such as "data:4,fsdp:2": axes in any order, 1 where not named; str() writes it back.

        All sizes are written out, none is filled up from the devices there are: a run that finds fewer of them than it
        was meant for stops instead of training on them. ValueError for an axis that is unknown or named twice, and for
        a size that is no integer >= 1.
        """
        sizes: dict[str, int] = {}
        for part in text.split(","):
            axis, _, size = (piece.strip() for piece in part.partition(":"))
            if axis not in AXES:
                raise ValueError(f"A mesh has the axes {', '.join(AXES)}, as in data:4,fsdp:2,model:1; got {text!r}.")
            if axis in sizes:
                raise ValueError(f"A mesh names each axis once, got {axis} twice in {text!r}.")
            if not re.fullmatch(r"[0-9]+", size):
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

    pattern: str
    axes: Layout

    def matches(self, path: str) -> bool:
        return re.fullmatch(f"(?:.*/)?(?:{self.pattern})", path) is not None


_BLOCK = r"level\d+_(?:down|middle|up)_block\d+"

RULES = (
    Rule(r"embedding/dense1/kernel", ("fsdp", "model")),
    Rule(r"embedding/dense1/bias", ("model",)),
    Rule(r"embedding/dense2/kernel", ("model", "fsdp")),
    Rule(r"embedding/classes/embeddings", (None, "fsdp")),  # K + 1 rows are seldom divisible
    Rule(r"level\d+_position/embedding", (None, None, "fsdp")),
    Rule(r"(?:un)?patchify/kernel", (None, None, None, "fsdp")),  # the last is the network's width in both
    Rule(r"level\d+_(?:down|up)sample/conv/kernel", (None, None, None, "fsdp")),
    Rule(rf"{_BLOCK}/modulation/kernel", ("fsdp", "model")),
    Rule(rf"{_BLOCK}/(?:conv1|mlp1|modulation)/bias", ("model",)),  # beside the channels that they are added to
    Rule(rf"{_BLOCK}/norm2/(?:gamma|beta)", ("model",)),
    Rule(rf"{_BLOCK}/conv1/kernel", (None, None, "fsdp", "model")),
    Rule(rf"{_BLOCK}/conv2/kernel", (None, None, "model", "fsdp")),
    Rule(rf"{_BLOCK}/mlp1/kernel", ("fsdp", "model")),
    Rule(rf"{_BLOCK}/mlp2/kernel", ("model", "fsdp")),
    Rule(rf"{_BLOCK}/attention/(?:query|key|value)/kernel", ("fsdp", "model")),  # outputs are heads * head_dim
    Rule(rf"{_BLOCK}/attention/out/kernel", ("model", "fsdp")),
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """One variable on a mesh.

    `axes` is what splits its dimensions in fact: an axis that its rule names and whose size does not divide the
    dimension is in `dropped` instead. `rule` is the pattern that matched, None where none did: it is on every device
    whole. `bytes_per_device` counts a trained weight with its two moments and its average.
    """

    path: str
    shape: tuple[int, ...]
    rule: str | None
    axes: Layout
    dropped: tuple[str, ...]
    bytes_whole: int
    bytes_per_device: int

    @property
    def large(self) -> bool:
        return math.prod(self.shape) >= LARGE

    def line(self, name: str, bytes_per_device: int) -> str:
        """A line of a table for variables that lie as this one does."""
        axes = ", ".join(axis or "-" for axis in self.axes) if any(self.axes) else "replicated"
        note = f"  ({' and '.join(self.dropped)} cannot divide it)" if self.dropped else ""
        shape = "x".join(map(str, self.shape)) or "scalar"
        return f"{name:<60} {shape:<18} {axes:<24} {bytes_per_device:>14,}{note}"

    def __str__(self):
        return self.line(self.path, self.bytes_per_device)


def place(variable, mesh: Mesh, rules: Sequence[Rule] = RULES) -> Placement:
    """Where a variable (anything with path, shape, dtype and trainable) goes.

    ValueError if several rules match its path, or one that was written for another number of dimensions.
    """
    path, shape = variable.path, tuple(variable.shape)
    matching = [rule for rule in rules if rule.matches(path)]
    if len(matching) > 1:
        patterns = " and ".join(repr(rule.pattern) for rule in matching)
        raise ValueError(f"The variable {path} must be matched by exactly one sharding rule, got {patterns}.")
    rule = matching[0] if matching else Rule("", (None,) * len(shape))
    if len(rule.axes) != len(shape):
        raise ValueError(
            f"The sharding rule {rule.pattern!r} is for {len(rule.axes)} dimensions, and {path} has {len(shape)}."
        )
    named = [(axis, size, getattr(mesh, axis) if axis else 1) for axis, size in zip(rule.axes, shape, strict=True)]
    axes = tuple(axis if parts > 1 and size % parts == 0 else None for axis, size, parts in named)
    whole = math.prod(shape) * _itemsize(variable.dtype) * (TRAINED_COPIES if variable.trainable else 1)
    return Placement(
        path=path,
        shape=shape,
        rule=rule.pattern if matching else None,
        axes=axes,
        dropped=tuple(axis for axis, size, parts in named if size % parts),
        bytes_whole=whole,
        bytes_per_device=whole // math.prod(getattr(mesh, axis) for axis in axes if axis),
    )


def _itemsize(dtype: str) -> int:
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

    def grouped(self) -> str:
        """The same with one line for all variables of a level's blocks, or of another layer, that lie alike."""
        groups: dict[tuple, list[Placement]] = {}
        for row in self.rows:
            groups.setdefault((_folded(row.path)[0], row.shape, row.axes, row.dropped), []).append(row)
        lines = [_group_line(layer, rows) for (layer, *_), rows in groups.items()]
        whole = [row for row in self.rows if not any(row.axes)]
        replicated = sum(row.bytes_per_device for row in whole)
        return self._text(
            [*lines, f"{len(whole)} of {len(self.rows)} variables are replicated: {replicated:,} bytes a device."]
        )

    def _text(self, lines: Iterable[str]) -> str:
        head = f"{'variable':<60} {'shape':<18} {'split over':<24} {'bytes a device':>14}"
        total = (
            f"On {self.mesh} each device holds {self.bytes_per_device:,} of {self.bytes_whole:,} bytes of weights, "
            "optimizer state and averages."
        )
        return "\n".join([head, *lines, total])

    def __str__(self):
        return self._text(map(str, self.rows))


def _folded(path: str) -> tuple[str, str]:
    """A variable's layer and its name there; ("level2 blocks", "mlp1/kernel") for those of all blocks of that level."""
    block = re.search(r"(level\d+)_(?:down|middle|up)_block\d+/(.*)", path)
    if block:
        return f"{block[1]} blocks", block[2]
    layer, _, name = path.rpartition("/")
    return layer, name


def _group_line(layer: str, rows: Sequence[Placement]) -> str:
    names = list(dict.fromkeys(_folded(row.path)[1] for row in rows))
    name = f"{layer}/{names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
    count = f"{len(rows)} x " if rows[1:] else ""
    return rows[0].line(count + name, sum(row.bytes_per_device for row in rows))


def table(model, mesh: Mesh, rules: Sequence[Rule] = RULES) -> Table:
    """The table of a model's (or a network's) weights with their averages and what `EmaAdam` keeps of them.

    ValueError if the mesh cannot hold it: see `check_rows` and `check_heads`.
    """
    network = getattr(model, "network", model)
    variables = (*network.trainable_variables, *network.non_trainable_variables)
    rows = tuple(place(variable, mesh, rules) for variable in variables)
    check_rows(rows, mesh)
    check_heads(network, mesh)
    return Table(mesh, rows)


def check_rows(rows: Iterable[Placement], mesh: Mesh):
    """ValueError, naming it, for a large variable that no rule matches, where the mesh splits variables at all."""
    missed = [row for row in rows if row.large and row.rule is None]
    if missed and mesh.size > mesh.data:
        first = missed[0]
        raise ValueError(
            f"No sharding rule matches the variable {first.path} {list(first.shape)}, so each device of {mesh} would "
            f"hold all of it; every variable of {LARGE} elements and more needs a rule, and {len(missed)} have none."
        )


def check_heads(network, mesh: Mesh):
    """ValueError unless the model axis divides the attention heads of every level of `network`, if it has levels."""
    for i, level in enumerate(getattr(network, "levels", ())):
        heads = level.channels // level.attention_head_dim
        if level.kind == "transformer" and heads % mesh.model:
            raise ValueError(
                f"A mesh's model axis must divide the attention heads of every level, got model:{mesh.model} and "
                f"{heads} heads at level {i}."
            )
