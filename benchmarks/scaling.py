"""Question: how many bytes do devices send each other in a training step, and how long does that take, on 1 to 1024?

    python benchmarks/scaling.py --json=result.json --plot=result.png

Expected: data parallel sends 2 (n - 1) / n times the bytes of the gradients, whatever the batch, and so costs the same
share of the time on 1024 devices as on 16.

Weak scaling on paper: every device has --batch_per_device images, whatever their number. The step that `fit` would run
is compiled for each mesh, over virtual CPU devices (or for a TPU that is not here, --platform=tpu, with libtpu), and
its collectives are read from the program (hlo.py has the formulas of rings). Nothing is allocated and nothing runs.

Only --devices are compiled. Meshes of the numbers between follow from the next larger one that differs in the length of
its data axis alone, by the same formulas; the plot has no marker there. For data parallel that is exact. With fsdp or
model XLA may choose other collectives on another mesh, so where a followed mesh was compiled too, the two are printed
side by side. fsdp alone on 8 devices is that of data x fsdp 8.

Time is arithmetic. Computing: multiply-adds of the program, at --utilisation of the peak. Sending: bytes over the speed
of a link, or that of the network where a group of devices spans more than one domain of fast links. Latency is not in
it, nor what other users of a network do. "One after the other" is the sum of the two, "overlapped" the larger: a real
run lies between them.

XLA for CPU sums gradients by all-reduce where XLA for TPU and GPU also has reduce-scatter, half the bytes, and XLA for
TPU gathers float32 weights as bfloat16: for fsdp, the bytes here are the upper end.

--json is written after every row, and a second start keeps the rows that are there.
"""

import time

import compiling
import hlo
import report
import rich.console
import rich.table
import scaling_rules as rules
from absl import app, flags

FLAGS = flags.FLAGS


# Peaks are of bfloat16, without sparsity. TPU v5p: 459 TFLOP/s, six links of 90 GB/s out (the JAX scaling book's
# table); a pod of 8960 is one domain. H100 SXM: 989 TFLOP/s, NVLink 450 GB/s out among 8 (NVIDIA's data sheet); then
# one network card of 400 or 100 Gb/s for each GPU.
SYSTEMS = ["TPU v5p:459:540:8960:25", "H100, 400 Gb/s:989:450:8:50", "H100, 100 Gb/s:989:450:8:12.5"]


def _define_flags():
    flags.DEFINE_string("preset", "sid2_imagenet256_uvit2", "Whose model.")
    flags.DEFINE_list("devices", [str(2**k) for k in range(11)], "Numbers of devices, powers of two.")
    flags.DEFINE_multi_enum(
        "strategy", list(rules.STRATEGIES), list(rules.STRATEGIES), "Meshes; may be given several times."
    )
    flags.DEFINE_integer("batch_per_device", 8, "Images a step on each device.", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", ["float32", "mixed_bfloat16"], "The network's dtype policy.")
    flags.DEFINE_enum("platform", "cpu", ["cpu", "tpu"], "The compiler.")
    flags.DEFINE_string("topology", "v5p:8x8x16", "The TPU, with --platform=tpu.")
    flags.DEFINE_multi_string("system", SYSTEMS, "name:TFLOP/s:link GB/s:devices in a domain:network GB/s.")
    flags.DEFINE_float(
        "utilisation", 0.4, "Share of the peak that computing reaches.", lower_bound=0.0, upper_bound=1.0
    )
    flags.DEFINE_string("json", None, "Where to write the result, and to go on with it.")
    flags.DEFINE_string("plot", None, "Where to draw it, a PNG file; needs matplotlib.")
    flags.register_validator(
        "devices", lambda values: all(v.isdigit() and int(v).bit_count() == 1 for v in values), "powers of two"
    )


# -- compiling -----------------------------------------------------------------------------------------------------


def _compiled(mesh, devices: list):
    """The compiled train step of the preset on `mesh`."""
    import keras_sid2
    from keras_sid2.training import find_preset

    with compiling.shapes_on(mesh, devices, FLAGS.platform) as shapes:
        model = find_preset(FLAGS.preset).build(keras_sid2.SiD2Model, dtype=FLAGS.precision)
        model.compile()
        options = compiling.UNOPTIMIZED if FLAGS.platform == "cpu" else None
        compiled = compiling.compiled_train_step(model, shapes, FLAGS.batch_per_device * mesh.size, options)
        return compiled, model.network.count_params()


def _row(strategy: str, count: int, devices: list) -> dict:
    from keras_sid2.parallel.mesh import Mesh

    start, mesh = time.perf_counter(), Mesh(**rules.mesh_sizes(strategy, count))
    compiled, parameters = _compiled(mesh, devices)
    program = hlo.Program(compiled.as_text())
    sent = hlo.wire_bytes(program.collectives())
    return {
        "strategy": strategy,
        "devices": count,
        "mesh": str(mesh),
        "parameters": parameters,
        "sent": [dict(zip(("kind", "group", "span", "bytes"), (*key, sent[key]), strict=True)) for key in sorted(sent)],
        "multiply_adds": program.multiply_adds(),
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "argument_bytes": compiled.memory_analysis().argument_size_in_bytes,
        "seconds_of_compiling": time.perf_counter() - start,
    }


# -- the record ----------------------------------------------------------------------------------------------------


def _begun() -> dict:
    """The result so far: that of --json, or one without rows."""
    names = ("preset", "batch_per_device", "precision", "platform", "topology")
    settings = {name: FLAGS[name].value for name in names if name != "topology" or FLAGS.platform == "tpu"}
    return report.begun("scaling", __doc__, settings, FLAGS.json)


def _show(result: dict):
    console = rich.console.Console()
    console = console if console.is_terminal else rich.console.Console(width=120)
    settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items())
    console.print(f"scaling: {settings}, utilisation {result['utilisation']}", highlight=False)
    compiled = {(row["strategy"], row["devices"]): row["mesh"] for row in result["rows"]}
    table = rich.table.Table(title="what a device sends in a step; milliseconds computing + sending; share of sending")
    for column in ("system", "strategy", "devices", "compiled", "MB sent", "ms", "one after the other", "overlapped"):
        table.add_column(column, justify="left" if column in ("system", "strategy") else "right")
    for row in result["times"]:
        key = row["strategy"], row["devices"]
        spent = f"{1e3 * row['seconds_computing']:.1f} + {1e3 * row['seconds_sending']:.1f}"
        parts = (f"{row[name]:.1%}" for name in ("share_not_overlapped", "share_overlapped"))
        mark = "yes" if key in compiled else ""
        table.add_row(row["system"], key[0], str(key[1]), mark, f"{row['bytes_sent'] / 1e6:.1f}", spent, *parts)
    console.print(table)
    for check in result["checks"]:
        text = "{strategy}, {devices} devices: {compiled:.0f} bytes compiled, {followed:.0f} follow from a larger mesh"
        console.print(text.format(**check), highlight=False)


def _plot(result: dict):
    """The share of a step that goes into sending, a panel for each system and a line for each strategy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    from keras_sid2.io.atomic import atomic_write

    systems = list(dict.fromkeys(time["system"] for time in result["times"]))
    compiled = {(row["strategy"], row["devices"]) for row in result["rows"]}
    figure, panels = pyplot.subplots(
        1, len(systems), figsize=(4.2 * len(systems), 4.4), layout="constrained", sharey=True, squeeze=False
    )
    for axes, system in zip(panels[0], systems, strict=True):
        for color, strategy in enumerate(dict.fromkeys(row["strategy"] for row in result["rows"])):
            line = [t for t in result["times"] if (t["system"], t["strategy"]) == (system, strategy)]
            line.sort(key=lambda time: time["devices"])
            x, marked = [t["devices"] for t in line], [(strategy, t["devices"]) in compiled for t in line]
            for key, style, label in (("share_not_overlapped", "-", strategy), ("share_overlapped", ":", None)):
                y, look = [t[key] for t in line], {"color": f"C{color}", "marker": "o", "markersize": 4}
                axes.plot(x, y, style, label=label, markevery=marked, **look)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
        axes.set(title=system, xlabel="devices", ylim=(0, 1))
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("sending, share of a step (dotted: overlapped)")
    panels[0][0].legend(fontsize=8)
    preset, batch = result["settings"]["preset"], result["settings"]["batch_per_device"]
    figure.suptitle(f"{preset}, {batch} images a device, {result['utilisation']:.0%} of the peak")
    with atomic_write(FLAGS.plot) as temporary:
        figure.savefig(temporary, dpi=150)


def main(argv):
    del argv
    systems = [rules.System.parse(text) for text in FLAGS.system]
    counts = [int(count) for count in FLAGS.devices]
    result = _begun()
    devices = compiling.devices(FLAGS.platform, FLAGS.topology, max(counts))
    done = {(row["strategy"], row["devices"]) for row in result["rows"]}
    for case in [(s, n) for n in counts for s in FLAGS.strategy if (s, n) not in done]:
        print("compiling: {}, {} devices".format(*case), flush=True)
        result["rows"].append(_row(*case, devices))
        report.write(result, FLAGS.json)
    result["utilisation"], result["systems"] = FLAGS.utilisation, FLAGS.system
    result["checks"] = rules.checks(result["rows"])
    result["times"] = rules.times(rules.filled(result["rows"]), systems, FLAGS.utilisation)
    report.write(result, FLAGS.json)
    _show(result)
    if FLAGS.plot:
        _plot(result)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
