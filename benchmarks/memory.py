"""Question: how much memory do activations take, with rematerialisation and without, and with a skip for every block?

    python benchmarks/memory.py --platform=tpu --json=result.json          # pip install libtpu; needs no TPU
    python benchmarks/memory.py --platform=cpu --json=result.json

Expected: on TPU, recomputing blocks takes at most half of the temporary memory of the train step at no more than 1.35
times the multiply-adds. XLA for CPU removes the barriers that hold a recomputation back, so there it saves nothing.

Nothing is allocated and nothing runs: the step that `fit` would run is compiled, and XLA says how much temporary memory
it needs (`memory_analysis`): activations, the gradients that are alive with them, and work space. Weights, optimizer
and averages are arguments and not in it. Multiply-adds are counted in the compiled program (hlo.py), so what is
computed twice counts twice. "forward" is one evaluation of the network, as in sampling.

The skip per block (skips.py) is an option of this program, not of the library. --blocks=1 leaves one block of each kind
and level, for a quick look; --json is written after every case, and a second start keeps the cases that are there.
"""

import time

import compiling
import hlo
import report
import rich.console
import rich.table
from absl import app, flags

FLAGS = flags.FLAGS
CASES = {  # program, remat, skip for every block
    "train": ("train", False, False),
    "train, remat": ("train", True, False),
    "train, skip per block": ("train", False, True),
    "train, skip per block, remat": ("train", True, True),
    "forward": ("forward", False, False),
    "forward, skip per block": ("forward", False, True),
}
RATIOS = {  # what is compared, and what is wanted at most of memory and of multiply-adds
    "remat / none": ("train, remat", "train", 0.5, 1.35),
    "skip per block / residual": ("train, skip per block", "train", None, None),
    "skip per block / residual, both with remat": ("train, skip per block, remat", "train, remat", None, None),
    "skip per block / residual, forward": ("forward, skip per block", "forward", None, None),
}


def _define_flags():
    flags.DEFINE_enum("platform", "tpu", ["cpu", "tpu"], "The compiler.")
    flags.DEFINE_string("topology", "v5p:2x2x1", "The TPU, with --platform=tpu; one of its devices is compiled for.")
    flags.DEFINE_string("preset", "sid2_imagenet256_uvit2", "Whose network.")
    flags.DEFINE_integer("batch_size", 8, "Images a step.", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16"], "The network's dtype policy.")
    flags.DEFINE_integer("blocks", None, "At most so many blocks of each level; default: the preset's.", lower_bound=1)
    flags.DEFINE_multi_enum("case", list(CASES), list(CASES), "What to compile; may be given several times.")
    flags.DEFINE_string("json", None, "Where to write the result, and to go on with it.")


# -- compiling -----------------------------------------------------------------------------------------------------


def _network(skip_per_block: bool, remat: bool):
    import skips

    import keras_sid2

    settings = dict(_preset().network, remat=remat, dtype=FLAGS.precision)
    if FLAGS.blocks:
        settings["levels"] = [{**level, "blocks": min(FLAGS.blocks, level["blocks"])} for level in settings["levels"]]
    return (skips.SkipPerBlockUViT if skip_per_block else keras_sid2.ResidualUViT)(**settings)


def _preset():
    from keras_sid2.training import find_preset

    return find_preset(FLAGS.preset)


def _compiled(case: str, shapes: compiling.Shapes):
    """(the compiled program of a case, parameters of its network)."""
    import keras_sid2

    program, remat, skip_per_block = CASES[case]
    preset = _preset()
    network = _network(skip_per_block, remat)
    if program == "forward":
        return compiling.compiled_forward(network, shapes, FLAGS.batch_size), network.count_params()
    parts = {name: getattr(preset, name) for name in ("schedule", "weighting", "label_dropout", "recipe")}
    model = keras_sid2.SiD2Model(network, **parts)
    model.compile()
    return compiling.compiled_train_step(model, shapes, FLAGS.batch_size), network.count_params()


def _row(case: str, shapes: compiling.Shapes) -> dict:
    start = time.perf_counter()
    compiled, parameters = _compiled(case, shapes)
    memory = compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{name}_size_in_bytes") for name in ("temp", "argument", "output", "alias")}
    return {
        "case": case,
        "parameters": parameters,
        **{f"{name}_bytes": size for name, size in sizes.items()},
        "multiply_adds": hlo.Program(compiled.as_text()).multiply_adds(),
        "flops_by_xla": compiled.cost_analysis().get("flops"),
        "seconds_of_compiling": time.perf_counter() - start,
    }


# -- the record ----------------------------------------------------------------------------------------------------


def _begun() -> dict:
    """The result so far: that of --json, or one without rows."""
    names = ("platform", "topology", "preset", "batch_size", "precision", "blocks")
    settings = {name: FLAGS[name].value for name in names if name != "topology" or FLAGS.platform == "tpu"}
    return report.begun("memory", __doc__, settings, FLAGS.json)


def _ratios(rows: dict[str, dict]) -> list[dict]:
    """The comparisons whose two cases are there."""
    found = []
    for name, (case, reference, memory, multiply_adds) in RATIOS.items():
        if {case, reference} <= rows.keys():
            quotients = {key: rows[case][key] / rows[reference][key] for key in ("temp_bytes", "multiply_adds")}
            found.append({"name": name, **quotients, "memory_at_most": memory, "multiply_adds_at_most": multiply_adds})
    return found


def _show(result: dict):
    console = rich.console.Console()
    console = console if console.is_terminal else rich.console.Console(width=120)
    settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items() if value is not None)
    table = rich.table.Table(title=f"memory: {settings}")
    for column in ("case", "temporary memory, GB", "multiply-adds, G", "arguments, GB", "compiling, s"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in result["rows"]:
        numbers = (row["temp_bytes"] / 1e9, row["multiply_adds"] / 1e9, row["argument_bytes"] / 1e9)
        table.add_row(row["case"], *(f"{n:.3f}" for n in numbers), f"{row['seconds_of_compiling']:.0f}")
    console.print(table)
    for row in result["ratios"]:
        limits = [
            ("memory", "temp_bytes", "memory_at_most"),
            ("multiply-adds", "multiply_adds", "multiply_adds_at_most"),
        ]
        texts = (
            f"{what} {row[key]:.3f}" + (f" (at most {row[most]})" if row[most] else "") for what, key, most in limits
        )
        console.print(f"{row['name']}: {', '.join(texts)}", highlight=False)


def main(argv):
    del argv
    from keras_sid2.parallel.mesh import Mesh

    devices = compiling.devices(FLAGS.platform, FLAGS.topology, 1)
    result = _begun()
    for case in [case for case in FLAGS.case if case not in {row["case"] for row in result["rows"]}]:
        print(f"compiling: {case}", flush=True)
        with compiling.shapes_on(Mesh(), devices, FLAGS.platform) as shapes:
            result["rows"].append(_row(case, shapes))
        report.write(result, FLAGS.json)
    result["ratios"] = _ratios({row["case"]: row for row in result["rows"]})
    report.write(result, FLAGS.json)
    _show(result)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
