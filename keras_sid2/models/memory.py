"""Bytes that a training step takes on each device: weights exactly, activations by an estimate.

    (1) parameters P, gradients P, Adam's two moments 2 P, each average P, float32, each as its sharding rule splits it,
        twice the gradients where they are summed over parts; and the batch of samples
    (2) activations = share * tensors + matrix * matrices + half of P where weights are rounded

`tensors` are the bytes of all that goes into or comes out of a layer (of recomputed blocks the input, and the inside of
the largest one), `matrices` the numbers of attention's weights, where it is not fused. KEPT has the constants.

In distillation by moment matching (1) has 3 P, for student, auxiliary network and teacher; gradients and moments of the
first two, averages of the student alone; and (2) is of these two, as the teacher keeps nothing for a backward pass.
In parameter space it has 2 P; as gradients the student's, the teacher's of both halves of a batch and a moved copy of
the teacher's weights; moments and averages of the student; and (2) is of the student, and of the teacher for half a
batch at a time.
"""

import dataclasses

from keras_sid2.models.tracing import Trace
from keras_sid2.parallel.rules import TRAINED_COPIES, Mesh, table
from keras_sid2.shapes import whole_number

ONE_DEVICE = Mesh()


@dataclasses.dataclass(frozen=True)
class Kept:
    """Eq. (2): `share` in float32 and in half precision, `matrix` in bytes; whether weights are kept in half precision,
    too, and whether what is to be recomputed is."""

    share: tuple[float, float]
    matrix: float = 0.0
    rounded: bool = False
    recomputes: bool = True


# GPU: one H200 in mixed_bfloat16 at the peak of a step, sid2_imagenet512_uvit2 at batch 8 and 256_uvit2 at 32. jax 22.9
# and 23.0 GiB (estimates: 23.1, 23.0): its share is read from these, and taken for float32 unmeasured. torch 32.4, 32.3
# (31.2, 31.2): its shares are not from these, but what autograd saved, by its hooks, in 6 small networks, 0.97 to 1.04
# of the tensors in float32 and 1.16 to 1.24 in bfloat16, where norms keep their input in float32.
# TPU: XLA for v5p (libtpu 0.0.52), which does not fuse attention, arguments and temporary memory in GiB (estimates):
#     256_uvit2, batch 32, mixed_bfloat16            22.9 (23.0): the share in half precision is read from it
#     the same with remat                            9.3 (10.7)   as it was with float32 copies of maps in group norms
#     256_uvit2, batch 8, float32                    12.2 (12.6)  whose norms are as they were
# The first was 27.8 and 512_uvit2 at 8 was 45.2 with these copies; that one, and remat, were not read again. It pads
# widths below 128 to that, which no estimate here knows: sid2_digits takes 2.5 times as much.
# CPU: XLA on 5 small networks, 0.9 to 1.15 of them. It widens bfloat16 and computes nothing again.
# tensorflow is taken to be XLA without fused attention, and was not measured.
_AUTOGRAD = Kept((1.0, 1.25), rounded=True)
_XLA_ON_CPU = Kept((1.45, 2.5), matrix=18.0, recomputes=False)
KEPT = {
    ("gpu", "jax"): Kept((0.85, 0.85)),
    ("gpu", "tensorflow"): Kept((0.85, 0.85), matrix=6.0),
    ("gpu", "torch"): _AUTOGRAD,
    ("tpu", "jax"): Kept((0.4, 0.52), matrix=6.0),
    ("cpu", "jax"): _XLA_ON_CPU,
    ("cpu", "tensorflow"): _XLA_ON_CPU,
    ("cpu", "torch"): _AUTOGRAD,
}


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
    traced: Trace,
    *,
    batch_size: int,
    mesh: Mesh = ONE_DEVICE,
    accumulation_steps: int = 1,
    platform: str = "gpu",
    backend: str = "jax",
    averages: int = 1,
    distillation: bool = False,
    matching: str = "auxiliary",
) -> MemoryPlan:
    """What a train step of a traced network, of whose weights so many `averages` are kept, takes on each device of
    `mesh`, which share the batch; with `distillation` a step of a `MomentMatchingModel` of such networks, of this
    `matching`. Raises ValueError for a size, platform or backend that is none, a batch that cannot be divided, and a
    mesh that cannot hold the network."""
    if (platform, backend) not in KEPT:
        known = ", ".join(f"{name} on {device}" for device, name in KEPT)
        raise ValueError(f"There are estimates for {known}; got the backend {backend!r} on the platform {platform!r}.")
    batch_size = whole_number("batch_size", batch_size)
    parts = mesh.batch_shards * whole_number("accumulation_steps", accumulation_steps)
    if batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of data * fsdp * accumulation_steps = {parts}, got {batch_size}."
        )
    kept, rows = KEPT[platform, backend], table(traced.network, mesh).rows
    weights = sum(row.bytes_per_device for row in rows if row.trainable) // TRAINED_COPIES
    rounded = weights // 2 if kept.rounded and traced.half else 0
    networks, trained, gradients, active = (1, 1, 1, 1.0)
    if distillation:
        networks, trained, gradients, active = (2, 1, 4, 1.5) if matching == "parameters" else (3, 2, 2, 2.0)
    return MemoryPlan(
        parameters=networks * weights,
        gradients=gradients * weights * (2 if accumulation_steps > 1 else 1),
        optimizer=2 * trained * weights,
        averages=averages * weights,
        batch=batch_size // mesh.batch_shards * traced.example_bytes,
        activations=int(active * batch_size // parts * _activations(traced, kept, mesh.model)) + networks * rounded,
    )


def largest_batch(traced: Trace, memory: int, **options) -> int:
    """The largest batch whose plan, with the `options` of memory_plan, takes at most `memory` bytes; 0 if none does."""
    halves = 2 if options.get("matching") == "parameters" else 1
    step = options.get("mesh", ONE_DEVICE).batch_shards * options.get("accumulation_steps", 1) * halves
    one, two = (memory_plan(traced, batch_size=n * step, **options).total for n in (1, 2))
    return 0 if memory < one else ((memory - one) // (two - one) + 1) * step


def _activations(traced: Trace, kept: Kept, model: int) -> int:
    """Eq. (2) for one example, without weights: what is in a block is split over the model axis, its input is not."""
    total, largest, share = 0.0, 0.0, kept.share[traced.half]
    for part in traced.parts:
        split = model if part.is_block else 1
        whole = share * (part.input + (part.tensors - part.input) / split) + kept.matrix * part.matrices / split
        recomputed = part.recomputed and kept.recomputes
        largest = max(largest, whole if recomputed else 0.0)
        total += part.input if recomputed else whole
    return int(total + largest)
