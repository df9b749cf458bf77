"""Images a second as bars, ours in another colour: result.png beside the result.json of peers.py or gpu.py, who draw
them themselves where matplotlib is installed. On a CPU they are those of a second of processor time of all threads,
which other programs on the machine hardly lengthen.

    python benchmarks/bars.py result.json
"""

import importlib.util
import json
import pathlib
import statistics
import sys

_OURS, _OTHERS = "#1f6fb4", "#b9bec4"


def panels(document: dict) -> dict[str, list[tuple[str, float, bool]]]:
    """(name, images a second, whether it is ours) of each case that ran, fastest first, by what compares: in a result
    of gpu.py what is done, preset and batch."""
    found: dict[str, list] = {}
    for case in document.get("cases", ()):
        (kind, what), of = case["name"].split(", ", 1)[0].split(" ", 1), case["name"].split(", ", 1)[1]
        if "row" in case:
            name, own = (f"ours, {what}", True) if what in ("jax", "torch") else (what, False)
            found.setdefault(f"{kind}, {of}", []).append((name, case["row"]["images_per_second"], own))
    for row in document.get("speed", ()):
        name = f"{row['case']}, {row['backend']}"
        found.setdefault("train", []).append((name, _speed(document, row), row["case"] == "ours"))
    return {panel: sorted(bars, key=lambda bar: -bar[1]) for panel, bars in found.items()}


def _on_cpu(row: dict) -> bool:
    return row["device"].lower() == "cpu"


def _speed(document: dict, row: dict) -> float:
    """Images a second of a row of speed.py."""
    if not _on_cpu(row):
        return row["images_per_second"]
    own = [s for s in document["samples"] if (s["backend"], s["case"]) == (row["backend"], row["case"])]
    seconds = statistics.median(s["cpu_seconds"] / s["units"] for s in own)
    return row["images_per_second"] * row["unit_ms"] / 1e3 / seconds


def draw(document: dict, path: str | None) -> pathlib.Path | None:
    """Draws them beside the result at `path`; None where nothing ran, or without a path, or without matplotlib."""
    found = panels(document)
    if path is None or not found:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        print("Not installed, no bars are drawn: matplotlib.", flush=True)
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [len(bars) for bars in found.values()]
    size = (7.5, 0.9 * len(found) + 0.34 * sum(counts))
    figure, rows = pyplot.subplots(
        len(found), 1, figsize=size, height_ratios=counts, layout="constrained", squeeze=False
    )
    for axes, (panel, bars) in zip(rows[:, 0], found.items(), strict=True):
        _panel(axes, panel, bars)
    figure.suptitle(_of(document), fontsize=9)
    target = pathlib.Path(path).with_suffix(".png")
    figure.savefig(target, dpi=120)
    pyplot.close(figure)
    return target


def _panel(axes, name: str, bars: list[tuple[str, float, bool]]):
    names, speeds, ours = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), speeds, color=[_OURS if own else _OTHERS for own in ours])
    axes.bar_label(drawn, [f"{speed:.3g}" for speed in speeds], padding=3, fontsize=8)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(f"{name}: images/s", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _of(document: dict) -> str:
    """Device, dtype, and how large a batch was."""
    rows = [*document.get("speed", ()), *(case["row"] for case in document.get("cases", ()) if "row" in case)]
    device = f"{document['machine']['cpu']}, processor time" if _on_cpu(rows[0]) else rows[0]["device"]
    settings = document.get("settings", {})
    network = settings.get("preset") or settings.get("size")
    batch = document.get("facts", {}).get("batch size")
    return ", ".join(filter(None, (device, rows[0]["dtype"], network, batch and f"batch {batch}")))


def main(paths: list[str]):
    if not paths:
        raise SystemExit("bars.py needs the .json files of peers.py or gpu.py.")
    for path in paths:
        print(draw(json.loads(pathlib.Path(path).read_text()), path) or f"{path} has no case that ran.")


if __name__ == "__main__":
    main(sys.argv[1:])
