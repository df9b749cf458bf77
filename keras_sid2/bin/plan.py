"""sid2-plan: what training and sampling a preset take: multiply-adds, time, memory, and which batch fits.

    sid2-plan --preset=sid2_imagenet256_uvit2 --batch_size=256 --precision=mixed_bfloat16 --mesh=data:4,fsdp:2 \
        --accelerator=h100 --memory=80GiB

Nothing is made. Weights, gradients, optimizer and averages are counted exactly; activations are an estimate for
--platform and --backend (keras_sid2/models/memory.py says from what). --compile asks XLA itself, for a TPU that is not
here, too; for a large network that takes minutes. Leave room for what the runtime takes besides.
"""

import dataclasses
import re

from absl import flags

from keras_sid2.bin import preset_flags
from keras_sid2.bin.common import run_program
from keras_sid2.parallel.rules import Mesh, table

_GIB = 2**30
_SAMPLES = 50_000  # as many as papers evaluate
_PRECISIONS = ("float32", "mixed_bfloat16")

preset_flags.define()
flags.adopt_module_key_flags(preset_flags)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images a step, of all devices; the preset's if not given")
_MESH = flags.DEFINE_string(
    "mesh", None, "devices along data, fsdp and model, as data:4,fsdp:2,model:1: prints what lies where, too"
)
_PRECISION = flags.DEFINE_string("precision", "float32", "float32 or mixed_bfloat16")
_REMAT = flags.DEFINE_bool("remat", False, "recompute every block in the backward pass")
_ACCUMULATION = flags.DEFINE_integer("accumulation_steps", 1, "parts of a batch, one after another")
_PLATFORM = flags.DEFINE_string("platform", "gpu", "gpu, tpu or cpu: the devices that activations are estimated for")
_BACKEND = flags.DEFINE_string("backend", None, "jax, tensorflow or torch, which keep other activations; that of now")
_COMPILE = flags.DEFINE_bool("compile", False, "compile the step for --platform, and say what memory XLA wants (jax)")
_TOPOLOGY = flags.DEFINE_string("topology", "v5p:2x2x1", "the TPU of --compile --platform=tpu; needs libtpu, no TPU")
_MEMORY = flags.DEFINE_string("memory", None, "of a device, as 80GiB: prints the largest batch that fits")
_ACCELERATOR = flags.DEFINE_string("accelerator", None, "as h100 or tpu-v5p: prints the days that --mesh of them take")
_SHARE = flags.DEFINE_float("share_of_peak", 0.3, "of the accelerator's operations a second that the program does")
_STEPS = flags.DEFINE_integer("steps", 1_000_000, "of training")
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "of sampling; the preset's if not given")
_SAMPLER = flags.DEFINE_string("sampler", "ddpm", "as sid2-sample's")
_GUIDED = flags.DEFINE_list("guidance_interval", None, "low,high in logsnr, where guidance acts; the preset's")


def _main(_):
    print_plan(preset_flags.preset_from_flags())


def print_plan(preset):
    """Prints the plan of a `Preset` by the flags."""
    from keras_sid2 import backend
    from keras_sid2.models import abstract_variables, largest_batch, memory_plan, trace
    from keras_sid2.parallel import ahead

    mesh = Mesh() if _MESH.value is None else Mesh.parse(_MESH.value)
    devices = ahead.devices(_PLATFORM.value, _TOPOLOGY.value, mesh.size) if _COMPILE.value else None
    batch = preset.batch_size if _BATCH_SIZE.value is None else _BATCH_SIZE.value
    kind = {"platform": _PLATFORM.value, "backend": _BACKEND.value or backend.name()}
    options = {**kind, "mesh": mesh, "accumulation_steps": _ACCUMULATION.value}
    memory, evaluations, speed = _memory(), _evaluations(preset), _speed(mesh)
    if _PRECISION.value not in _PRECISIONS:
        raise ValueError(f"--precision must be {' or '.join(_PRECISIONS)}, got {_PRECISION.value!r}.")
    with abstract_variables():
        network = preset.make_network(dtype=_PRECISION.value, remat=_REMAT.value)
    traced = trace(network)
    estimate = memory_plan(traced, batch_size=batch, **options)
    compiled = None if devices is None else _compiled(preset, mesh, batch, devices)
    lines = [] if _MESH.value is None else [f"{table(network, mesh)}\n"]
    lines += _costs(traced.cost, batch, evaluations, speed)
    lines += _parts(estimate, f"batch {batch} on {mesh}, {_PRECISION.value}, {kind['backend']} on {kind['platform']}")
    lines += [] if compiled is None else [_told(compiled)]
    if memory is not None:
        fits = largest_batch(traced, memory, **options)
        lines.append(f"Largest batch in {_MEMORY.value}: {fits}" if fits else f"No batch fits {_MEMORY.value}.")
    for line in lines:
        print(line)


# -- flags ---------------------------------------------------------------------------------------------------------


def _memory() -> int | None:
    """Bytes; a number without a unit is of GiB."""
    if _MEMORY.value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) ?(GiB|GB|)", _MEMORY.value)
    if not found or not float(found[1]):
        raise ValueError(f"--memory must be a size above 0 such as 80GiB or 80GB, got {_MEMORY.value!r}.")
    return int(float(found[1]) * (10**9 if found[2] == "GB" else _GIB))


def _evaluations(preset) -> tuple[str, int]:
    """(in words, number) of the evaluations of the network for one sample: guided steps evaluate it twice."""
    from keras_sid2 import Guidance
    from keras_sid2.bin.sampling_flags import check_at_least, numbers
    from keras_sid2.sampling import evaluations, get_sampler
    from keras_sid2.sampling.noise_levels import logsnr_of

    check_at_least(flags.FLAGS, num_steps=1, steps=1)
    steps = preset.num_steps if _NUM_STEPS.value is None else _NUM_STEPS.value
    interval = numbers(flags.FLAGS, "guidance_interval", float)
    guidance = preset.guidance or Guidance() if interval is None else Guidance(2.0, tuple(interval))
    first, last = guidance.steps(logsnr_of("uniform_t", preset.schedule, steps)[:-1])
    count = evaluations(get_sampler(_SAMPLER.value)) * (steps + last - first)
    return f"{steps} steps of {_SAMPLER.value}, {last - first} of them guided", count


def _speed(mesh: Mesh) -> tuple[str, float] | None:
    """(in words, multiply-adds a second) of the accelerators of `mesh`."""
    from keras_sid2.bin.goodput import PEAKS

    if not 0.0 < _SHARE.value <= 1.0:
        raise ValueError(f"--share_of_peak must be in (0, 1], got {_SHARE.value}.")
    if _ACCELERATOR.value is None:
        return None
    known = {kind.lower().replace(" lite", "e").replace(" ", "-"): peak for kind, peak in PEAKS.items()}
    peak = known.get(_ACCELERATOR.value.lower())
    if peak is None:
        raise ValueError(f"--accelerator must be one of {', '.join(sorted(known))}, got {_ACCELERATOR.value!r}.")
    words = f"{mesh.size} {_ACCELERATOR.value} at {_SHARE.value:g} of {peak / 1e12:g} TFLOP/s"
    return words, mesh.size * _SHARE.value * peak / 2


# -- what is printed -----------------------------------------------------------------------------------------------


def _costs(cost, batch: int, evaluations: tuple[str, int], speed: tuple[str, float] | None) -> list[str]:
    step = (4 if _REMAT.value else 3) * cost.multiply_adds * batch  # the backward pass takes twice the forward one's
    samples = _SAMPLES * evaluations[1] * cost.multiply_adds
    blocks = f"; of its blocks {cost.block_multiply_adds / 1e9:,.5g} G" if cost.block_multiply_adds else ""
    lines = [
        f"parameters {cost.parameters:,}",
        f"multiply-adds of an image {cost.multiply_adds / 1e9:,.5g} G{blocks}",
        f"multiply-adds of a training step {step / 1e12:,.5g} T",
        f"multiply-adds of {_SAMPLES:,} samples {samples / 1e15:,.5g} P: {evaluations[0]}",
    ]
    if speed is None:
        return lines
    times = [(f"{_STEPS.value:,} steps", _STEPS.value * step), (f"{_SAMPLES:,} samples", samples)]
    return lines + [f"{what} on {speed[0]}: {work / speed[1] / 86400:,.3g} days" for what, work in times]


def _parts(estimate, title: str) -> list[str]:
    parts = {**dataclasses.asdict(estimate), "total": estimate.total}
    return [f"A device, {title}:", *(f"{part:>14} {_bytes(size):>12}" for part, size in parts.items())]


def _bytes(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.2f} MiB"


def _compiled(preset, mesh: Mesh, batch: int, devices: list):
    """XLA's own account of the memory of a train step on one of the mesh's devices."""
    from keras_sid2 import SiD2Model
    from keras_sid2.parallel import ahead

    recipe = dataclasses.replace(preset.recipe, accumulation_steps=_ACCUMULATION.value)
    with ahead.shapes_on(mesh, devices, _PLATFORM.value) as shapes:
        model = dataclasses.replace(preset, recipe=recipe).build(SiD2Model, dtype=_PRECISION.value, remat=_REMAT.value)
        model.compile()
        return ahead.compiled_train_step(model, shapes, batch).memory_analysis()


def _told(memory) -> str:
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    return (
        f"XLA says {_bytes(held + temporary)} a device: {_bytes(held)} held (weights, optimizer, averages, batch), "
        f"{_bytes(temporary)} temporary (gradients, activations, work space)."
    )


def run():
    """The console program."""
    run_program(_main, "sid2-plan")


if __name__ == "__main__":
    run()
