"""How fast a case is beside what its device can do: product rate, peak, memory, time to the first step, kernels.

    model flops       6 multiply-adds an image for a training step (2 forward, 4 backward), 2 for an evaluation of the
                      network: those of the network's own products, whatever else a step does or computes twice
    of products       model flops a second to what a large matrix product reaches on the same device, in the same
                      process and dtype (8192 x 8192; 1024 on a CPU)
    of peak           the same to the data sheet's dense bfloat16, for cards in keras_sid2/bin/goodput.py

`facts_case` and what it calls run in workers, `rows` and `show` in the parent.
"""

import statistics
import sys
import time

import harness
import numpy as np
import report
import rich.table
from absl import flags

FLAGS = flags.FLAGS
DTYPES = ("float32", "mixed_bfloat16")
first_seconds: dict[str, float] = {}  # by case: from compile() to the end of the first step, or of the first images


# -- the worker's side -------------------------------------------------------------------------------------


def facts_case(multiply_adds, profiled=None):
    """A case that is no measurement: what `rows` needs. `profiled` is (case, steps a run, run), for --profile.

    multiply_adds() are those of a forward pass of one image.
    """

    def run() -> dict:
        from keras_sid2.backend import platform
        from keras_sid2.bin.goodput import peak_of

        peak_bytes, kind = peak_memory(), platform.device_kind()
        facts = {
            "device": kind,
            "dtype": FLAGS.dtype,
            "multiply_adds": multiply_adds(),
            "first_seconds": dict(first_seconds),
            "peak_bytes": peak_bytes,
            "products_per_second": product_rate("bfloat16" if FLAGS.dtype == "mixed_bfloat16" else "float32"),
            "peak_per_second": peak_of(kind, 1) if FLAGS.dtype == "mixed_bfloat16" else None,
            "tensorflow_loaded": sorted({"tensorflow", "tensorflow_datasets"} & set(sys.modules)),
        }
        if profiled is not None:
            import kernels

            facts["kernels"] = kernels.profile(*profiled)
        return facts

    return run


def product_rate(dtype: str) -> float:
    """Operations a second, 2 a multiply-add, of products of large square matrices: the best of three tries."""
    from keras import ops

    size = 1024 if on_cpu() else 8192
    rng = np.random.default_rng(0)
    a, b = (ops.cast(rng.standard_normal((size, size), dtype="float32"), dtype) for _ in range(2))

    def seconds(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            product = ops.matmul(a, b)
        harness.block(product[0, 0])
        return (time.perf_counter() - start) / count

    seconds(2)  # compiles, and wakes the device
    count = int(min(50, max(1, 0.2 / seconds(1))))
    return 2.0 * size**3 / min(seconds(count) for _ in range(3))


def on_cpu() -> bool:
    from keras_sid2.backend import platform

    return platform.device_kind().lower() == "cpu"


def peak_memory() -> int | None:
    """Bytes that this process has held on the device at most, as the backend tells it; None where it does not."""
    from keras_sid2.backend import platform

    if on_cpu():
        return None
    if platform.name() == "jax":
        return (platform.jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if platform.name() == "torch":
        return platform.torch.cuda.max_memory_allocated()
    return platform.tf.config.experimental.get_memory_info("GPU:0")["peak"]


# -- the parent's side -------------------------------------------------------------------------------------


def define_flags():
    flags.DEFINE_enum("dtype", "float32", DTYPES, "The network's dtype policy.")
    flags.DEFINE_bool("profile", False, "Kernels by time (jax and torch), after the measurement.")


def rows(bench: harness.Bench, facts: dict[str, dict], factor: int, images: int, evaluations: int = 1) -> list[dict]:
    """A row for each (backend, case) of `facts`, {backend: {case: what facts_case answered}}.

    A unit of a sample is `images` images in training and one in sampling; factor is the operations of a multiply-add,
    6 or 2, and evaluations are those of the network an image.
    """
    return [
        _row(backend, case, found, bench.samples, factor * evaluations, images)
        for backend, by_case in facts.items()
        for case, found in by_case.items()
        if found and bench.ran(backend, case)
    ]


def _row(backend: str, case: str, found: dict, samples: list[dict], factor: int, images: int) -> dict:
    own = [s for s in samples if (s["backend"], s["case"]) == (backend, case)]
    seconds = statistics.median(s["seconds"] / s["units"] for s in own)
    flops = factor * found["multiply_adds"] * images / seconds
    peak = found["peak_per_second"]
    return {
        "backend": backend,
        "case": case,
        "unit_ms": 1e3 * seconds,
        "images_per_second": images / seconds,
        "model_flops_per_second": flops,
        "of_products": flops / found["products_per_second"],
        "of_peak": flops / peak if peak else None,
        **{key: value for key, value in found.items() if key not in ("first_seconds", "kernels")},
        "first_seconds": found["first_seconds"].get(case),
        **({"kernels": found["kernels"]} if found.get("kernels", {}).get("case") == case else {}),
    }


def _text(value: float | None, scale: float = 1.0, digits: int = 1) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"


def cells(row: dict) -> list[str]:
    """A row as the tables show it, without its name; "-" is what is not known."""
    return [
        _text(row["unit_ms"]),
        _text(row["images_per_second"]),
        _text(row["model_flops_per_second"], 1e-12, 3),
        _text(row["of_products"], digits=3),
        _text(row["of_peak"], digits=3),
        _text(row["peak_bytes"], 2**-30),
        _text(row["first_seconds"]),
    ]


COLUMNS = ("ms", "images/s", "model TFLOP/s", "of products", "of peak", "memory, GiB", "first, s")


def show(found: list[dict], unit: str):
    """Prints the table and, where there are any, kernels."""
    console = report.console()
    described = {(row["backend"], row["device"], row["dtype"], row["products_per_second"]) for row in found}
    for backend, device, dtype, products in sorted(described):
        console.print(f"{backend}: {device}, {dtype}, products {products / 1e12:.3f} TFLOP/s", highlight=False)
    table = rich.table.Table(title=f"speed, ms {unit}")
    for column in ("backend", "case", *COLUMNS):
        table.add_column(column, justify="left" if column in ("backend", "case") else "right")
    for row in found:
        table.add_row(row["backend"], row["case"], *cells(row))
    console.print(table)
    for row in found:
        if "kernels" in row:
            _show_kernels(console, row)


def _show_kernels(console, row: dict):
    kernels = row["kernels"]
    console.print(f"{row['backend']}: {row['case']}: {kernels['what']}, ms {kernels['unit']}", highlight=False)
    for family, milliseconds in kernels["families"].items():
        console.print(f"  {milliseconds:9.3f} {family}", highlight=False)
    for kernel in kernels["longest"]:
        line = f"  {kernel['ms']:9.3f} {kernel['count']:7.1f}x {kernel['name'][:100]}"
        console.print(line, highlight=False, markup=False)
