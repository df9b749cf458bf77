"""Question: does the memory that `pipelines.prepare` takes depend on how many images there are, and how fast is it?

    python benchmarks/preparing.py --images=2000,20000 --workers=1,2 --json=result.json

Expected: peak memory with 20,000 images at most 1.2 times that with 2,000, of the process that calls `prepare` and of
each worker: one example a worker, and about 500 bytes an image for the listing.

Every run is a process of its own that prepares a folder of small JPEGs (`image_folder`, stored as 64 x 64). Peaks are
Linux's VmHWM: ru_maxrss of a child begins at what its parent used when it started it, so the workers' would be too
high. KERAS_BACKEND does not matter: no model is there.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import report
import rich.console
import rich.table
import textures
from absl import app, flags

FLAGS = flags.FLAGS
LIMIT = 1.2
SIDE = 64
ROOT = pathlib.Path(__file__).resolve().parent.parent
PEAKS = {"peak_mb": "process", "worker_mb": "largest worker"}


def _define_flags():
    flags.DEFINE_list("images", ["2000", "20000"], "Numbers of images; the ratios are of the last and the first.")
    flags.DEFINE_list("workers", ["1", "2"], "Numbers of processes; 1: the one that calls prepare does the work.")
    flags.DEFINE_integer("rounds", 1, "Every case runs once in each round.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("source", None, "Set by the program itself: the folder that is to be prepared.")
    flags.DEFINE_bool("worker", False, "Set by the program itself, in the processes that it starts.")
    flags.register_validator("images", lambda values: all(v.isdigit() and int(v) for v in values))
    flags.register_validator("workers", lambda values: all(v.isdigit() and int(v) for v in values))


# -- one run, in a process of its own ----------------------------------------------------------------------------


def _megabytes(pid: int | str, field: str) -> float | None:
    """VmHWM (the peak) or VmRSS (now) of a process; None where Linux does not say."""
    status = pathlib.Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else ()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _children() -> list[str]:
    """Processes that this one has started and that are still there."""
    return [pid for file in pathlib.Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]


def _largest_worker() -> float | None:
    """The peak of the largest of joblib's workers, which stay for a while when their work is done."""
    peaks = [_megabytes(pid, "VmHWM") for pid in _children()]
    return max((peak for peak in peaks if peak is not None), default=None)


def _end_workers():
    """The system counts what children used when they have ended."""
    from joblib.externals import loky

    loky.get_reusable_executor().shutdown(wait=True)


def _prepare(workers: int) -> dict:
    import pipelines

    with tempfile.TemporaryDirectory() as data_dir:
        start = time.perf_counter()
        directory = pipelines.prepare("image_folder", data_dir, source=FLAGS.source, image_size=SIDE, workers=workers)
        seconds = time.perf_counter() - start
        prepared = pipelines.describe(directory)
    worker_mb = _largest_worker() if workers > 1 else None
    if workers > 1:
        _end_workers()
    used = {who: resource.getrusage(getattr(resource, f"RUSAGE_{who}")) for who in ("SELF", "CHILDREN")}
    return {
        "seconds": seconds,
        "cpu_seconds": sum(u.ru_utime + u.ru_stime for u in used.values()),
        "peak_mb": _megabytes("self", "VmHWM") or used["SELF"].ru_maxrss / 1024,
        "worker_mb": worker_mb,
        "ru_maxrss_mb": {who.lower(): u.ru_maxrss / 1024 for who, u in used.items()},
        "prepared": str(prepared),
    }


# -- the parent ---------------------------------------------------------------------------------------------------


def _run(source: pathlib.Path, workers: int) -> dict:
    command = [sys.executable, __file__, "--worker", f"--source={source}", f"--workers={workers}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.splitlines()[-20:]))
    return json.loads(done.stdout.splitlines()[-1])


def _measure(root: pathlib.Path) -> tuple[list[dict], dict[str, str]]:
    """Every number of images with every number of workers, once a round and every other round backwards."""
    samples, failures = [], {}
    counts = [int(n) for n in FLAGS.images]
    for count in counts:
        print(f"making {count} images", flush=True)
        textures.write_tree(root / str(count), count)
    plan = [(count, int(workers)) for workers in FLAGS.workers for count in counts]
    for number in range(FLAGS.rounds):
        for count, workers in plan if number % 2 == 0 else plan[::-1]:
            print(f"preparing {count} images, workers={workers}", flush=True)
            case = {"images": count, "workers": workers, "round": number}
            try:
                samples.append({**case, **_run(root / str(count), workers)})
            except RuntimeError as error:
                failures[f"{count} images, workers={workers}"] = str(error)
    return samples, failures


def _median(samples: list[dict], count: int, workers: int, key: str) -> float | None:
    values = [s[key] for s in samples if (s["images"], s["workers"]) == (count, workers) and s[key] is not None]
    return statistics.median(values) if values else None


def _summary(samples: list[dict]) -> list[dict]:
    rows = []
    for count, workers in dict.fromkeys((s["images"], s["workers"]) for s in samples):
        medians = {key: _median(samples, count, workers, key) for key in ("seconds", *PEAKS)}
        rows.append({"images": count, "workers": workers, "images_a_second": count / medians["seconds"], **medians})
    return rows


def _ratios(samples: list[dict]) -> list[dict]:
    """Peaks with the last number of images by those with the first."""
    first, last = int(FLAGS.images[0]), int(FLAGS.images[-1])
    rows = []
    for workers in map(int, FLAGS.workers):
        for key, who in PEAKS.items():
            large, small = (_median(samples, count, workers, key) for count in (last, first))
            if large and small:
                name = f"peak of the {who}, workers={workers}: {last:,} images / {first:,}"
                more = 2**20 * (large - small) / (last - first) if last > first else 0.0
                rows.append({"name": name, "ratio": large / small, "bytes_an_image_more": more, "limit": LIMIT})
    return rows


def _show(result: dict):
    console = rich.console.Console()
    console = console if console.is_terminal else rich.console.Console(width=120)
    table = rich.table.Table(title="preparing: medians over rounds")
    for column in ("images", "workers", "seconds", "images/s", *(f"peak of the {who}, MiB" for who in PEAKS.values())):
        table.add_column(column, justify="right")
    for row in result["summary"]:
        numbers = (row["seconds"], row["images_a_second"], *(row[key] for key in PEAKS))
        cells = ("" if n is None else f"{n:.1f}" for n in numbers)
        table.add_row(f"{row['images']:,}", str(row["workers"]), *cells)
    console.print(table)
    ratios = rich.table.Table(title="ratios of peaks")
    for column in ("ratio", "", "at most", "bytes more an image"):
        ratios.add_column(column, justify="left" if column == "ratio" else "right")
    for row in result["ratios"]:
        ratios.add_row(row["name"], f"{row['ratio']:.3f}", f"{row['limit']:.2f}", f"{row['bytes_an_image_more']:.0f}")
    console.print(ratios)
    for name, message in result["failures"].items():
        console.print(f"FAILED {name}\n{message}", style="red", markup=False)


def main(argv):
    del argv
    if FLAGS.worker:
        print(json.dumps(_prepare(int(FLAGS.workers[0]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        samples, failures = _measure(pathlib.Path(folder))
    result = {
        "program": "preparing",
        "question": __doc__.split("\n\n")[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow_datasets", "pillow", "joblib")},
        "settings": {name: FLAGS[name].value for name in ("images", "workers", "rounds")} | {"image_size": SIDE},
        "ratios": _ratios(samples),
        "summary": _summary(samples),
        "failures": failures,
        "samples": samples,
    }
    _show(result)
    report.write(result, FLAGS.json)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
