"""Medians, ratios, a table, a JSON file.

A ratio of two cases is the median over rounds of the quotient of their two runs in the same round ("paired"):
runs that follow each other share the machine's good and bad minutes. Beside it stand the quotient of the two
medians and the paired ratio of processor time, which other programs on the machine do not lengthen.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys

import rich.console
import rich.table

HOW = "median over rounds of the quotient of the two runs in one round"


def _by_round(samples: list[dict], backend: str, case: str, clock: str = "seconds") -> dict[int, float]:
    """Milliseconds a unit (a step, an image) in each round."""
    chosen = (s for s in samples if (s["backend"], s["case"]) == (backend, case))
    return {s["round"]: 1000.0 * s[clock] / s["units"] for s in chosen}


def _pairs(samples: list[dict], case: tuple[str, str], reference: tuple[str, str], clock: str) -> list[float]:
    a, b = _by_round(samples, *case, clock), _by_round(samples, *reference, clock)
    return [a[r] / b[r] for r in sorted(a.keys() & b.keys()) if b[r]]


def summary(samples: list[dict]) -> list[dict]:
    """Median, least and greatest milliseconds a unit of each (backend, case), in order of appearance."""
    rows = []
    for backend, case in dict.fromkeys((s["backend"], s["case"]) for s in samples):
        values = list(_by_round(samples, backend, case).values())
        numbers = {"median_ms": statistics.median(values), "min_ms": min(values), "max_ms": max(values)}
        rows.append({"backend": backend, "case": case, "rounds": len(values), **numbers})
    return rows


def ratio(
    samples: list[dict],
    name: str,
    case: tuple[str, str],
    reference: tuple[str, str],
    limit: float | None = None,
) -> dict | None:
    """The paired ratio of two (backend, case), or None where one of them did not run."""
    pairs = _pairs(samples, case, reference, "seconds")
    if not pairs:
        return None
    a, b = _by_round(samples, *case), _by_round(samples, *reference)
    return {
        "name": name,
        "ratio": statistics.median(pairs),
        "min": min(pairs),
        "max": max(pairs),
        "ratio_of_medians": statistics.median(a.values()) / statistics.median(b.values()),
        "ratio_of_cpu_time": statistics.median(_pairs(samples, case, reference, "cpu_seconds")),
        "limit": limit,
        "pairs": pairs,
    }


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def machine() -> dict:
    """The host: processor, cores, Python."""
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = (line for line in info.read_text().splitlines() if line.startswith("model name"))
        model = next(lines, f":{model}").split(":", 1)[1].strip()
    return {"cpu": model, "cores": num_cores(), "python": platform.python_version()}


def heading(program: str, doc: str) -> dict:
    """How a result begins whose numbers are not times: what was asked, by which command, on what.

    `doc` is the program's docstring, whose first paragraph is the question. Paths in the command lose their folders.
    """
    arguments = [argument.rpartition("/")[2] if "=" not in argument else _short(argument) for argument in sys.argv[1:]]
    packages = ("keras", "jax", "jaxlib", "libtpu", "numpy")
    return {
        "program": program,
        "question": doc.split("\n\n")[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{program}.py", *arguments]),
        "machine": machine(),
        "versions": {name: found for name in packages if (found := version(name))},
    }


def begun(program: str, doc: str, settings: dict, path: str | None) -> dict:
    """A result without rows, or with those that the file `path` has; ends the program where these differ in kind."""
    result = {**heading(program, doc), "settings": settings, "rows": []}
    if path is None or not pathlib.Path(path).exists():
        return result
    kept = json.loads(pathlib.Path(path).read_text())
    if any(kept[key] != result[key] for key in ("settings", "versions")):
        raise SystemExit(f"{path} was made with other settings or versions: give another --json.")
    print(f"{path} has {len(kept['rows'])} rows, which are kept.", flush=True)
    return {**result, "rows": kept["rows"]}


def _short(flag: str) -> str:
    name, _, value = flag.partition("=")
    return f"{name}={value.rpartition('/')[2]}"


def version(package: str) -> str | None:
    """Of an installed package; None for one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def document(
    *, program: str, question: str, settings: dict, facts: dict, bench, ratios: list[dict], speed: list[dict] = ()
) -> dict:
    """Everything there is to know about a run, raw times included. `speed`: rows of speed.py."""
    return {
        "program": program,
        "question": question,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "backends": bench.described,
        "not_installed": bench.skipped,
        "settings": settings,
        "facts": facts,
        "how_ratios_are_made": HOW,
        "ratios": ratios,
        "speed": list(speed),
        "summary": summary(bench.samples),
        "failures": bench.failures,
        "samples": bench.samples,
    }


def console() -> rich.console.Console:
    """Wide enough for the tables where the output is a file."""
    found = rich.console.Console()
    return found if found.is_terminal else rich.console.Console(width=120)


def show(document: dict, unit: str):
    """Prints the two tables and what failed."""
    out = console()
    times = rich.table.Table(title=f"{document['program']}: milliseconds {unit}")
    for column in ("backend", "case", "median", "min", "max", "rounds"):
        times.add_column(column, justify="left" if column in ("backend", "case") else "right")
    for row in document["summary"]:
        numbers = (f"{row[key]:.2f}" for key in ("median_ms", "min_ms", "max_ms"))
        times.add_row(row["backend"], row["case"], *numbers, str(row["rounds"]))
    out.print(times)
    if document["ratios"]:
        out.print(_ratios(document["ratios"]))
    for fact, value in document["facts"].items():
        out.print(f"{fact}: {value}", highlight=False)
    for name, message in document["failures"].items():
        out.print(f"FAILED {name}\n{message}", style="red", markup=False)


def _ratios(rows: list[dict]) -> rich.table.Table:
    ratios = rich.table.Table(title=f"ratios: {HOW}")
    for column in ("ratio", "median", "min", "max", "of medians", "cpu time", "at most"):
        ratios.add_column(column, justify="left" if column == "ratio" else "right")
    for row in rows:
        keys = ("ratio", "min", "max", "ratio_of_medians", "ratio_of_cpu_time")
        numbers = (f"{row[key]:.3f}" for key in keys)
        ratios.add_row(row["name"], *numbers, f"{row['limit']:.2f}" if row["limit"] else "")
    return ratios


def write(document: dict, path: str | None):
    """The document as JSON at `path`, whose folder is made."""
    if path:
        target = pathlib.Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(document, indent=1) + "\n")
