"""sid2-plan: what training a preset takes on each device, and which batch fits, by arithmetic alone.

    sid2-plan --preset=sid2_imagenet256_uvit2 --mesh=data:4,fsdp:2 --precision=mixed_bfloat16 --remat --memory=80

What the weights take is exact. The activations are an estimate that was up to a third off where it was compared
(keras_sid2/models/memory.py says how it was made), and room for the compiler's fragments must be added: try the batch
that it names before you count on it.
"""

import dataclasses

from absl import flags
from rich.console import Console
from rich.table import Table

from keras_sid2.bin.common import run_program
from keras_sid2.sharding_rules import Mesh

_GIB = 2**30

_PRESET = flags.DEFINE_string("preset", None, "name of the model, see keras_sid2.list_presets()")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images a step, of all devices; the preset's if not given")
_MESH = flags.DEFINE_string("mesh", "data:1", "devices along data, fsdp and model, as data:4,fsdp:2,model:1")
_PRECISION = flags.DEFINE_string("precision", "float32", "float32 or mixed_bfloat16")
_REMAT = flags.DEFINE_bool("remat", False, "recompute every block in the backward pass")
_ACCUMULATION = flags.DEFINE_integer("accumulation_steps", 1, "parts of a batch, one after another")
_MEMORY = flags.DEFINE_float("memory", None, "GiB of a device: prints the largest batch that fits")


def _main(_):
    from keras_sid2.models import largest_batch, memory_plan
    from keras_sid2.training import find_preset

    if _PRESET.value is None:
        raise ValueError("--preset must be given.")
    if _MEMORY.value is not None and not _MEMORY.value > 0:
        raise ValueError(f"--memory must be positive, got {_MEMORY.value}.")
    preset = find_preset(_PRESET.value)
    network = {**preset.network, "remat": _REMAT.value}
    mesh = dataclasses.asdict(Mesh.parse(_MESH.value))
    options = {**mesh, "precision": _PRECISION.value, "accumulation_steps": _ACCUMULATION.value}
    batch = preset.batch_size if _BATCH_SIZE.value is None else _BATCH_SIZE.value
    plan = memory_plan(network, batch_size=batch, **options)
    console = Console()
    console.print(_table(f"{preset.name}, batch {batch}: GiB on each device", plan))
    if _MEMORY.value is not None:
        fits = largest_batch(network, int(_MEMORY.value * _GIB), **options)
        console.print(
            f"Largest batch in {_MEMORY.value:g} GiB: {fits}" if fits else f"No batch fits {_MEMORY.value:g} GiB."
        )


def _table(title: str, plan) -> Table:
    table = Table("part", title=title)
    table.add_column("GiB", justify="right")
    for part in (*plan.__dataclass_fields__, "total"):
        name = "activations (an estimate, up to a third off)" if part == "activations" else part
        table.add_row(name, f"{getattr(plan, part) / _GIB:.2f}")
    return table


def run():
    """The console program."""
    run_program(_main, "sid2-plan")


if __name__ == "__main__":
    run()
