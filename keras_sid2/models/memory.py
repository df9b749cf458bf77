"""Bytes that training a ResidualUViT takes on each device, counted from its configuration without building it.

    (1) parameters P, gradients P, Adam's two moments 2 P, the average P: float32, divided by fsdp * model
    (2) activations = sum over blocks of what is kept for the backward pass + the work space of the costliest block

With N positions, C channels and h heads a block keeps, for an image, some number of arrays [N, C] and [h, N, N]:

    (3) bytes = N C (compute * size of the compute type + 4 * float32) + 4 * attention * h N^2

Which arrays those are is up to the compiler, which fuses and recomputes. So `XLA_TPU` and `XLA_CPU` are fits: what
memory_analysis of each was seen to add per block, in networks of one level that differ by one block (one shape for each
kind of block on TPU v5p, several on CPU). For three whole networks on CPU the totals were 0.97, 0.88 and 1.34 of what
XLA said; on TPU no whole network was compared. Take them as estimates.

A block that is recomputed keeps its input alone; (3) is work space then. XLA for CPU removes the barriers that keep a
recomputation late, so nothing is saved there.
"""

import dataclasses
from collections.abc import Mapping

from keras_sid2.models.cost import block_parameters, network_cost
from keras_sid2.models.level import Level

_FLOAT32 = 4
COMPUTE_BYTES = {"float32": 4, "mixed_bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Kept:
    """Arrays that a block of one kind keeps: [N, C] of the compute type and in float32, [heads, N, N] in float32.

    dropout is what it keeps besides where it drops, [N, C]; work and attention_work are a block's own while it runs
    backwards; weights are copies of its weights in the compute type.
    """

    compute: float
    float32: float = 0.0
    attention: float = 0.0
    dropout: float = 0.0
    work: float = 0.0
    attention_work: float = 0.0
    weights: float = 0.0


@dataclasses.dataclass(frozen=True)
class Compiler:
    """What the blocks keep under one compiler, and whether it honours remat."""

    res: Kept
    transformer: Kept
    honours_remat: bool = True


XLA_CPU = Compiler(
    res=Kept(compute=8.0, dropout=2.0, work=4.0),
    transformer=Kept(compute=22.0, attention=5.0, dropout=8.0, attention_work=2.0),
    honours_remat=False,
)
XLA_TPU = Compiler(
    res=Kept(compute=2.0, float32=8.7, weights=1.0),
    transformer=Kept(compute=16.0, attention=2.0, weights=1.0),
)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device."""

    parameters: int
    gradients: int
    optimizer: int
    averages: int
    batch: int
    activations: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))


def memory_plan(
    network: Mapping,
    *,
    batch_size: int,
    precision: str = "float32",
    data: int = 1,
    fsdp: int = 1,
    model: int = 1,
    accumulation_steps: int = 1,
    compiler: Compiler = XLA_TPU,
) -> MemoryPlan:
    """What training `ResidualUViT(**network)` takes on each device of a mesh of data * fsdp * model.

    A batch is divided by data * fsdp, and its activations by accumulation_steps besides. Raises ValueError where the
    network's constructor would, for a precision or a size that is none, and where the batch cannot be divided.
    """
    sizes = {"data": data, "fsdp": fsdp, "model": model, "accumulation_steps": accumulation_steps}
    for name, value in {"batch_size": batch_size, **sizes}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")
    if precision not in COMPUTE_BYTES:
        raise ValueError(f"precision must be one of {', '.join(COMPUTE_BYTES)}, got {precision!r}.")
    parts = data * fsdp * accumulation_steps
    if batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of data * fsdp * accumulation_steps = {parts}, got {batch_size}."
        )
    weights = _FLOAT32 * -(-network_cost(**network).parameters // (fsdp * model))
    height, width, channels = network["image_shape"]
    image = _FLOAT32 * height * width * channels
    return MemoryPlan(
        parameters=weights,
        gradients=weights,
        optimizer=2 * weights,
        averages=weights,
        batch=4 * image * batch_size // (data * fsdp),  # x, eps, z_t and v
        activations=int(_activations(network, batch_size // parts, COMPUTE_BYTES[precision], compiler)),
    )


def largest_batch(network: Mapping, memory: int, **options) -> int:
    """The largest batch whose plan, with the `options` of memory_plan, takes at most `memory` bytes; 0 if none does."""
    step = 1
    for name in ("data", "fsdp", "accumulation_steps"):
        step *= options.get(name, 1)
    one, two = (memory_plan(network, batch_size=n * step, **options).total for n in (1, 2))
    fixed = 2 * one - two
    return max(0, int((memory - fixed) // (two - one))) * step


def _activations(network: Mapping, images: int, size: int, compiler: Compiler) -> float:
    """Eq. (2), with the skip and the pooled features of each level but the last."""
    levels = [Level.of(level) for level in network["levels"]]
    height, width, _ = network["image_shape"]
    kept = work = 0.0
    for i, level in enumerate(levels):
        scale = network["patch_size"] * 2**i
        positions = (height // scale) * (width // scale)
        blocks = level.blocks * (1 if i == len(levels) - 1 else 2)
        remat = (level.remat or network.get("remat", False)) and compiler.honours_remat
        stream, whole, extra = (images * b for b in _block_bytes(level, positions, size, compiler))
        copies = getattr(compiler, level.kind).weights * size * block_parameters(level, network["embedding_dim"])
        kept += blocks * (copies + (stream if remat else whole))
        work = max(work, extra + (whole if remat else 0.0))
    return kept + work


def _block_bytes(level: Level, positions: int, size: int, compiler: Compiler) -> tuple[float, float, float]:
    """Of one block and image: its input, all that it keeps, and its work space."""
    kept = getattr(compiler, level.kind)
    features = positions * level.channels
    matrix = _FLOAT32 * positions**2 * (level.channels // level.attention_head_dim)
    arrays = kept.compute + (kept.dropout if level.dropout else 0.0)
    whole = features * (arrays * size + kept.float32 * _FLOAT32) + kept.attention * matrix
    return features * size, whole, features * kept.work * size + kept.attention_work * matrix
