"""Bytes that a training step of a ResidualUViT takes on each device, counted from its configuration without making it.

    (1) arguments: parameters P, Adam's two moments 2 P, the average P, float32, each as its sharding rule splits it;
        and the batch of images and labels
    (2) temporary: activations and gradients at the worst moment of the backward pass, models/activations.py

Gradients come while activations go, so (2) is less than all of both. A step of XLA's takes (1) + (2): its
`memory_analysis` says argument_size + output_size - alias_size and temp_size.

The prediction of (2), over XLA's figure for the whole train step, compiled, not run (CPU: jax 0.10; TPU v5p: libtpu
0.0.42):

    CPU, 16 networks that nothing was counted in: 0.97 to 1.14 before two rules were mended for levels of one block,
        0.97 to 1.06 since; among them sid2_imagenet256_uvit2 at batch 8, 18.5 GiB: 1.00
    CPU, 19 networks whose buffers were looked at: 0.92 to 1.04, and 16 of them 0.97 to 1.02
    CPU, 10 meshes of 8 virtual devices, 3 of them not looked at: 0.96 to 1.02
    TPU, 7 networks, looked at: 0.85 to 1.36; one that was not, sid2_imagenet256_uvit2 with 8 blocks of 34: 1.19.
        Layouts there differ from shape to shape, so it is an estimate

Accumulation and bfloat16 are among those for CPU; for TPU accumulation and meshes were not compared.
"""

import dataclasses
from collections.abc import Callable, Mapping

from keras_sid2.models.activations import Activations, peak
from keras_sid2.models.platforms import COMPUTE_BYTES, FLOAT32, PLATFORMS
from keras_sid2.models.weights import network_weights
from keras_sid2.parallel.rules import TRAINED_COPIES, Mesh, Placement, check_heads, place

ONE_DEVICE = Mesh()


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device.

    `gradients` are all of them and `activations` all that the forward pass leaves; `temporary` is the most of both
    that there is at one moment, and what XLA calls so.
    """

    parameters: int
    optimizer: int
    averages: int
    batch: int
    gradients: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.averages + self.batch + self.temporary


def memory_plan(
    network: Mapping,
    *,
    batch_size: int,
    precision: str = "float32",
    mesh: Mesh = ONE_DEVICE,
    accumulation_steps: int = 1,
    platform: str = "cpu",
) -> MemoryPlan:
    """What a train step of `ResidualUViT(**network)` takes on each device of `mesh`, compiled by XLA for `platform`.

    The mesh's data and fsdp axes divide the batch; the parts of accumulation follow one another. Raises ValueError
    where the network's constructor would, for a precision, size or platform that is none, where the batch cannot be
    divided, and where the mesh cannot divide the attention heads.
    """
    _check(batch_size, precision, mesh, accumulation_steps, platform)
    weights = network_weights(**network)
    check_heads(weights, mesh)
    rows = [place(weight, mesh) for weight in weights.trainable_variables]
    images = batch_size // mesh.batch_shards
    step = Activations(
        network=network,
        images=images // accumulation_steps,
        precision=precision,
        model=mesh.model,
        platform=PLATFORMS[platform],
    )
    parameters = sum(row.bytes_per_device for row in rows) // TRAINED_COPIES
    activations, temporary = _temporary(step, rows, mesh, accumulation_steps)
    height, width, channels = network["image_shape"]
    return MemoryPlan(
        parameters=parameters,
        optimizer=2 * parameters,
        averages=parameters,
        batch=images * (height * width * channels + FLOAT32),
        gradients=parameters,
        activations=int(activations),
        temporary=int(temporary),
    )


def largest_batch(network: Mapping, memory: int, **options) -> int:
    """The largest batch whose plan, with the `options` of memory_plan, takes at most `memory` bytes; 0 if none does."""
    step = options.get("mesh", ONE_DEVICE).batch_shards * options.get("accumulation_steps", 1)

    def fits(parts: int) -> bool:
        return memory_plan(network, batch_size=parts * step, **options).total <= memory

    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * step


def _check(batch_size: int, precision: str, mesh: Mesh, accumulation_steps: int, platform: str):
    for name, value in {"batch_size": batch_size, "accumulation_steps": accumulation_steps}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value!r}.")
    for name, value, known in (("precision", precision, COMPUTE_BYTES), ("platform", platform, PLATFORMS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    parts = mesh.batch_shards * accumulation_steps
    if batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of data * fsdp * accumulation_steps = {parts}, got {batch_size}."
        )


def _temporary(step: Activations, rows: list[Placement], mesh: Mesh, parts: int) -> tuple[float, float]:
    """(activations, the peak with gradients): accumulated ones are all there from the start."""
    copies = _sums(rows, lambda row: _copy(step, row, mesh))
    stages = [dataclasses.replace(s, kept=s.kept + copies.get(s.name, 0.0)) for s in step.stages()]
    always = 3 * parts * step.image + step.shared()
    activations = step.shared() + sum(stage.kept for stage in stages)
    if parts == 1:
        return activations, peak(stages, _sums(rows, lambda row: _gradient(step, row)), always)
    shapes = {row.shape: _bytes(row) for row in rows}
    always += sum(map(_bytes, rows)) + sum(shapes.values()) + step.counters()
    return activations, peak(stages, {}, always)


def _bytes(row: Placement) -> float:
    return row.bytes_per_device / TRAINED_COPIES


def _sums(rows: list[Placement], bytes_of: Callable[[Placement], float]) -> dict[str, float]:
    """By the part of the network that a weight is in: the second name of its path."""
    sums: dict[str, float] = {}
    for row in rows:
        part = row.path.split("/")[1]
        sums[part] = sums.get(part, 0.0) + bytes_of(row)
    return sums


def _gradient(step: Activations, row: Placement) -> float:
    """Of one image it is an outer product, for the modulation: computed where it is used, and never kept."""
    return 0.0 if step.images == 1 and row.path.endswith("modulation/kernel") else _bytes(row)


def _copy(step: Activations, row: Placement, mesh: Mesh) -> float:
    """Bytes of a kernel that is there in another form until its block has run backwards.

    XLA for CPU transposes those of convolutions, and holds those of dense layers rounded where they are bfloat16.
    Under fsdp those of dense layers are kept as they were gathered, but for the modulation's.
    """
    transposed = len(row.shape) == 4 and step.platform.transposes_kernels
    dense = len(row.shape) == 2 and "_block" in row.path
    gathered = dense and mesh.fsdp > 1 and "modulation" not in row.path
    rounded = dense and step.rounds_kernels and "attention" not in row.path
    copied = transposed or gathered or rounded
    return row.bytes_whole / TRAINED_COPIES / (mesh.model if "model" in row.axes else 1) if copied else 0.0
