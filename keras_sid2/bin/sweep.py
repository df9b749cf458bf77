"""The sweep of sid2-evaluate: scale x interval x steps x averaged or raw weights, on a few thousand images each."""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable

from absl import flags

from keras_sid2.files import written_whole


def define(values: flags.FlagValues = flags.FLAGS):
    """Defines the sweep's flags."""
    add = {"flag_values": values}
    flags.DEFINE_bool("sweep", False, "measure every combination of the lists below; other flags hold for all", **add)
    flags.DEFINE_list("sweep_scales", ["1", "1.5", "2", "3"], "guidance scales", **add)
    flags.DEFINE_list("sweep_intervals", ["all"], "guidance intervals in logsnr, as all,-3:5", **add)
    flags.DEFINE_list("sweep_steps", None, "numbers of sampler steps; --num_steps if not given", **add)
    flags.DEFINE_list("sweep_ema", ["true"], "true, false or both: averaged and raw weights", **add)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination; `options` are those of Drawing."""

    scale: float
    interval: tuple[float, float] | None
    num_steps: int
    use_ema: bool
    options: dict = dataclasses.field(compare=False)

    def name(self) -> str:
        interval = "all" if self.interval is None else "{:g}:{:g}".format(*self.interval)
        weights = "averaged" if self.use_ema else "raw"
        guided = f"scale {self.scale:g} in {interval}" if self.scale != 1.0 else "no guidance"
        return f"{guided}, {self.num_steps} steps, {weights} weights"


def settings(values, options: dict) -> list[Setting]:
    """All combinations, each once: without guidance the interval says nothing.

    Raises ValueError for what is no list, and ImportError without matplotlib, before any work.
    """
    from keras_sid2 import Guidance

    _refuse_what_is_swept(values)
    _pyplot()
    scales = _parsed("sweep_scales", values.sweep_scales, float)
    intervals = _parsed("sweep_intervals", values.sweep_intervals, _interval)
    steps = _parsed("sweep_steps", values.sweep_steps or [str(values.num_steps)], _steps)
    weights = _parsed("sweep_ema", values.sweep_ema, lambda text: {"true": True, "false": False}[text.lower()])
    found = {}
    for scale, interval, num_steps, use_ema in itertools.product(scales, intervals, steps, weights):
        interval = None if scale == 1.0 else interval
        guidance = Guidance(scale, interval, options["guidance"].one_batch)
        changed = {"guidance": guidance, "num_steps": num_steps, "use_ema": use_ema}
        if scale == 1.0:
            changed["weaker"] = None
        setting = Setting(scale, interval, num_steps, use_ema, {**options, **changed})
        found[setting] = setting
    return list(found)


def _refuse_what_is_swept(values):
    for flag, swept in _SWEPT.items():
        if values[flag].present and (flag != "num_steps" or values.sweep_steps):
            raise ValueError(f"--{flag} is swept over: give --{swept} in its place.")


_SWEPT = {
    "guidance_scale": "sweep_scales",
    "guidance_interval": "sweep_intervals",
    "ema": "sweep_ema",
    "num_steps": "sweep_steps",
}


def _steps(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


_ACCEPTED = {
    "sweep_intervals": "all, or low:high in logsnr",
    "sweep_ema": "true or false",
    "sweep_steps": "integers >= 1",
}


def _interval(text: str) -> tuple[float, float] | None:
    if text == "all":
        return None
    low, high = map(float, text.split(":"))
    return low, high


def _parsed(flag: str, texts: list[str], kind: Callable) -> list:
    accepted = _ACCEPTED.get(flag, "numbers")
    try:
        found = [kind(text) for text in texts]
    except (ValueError, KeyError) as error:
        raise ValueError(f"--{flag} must be {accepted}, with commas between, got {','.join(texts)!r}.") from error
    if not found:
        raise ValueError(f"--{flag} must be {accepted}, with commas between, and is empty.")
    return found


def run(settings: list[Setting], measuring, out: pathlib.Path, console) -> int:
    """Measures them one after another; those that out.jsonl has already are not drawn again."""
    from keras_sid2.evaluation import how_measured

    plt = _pyplot()
    lines = _Lines(pathlib.Path(f"{out}.jsonl"))
    rows = []
    for number, setting in enumerate(settings):
        drawn = measuring.drawing(setting.options).describe()
        measured = how_measured(measuring.features, measuring.reference, images=drawn["images"])
        measurement = lines.find(drawn, measured)
        if measurement is None:
            console.print(f"{number + 1} of {len(settings)}: {setting.name()}", highlight=False)
            measurement = measuring(setting.options)
            lines.add(measurement)
        rows.append((setting, measurement))
    rows.sort(key=lambda row: row[1].figures["frechet"])
    _show(rows, console)
    _plot(plt, rows, pathlib.Path(f"{out}.png"))
    best = rows[0][1]
    best.write(f"{out}.json")
    print(f"best       {rows[0][0].name()}")
    print("frechet    {frechet:.5g}, 95 % interval {frechet_low:.5g} to {frechet_high:.5g}".format(**best.figures))
    print(f"signature  {best.signature()}")
    return 0


def _pyplot():
    """matplotlib without a screen; ImportError, in one sentence, before any work."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('A sweep draws a plot: pip install "keras_sid2[evaluate]" for matplotlib.') from error
    return plt


class _Lines:
    """Measurements of earlier settings, a line of JSON each; a last line that is cut is made anew."""

    def __init__(self, path: pathlib.Path):
        from keras_sid2.evaluation import Measurement

        self.path, self.found = path, []
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                self.found.append(Measurement(**json.loads(line)))
            except (ValueError, TypeError):
                break

    def find(self, drawn: dict, measured: dict):
        """The measurement of the same images, measured alike, or None."""
        for measurement in self.found:
            known = {key: value for key, value in measurement.drawn.items() if key != "images_digest"}
            if known == json.loads(json.dumps(drawn)) and measurement.measured == measured:
                return measurement
        return None

    def add(self, measurement):
        self.found.append(measurement)
        with written_whole(self.path) as temporary:
            temporary.write_text("".join(json.dumps(dataclasses.asdict(m)) + "\n" for m in self.found))


def _show(rows: list, console):
    """The table, best first; a star where the interval overlaps the best one's."""
    from rich.table import Table

    table = Table("scale", "interval", "steps", "weights", "frechet", "95 % interval", "precision", "recall", "")
    limit = rows[0][1].figures["frechet_high"]
    for setting, measurement in rows:
        figures = measurement.figures
        near = "*" if figures["frechet_low"] <= limit else ""
        table.add_row(
            f"{setting.scale:g}",
            "all" if setting.interval is None else "{:g}:{:g}".format(*setting.interval),
            str(setting.num_steps),
            "averaged" if setting.use_ema else "raw",
            f"{figures['frechet']:.5g}",
            "{frechet_low:.5g} to {frechet_high:.5g}".format(**figures),
            *(f"{figures[key]:.3f}" if key in figures else "" for key in ("precision", "recall")),
            near,
        )
    console.print(table)
    console.print("* not told apart from the best one by these images", highlight=False)


def _plot(plt, rows: list, path: pathlib.Path):
    """Frechet distance over scale, a line for each interval, number of steps and kind of weights."""
    lines = {}
    for setting, measurement in sorted(rows, key=lambda row: row[0].scale):
        for other in {(s.interval, s.num_steps, s.use_ema) for s, _ in rows}:
            own = (setting.interval, setting.num_steps, setting.use_ema)
            unguided = setting.scale == 1.0 and own[1:] == other[1:]  # the left end of every line of these steps
            if own == other or unguided:
                lines.setdefault(other, []).append((setting.scale, measurement.figures))
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for (interval, num_steps, use_ema), points in sorted(lines.items(), key=lambda item: str(item[0])):
        scales = [scale for scale, _ in points]
        values = [figures["frechet"] for _, figures in points]
        margins = [figures["frechet_high"] - figures["frechet"] for _, figures in points]
        where = "everywhere" if interval is None else "{:g} to {:g}".format(*interval)
        label = f"{where}, {num_steps} steps" + (" (raw weights)" if not use_ema else "")
        axes.errorbar(scales, values, yerr=margins, marker="o", capsize=3, label=label)
    axes.set_xlabel("guidance scale")
    axes.set_ylabel("Frechet distance, 95 % interval")
    axes.legend(title="guided in logsnr", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)
