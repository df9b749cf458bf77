"""sid2-plan: what training a preset takes on each device, what lies where on a mesh, and which batch fits.

    sid2-plan --preset=sid2_imagenet256_uvit2 --mesh=data:4,fsdp:2 --remat --memory=80 --platform=tpu

By arithmetic alone: nothing is made, compiled or allocated, and no backend is asked. What it says of XLA for CPU is
within a tenth of XLA's own figure, of TPU a coarser estimate (keras_sid2/models/memory.py has the comparisons); GPUs
were not compared. Leave room for what the runtime takes besides.
"""

import importlib.util
import math

from absl import flags
from rich.console import Console
from rich.table import Table

from keras_sid2.bin.common import run_program
from keras_sid2.parallel.rules import Mesh, table

_GIB = 2**30

_PRESET = flags.DEFINE_string("preset", None, "name of the model, see keras_sid2.list_presets()")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images a step, of all devices; the preset's if not given")
_MESH = flags.DEFINE_string(
    "mesh", None, "devices along data, fsdp and model, as data:4,fsdp:2,model:1: prints what lies where, too"
)
_PRECISION = flags.DEFINE_string("precision", "float32", "float32 or mixed_bfloat16")
_REMAT = flags.DEFINE_bool("remat", False, "recompute every block in the backward pass")
_ACCUMULATION = flags.DEFINE_integer("accumulation_steps", 1, "parts of a batch, one after another")
_MEMORY = flags.DEFINE_float("memory", None, "GiB of a device: prints the largest batch that fits")
_PLATFORM = flags.DEFINE_string("platform", None, "cpu or tpu, whose XLA compiles; tpu where libtpu is installed")

_PARTS = {
    "parameters": "parameters",
    "optimizer": "optimizer",
    "averages": "averages",
    "batch": "batch",
    "gradients": "(gradients, all of them)",
    "activations": "(activations, all of them)",
    "temporary": "gradients, activations and work space at the worst moment",
    "total": "total",
}


def _main(_):
    from keras_sid2.models import largest_batch, memory_plan, network_weights
    from keras_sid2.training import find_preset

    if _PRESET.value is None:
        raise ValueError("--preset must be given.")
    if _MEMORY.value is not None and not 0 < _MEMORY.value < math.inf:
        raise ValueError(f"--memory must be positive and finite, got {_MEMORY.value}.")
    preset = find_preset(_PRESET.value)
    network = {**preset.network, "remat": _REMAT.value or preset.network.get("remat", False)}
    options = _options()
    batch = preset.batch_size if _BATCH_SIZE.value is None else _BATCH_SIZE.value
    plan = memory_plan(network, batch_size=batch, **options)
    console = Console()
    if _MESH.value is not None:
        print(table(network_weights(**network), options["mesh"]).grouped() + "\n")
    console.print(
        f"{preset.name}, batch {batch}, on {options['mesh']}, compiled by XLA for {options['platform']}", soft_wrap=True
    )
    console.print(_table(plan))
    if _REMAT.value and options["platform"] == "cpu":
        console.print("XLA for CPU undoes --remat; see --platform=tpu.")
    if _MEMORY.value is not None:
        fits = largest_batch(network, int(_MEMORY.value * _GIB), **options)
        console.print(
            f"Largest batch in {_MEMORY.value:g} GiB: {fits}" if fits else f"No batch fits {_MEMORY.value:g} GiB."
        )


def _options() -> dict:
    """The arguments of memory_plan that flags set."""
    installed = "tpu" if importlib.util.find_spec("libtpu") else "cpu"
    return {
        "mesh": Mesh() if _MESH.value is None else Mesh.parse(_MESH.value),
        "precision": _PRECISION.value,
        "accumulation_steps": _ACCUMULATION.value,
        "platform": installed if _PLATFORM.value is None else _PLATFORM.value,
    }


def _table(plan) -> Table:
    unit, name = (_GIB, "GiB") if plan.total >= _GIB else (2**20, "MiB")
    rows = Table("part")
    rows.add_column(f"{name} a device", justify="right")
    for part, title in _PARTS.items():
        rows.add_row(title, f"{getattr(plan, part) / unit:.2f}")
    return rows


def run():
    """The console program."""
    run_program(_main, "sid2-plan")


if __name__ == "__main__":
    run()
