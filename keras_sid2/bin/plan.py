"""sid2-plan: what training and sampling a preset take: multiply-adds, time, memory, and which batch fits.

    sid2-plan --preset=sid2_imagenet256_uvit2 --batch_size=256 --precision=mixed_bfloat16 --mesh=data:4,fsdp:2 \
        --accelerator=h100 --memory=80GiB
    sid2-plan --sample_shape=64x64x3 --size=small --num_classes=10      # what sid2-train --size=small proposes
    sid2-plan --all                                                     # a table of all presets and sizes

Nothing is made. Weights, gradients, optimizer and averages are counted exactly; activations are an estimate for
--platform and --backend (keras_sid2/models/memory.py says from what). --compile asks XLA itself, for a TPU that is not
here, too; for a large network that takes minutes. Leave room for what the runtime takes besides.
"""

import dataclasses
import functools
import re

from keras_sid2 import Guidance, SiD2Model, backend
from keras_sid2.bin.common import run_program
from keras_sid2.bin.flag_table import check, parsed
from keras_sid2.bin.goodput import PEAKS
from keras_sid2.bin.plan_list import SAMPLES, markdown, rows
from keras_sid2.bin.preset_flags import chosen_preset
from keras_sid2.bin.tables.distill import check_matching
from keras_sid2.bin.tables.plan import PlanFlags
from keras_sid2.models import abstract_variables, largest_batch, memory_plan, trace
from keras_sid2.parallel import ahead
from keras_sid2.parallel.rules import Mesh, table
from keras_sid2.sampling import evaluations, get_sampler
from keras_sid2.sampling.noise_levels import logsnr_of
from keras_sid2.training import Preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.proposal import proposed_preset

_GIB = 2**30


def main(values):
    """Prints the plan that the flags ask for."""
    check(PlanFlags, values)
    if values.all:
        return _print_list(values)
    if values.distill and values.compile:
        raise ValueError("--compile is of the step of sid2-train: leave it out, or --distill.")
    check_matching(values)
    if not (values.preset or values.config or values.sample_shape):
        one = "Give --preset, the name of one, or --config, a file that defines one"
        raise ValueError(f"{one}, or --sample_shape, that of your data; --all lists what each preset and size costs.")
    preset = _proposed(values) if values.sample_shape else chosen_preset(values)
    mesh = Mesh() if values.mesh is None else Mesh.parse(values.mesh)
    devices = ahead.devices(values.platform, values.topology, mesh.size) if values.compile else None
    batch = preset.batch_size if values.batch_size is None else values.batch_size
    kind = {"platform": values.platform, "backend": values.backend or backend.name()}
    options = {**kind, "mesh": mesh, "accumulation_steps": values.accumulation_steps}
    options |= {
        "averages": 1 + len(preset.recipe.ema_widths),
        "distillation": values.distill,
        "matching": values.matching,
    }
    memory, sampling, speed = _memory(values.memory), _evaluations(values, preset), _speed(values, mesh)
    with abstract_variables():
        network = preset.make_network(dtype=values.precision, remat=values.remat)
    traced = trace(network)
    estimate = memory_plan(traced, batch_size=batch, **options)
    compiled = None if devices is None else _compiled(values, preset, mesh, batch, devices)
    lines = [] if values.mesh is None else [f"{table(network, mesh, ema_widths=preset.recipe.ema_widths)}\n"]
    lines += _costs(values, traced.cost, batch, sampling, speed)
    lines.append(f"A device, batch {batch} on {mesh}, {values.precision}, {kind['backend']} on {kind['platform']}:")
    parts = {**dataclasses.asdict(estimate), "total": estimate.total}
    lines += [f"{part:>14} {_bytes(size):>12}" for part, size in parts.items()]
    lines += [] if compiled is None else [compiled]
    if memory is not None:
        fits = largest_batch(traced, memory, **options)
        lines.append(f"Largest batch in {values.memory}: {fits}" if fits else f"No batch fits {values.memory}.")
    print(*lines, sep="\n")


def _print_list(values):
    """What --all asks for."""
    given = [name for name in ("preset", "config", "size", "batch_size", "steps", "num_steps") if values[name].present]
    if given:
        raise ValueError(f"--all is of all presets and sizes: leave out --{given[0]}.")
    if values.accelerator is None:
        values.accelerator = "h100"
    words, speed = _speed(values, Mesh())
    shape = _sample_shape(values)
    print(markdown(rows(speed, shape), words.removeprefix("1 "), shape))


# -- flags ---------------------------------------------------------------------------------------------------------


def _sample_shape(values) -> tuple[int, ...] | None:
    if values.sample_shape is None:
        return None
    sides = values.sample_shape.split("x")
    if len(sides) not in (3, 4) or not all(side.isdecimal() and int(side) for side in sides):
        raise ValueError(f"--sample_shape must be as 64x64x3, or 16x64x64x3 of clips, got {values.sample_shape!r}.")
    return tuple(map(int, sides))


def _proposed(values) -> Preset:
    """What sid2-train proposes for data of --sample_shape, with the changes of --set."""
    if values.preset or values.config:
        raise ValueError("--sample_shape is of a proposed network: leave it out, or --preset and --config.")
    how = {"size": values.size, "given_frames": values.given_frames}
    return overridden(proposed_preset(_sample_shape(values), values.num_classes, **how), values.set)


def _memory(text: str | None) -> int | None:
    """Bytes; a number without a unit is of GiB."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(GiB|GB|)", text)
    if not found or not float(found[1]):
        raise ValueError(f"--memory must be a size above 0 such as 80GiB or 80GB, got {text!r}.")
    return int(float(found[1]) * (10**9 if found[2] == "GB" else _GIB))


def _evaluations(values, preset) -> tuple[str, int]:
    """(in words, number) of the evaluations of the network for one sample: guided steps evaluate it twice."""
    steps = preset.num_steps if values.num_steps is None else values.num_steps
    interval = parsed("guidance_interval", values.guidance_interval, float)
    guidance = preset.guidance or Guidance() if interval is None else Guidance(2.0, tuple(interval))
    first, last = guidance.steps(logsnr_of("uniform_t", preset.schedule, steps)[:-1])
    count = evaluations(get_sampler(values.sampler)) * (steps + last - first)
    return f"{steps} steps of {values.sampler}, {last - first} of them guided", count


def _speed(values, mesh: Mesh) -> tuple[str, float] | None:
    """(in words, multiply-adds a second) of the accelerators of `mesh`."""
    if values.accelerator is None:
        return None
    known = {kind.lower().replace(" lite", "e").replace(" ", "-"): peak for kind, peak in PEAKS.items()}
    peak = known.get(values.accelerator.lower())
    if peak is None:
        raise ValueError(f"--accelerator must be one of {', '.join(sorted(known))}, got {values.accelerator!r}.")
    words = f"{mesh.size} {values.accelerator} at {values.share_of_peak:g} of {peak / 1e12:g} TFLOP/s"
    return words, mesh.size * values.share_of_peak * peak / 2


# -- what is printed -----------------------------------------------------------------------------------------------


def _costs(values, cost, batch: int, sampling: tuple[str, int], speed: tuple[str, float] | None) -> list[str]:
    forward_passes = 4 if values.remat else 3  # the backward pass takes twice the forward one's
    if values.distill and values.matching == "parameters":  # of student and teacher, which is evaluated twice more
        forward_passes = 2 * forward_passes + 2
    elif values.distill:  # of student and auxiliary network, and the teacher's forward pass
        forward_passes = 2 * forward_passes + 1
    step = forward_passes * cost.multiply_adds * batch
    samples = SAMPLES * sampling[1] * cost.multiply_adds
    blocks = f"; of its blocks {cost.block_multiply_adds / 1e9:,.5g} G" if cost.block_multiply_adds else ""
    lines = [
        f"parameters {cost.parameters:,}",
        f"multiply-adds of an image {cost.multiply_adds / 1e9:,.5g} G{blocks}",
        f"multiply-adds of a {'distillation' if values.distill else 'training'} step {step / 1e12:,.5g} T",
        f"multiply-adds of {SAMPLES:,} samples {samples / 1e15:,.5g} P: {sampling[0]}",
    ]
    if speed is None:
        return lines
    times = [(f"{values.steps:,} steps", values.steps * step), (f"{SAMPLES:,} samples", samples)]
    return lines + [f"{what} on {speed[0]}: {work / speed[1] / 86400:,.3g} days" for what, work in times]


def _bytes(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"


def _compiled(values, preset, mesh: Mesh, batch: int, devices: list) -> str:
    """XLA's own account of the memory of a train step on one of the mesh's devices."""
    recipe = dataclasses.replace(preset.recipe, accumulation_steps=values.accumulation_steps)
    with ahead.shapes_on(mesh, devices, values.platform) as shapes:
        preset = dataclasses.replace(preset, recipe=recipe)
        model = preset.build(SiD2Model, dtype=values.precision, remat=values.remat)
        model.compile()
        memory = ahead.compiled_train_step(model, shapes, batch).memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    return (
        f"XLA says {_bytes(held + temporary)} a device: {_bytes(held)} held (weights, optimizer, averages, batch), "
        f"{_bytes(temporary)} temporary (gradients, activations, work space)."
    )


run = functools.partial(run_program, main, "sid2-plan", PlanFlags)

if __name__ == "__main__":
    run()
