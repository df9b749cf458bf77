"""The sweep of sid2-evaluate: scale x interval x steps x weights x their width x variance, a few thousand images each.

The lowest of many metrics is low by luck too: among 24 settings that are equally good, its 95 % interval held its own
expectation in 57 of 100 trials, and in 96 of 100 with other images. So the best one is drawn once more with the next
seed, and that figure is the result.
"""

import dataclasses
import itertools
import pathlib

from rich.table import Table

from keras_sid2 import Guidance
from keras_sid2.bin.common import print_result
from keras_sid2.bin.flag_table import parsed
from keras_sid2.bin.sampling_flags import check_width_flags
from keras_sid2.bin.tables.evaluate import SweepFlags
from keras_sid2.evaluation import how_measured
from keras_sid2.generation.students import USUAL_STEPS
from keras_sid2.io.atomic import atomic_write
from keras_sid2.parallel import processes
from keras_sid2.sampling import DDPMSampler
from keras_sid2.training.power_averages import WIDEST, as_widths

_WEIGHTS = {"true": True, "false": False}  # averaged or not
_KEPT = ("num_steps", "variance", "ema_width")  # hold for all where they are not swept over
_WITH_INTERVAL = "{frechet:.5g}, 95 % interval {frechet_low:.5g} to {frechet_high:.5g}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination; `options` are those of SampleRequest, `variance` ddpm's where it is swept over."""

    scale: float
    interval: tuple[float, float] | None
    num_steps: int
    use_ema: bool
    options: dict = dataclasses.field(compare=False)
    variance: float | None = None
    ema_width: float | None = None

    def words(self) -> tuple[str, str, str, str]:
        """Scale, interval, steps and weights, for people."""
        interval = "all" if self.interval is None else "{:g}:{:g}".format(*self.interval)
        weights = "averaged" if self.use_ema else "raw"
        weights += "" if self.ema_width is None else f" {self.ema_width:g}"
        return f"{self.scale:g}", interval, f"{self.num_steps}", weights

    def name(self) -> str:
        scale, interval, steps, weights = self.words()
        guided = f"scale {scale} in {interval}" if self.scale != 1.0 else "no guidance"
        return f"{guided}, {steps} steps{self.noised()}, {weights} weights"

    def noised(self) -> str:
        """The variance, behind other words."""
        return "" if self.variance is None else f", variance {self.variance:g}"


def settings(values, options: dict, usual_steps: int = USUAL_STEPS) -> list[Setting]:
    """All combinations, each once: without guidance the interval says nothing. `usual_steps` where no flag says them.

    Raises ValueError for what is no list, and ImportError without matplotlib, before any work.
    """
    for field in dataclasses.fields(SweepFlags):
        over = field.metadata.get("over")
        if over and values[over].present and (over not in _KEPT or values[field.name].value):
            raise ValueError(f"--{over} is swept over: give --{field.name} in its place.")
    if values.sweep_variance is not None and values.sampler != "ddpm":
        raise ValueError(f"--sweep_variance goes with --sampler=ddpm, got --sampler={values.sampler}.")
    check_width_flags(values, "ema_width" if values.sweep_ema_width is None else "sweep_ema_width")
    pyplot()
    lists = (
        parsed("sweep_scales", values.sweep_scales, float),
        parsed("sweep_intervals", values.sweep_intervals, _interval, "all, or low:high in logsnr"),
        parsed("sweep_steps", values.sweep_steps or [str(values.num_steps or usual_steps)], _steps, "integers >= 1"),
        parsed("sweep_ema", values.sweep_ema, lambda text: _WEIGHTS[text.lower()], "true or false"),
        parsed("sweep_variance", values.sweep_variance, float) or [None],
    )
    widths = parsed("sweep_ema_width", values.sweep_ema_width, _width, f"in (0, {WIDEST}]") or [values.ema_width]
    found = []
    for width, scale, interval, num_steps, use_ema, variance in itertools.product(widths, *lists):  # widths cost most
        interval, width = None if scale == 1.0 else interval, width if use_ema else None
        changed = {"guidance": Guidance(scale, interval, options["guidance"].one_batch)}
        changed |= {"guidance_network": None} if scale == 1.0 else {}
        changed |= {"num_steps": num_steps, "use_ema": use_ema}
        changed |= {} if variance is None else {"sampler": DDPMSampler(variance)}
        found.append(Setting(scale, interval, num_steps, use_ema, {**options, **changed}, variance, width))
    return list(dict.fromkeys(found))


def _steps(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _width(text: str) -> float:
    (width,) = as_widths([float(text)])
    return width


def _interval(text: str) -> tuple[float, float] | None:
    if text == "all":
        return None
    low, high = map(float, text.split(":"))
    return low, high


def run(settings: list[Setting], measuring, lines, out: pathlib.Path, console) -> int:
    """Measures them one after another, and the best one anew; what `lines` (SweepLines) have is not drawn again. Of
    several processes, which all draw, the first one has `lines` and writes."""
    rows, first = [], processes.index() == 0
    for number, setting in enumerate(settings, 1):
        title = f"{number} of {len(settings)}: {setting.name()}"
        rows.append((setting, _measured(measuring, lines, setting, title, console)))
    order = sorted(range(len(rows)), key=lambda i: rows[i][1].metrics["frechet"]) if first else [0]
    best = settings[processes.from_first(order[0])]
    seed = (best.options["seed"] + 1) % 2**32
    again = dataclasses.replace(best, options={**best.options, "seed": seed})
    rows = [rows[i] for i in order]
    if first:
        show(rows, console)
    title = f"the best one anew, with seed {seed}: {best.name()}"
    anew = _measured(measuring, lines, again, title, console)
    if first:
        _report(rows, anew, out, seed)
    return 0


def _report(rows: list, anew, out: pathlib.Path, seed: int):
    """Writes out.png and out.json, and prints what came out; `rows` are (Setting, Measurement), best first."""
    best, chosen = rows[0]
    plot(rows, anew, pathlib.Path(f"{out}.png"))
    anew.write(f"{out}.json")
    print_result(f"best       {best.name()}")
    print_result(f"frechet    {_WITH_INTERVAL.format(**anew.metrics)}, measured anew with seed {seed}")
    print_result(f"chosen by  {chosen.metrics['frechet']:.5g}, the lowest of {len(rows)}: low by luck too")
    print_result(f"signature  {anew.signature()}")


def _measured(measuring, lines, setting: Setting, title: str, console):
    """The Measurement of images drawn so, from the lines if it is there; None but in the first process."""
    measurement, options = None, setting.options
    measuring.take_width(setting.ema_width)
    if lines is not None:
        drawn = measuring.describe(options)
        measured = how_measured(**measuring.how, images=drawn["images"])
        measurement = lines.find(drawn, measured)
    if processes.from_first(int(measurement is None)):
        console.print(title, highlight=False)
        measurement = measuring(options)
        if lines is not None:
            lines.add(measurement)
    return measurement


def check_out(out: pathlib.Path, lines):
    """ValueError if out.png is there and no sweep's: a sweep writes its lines before it."""
    if not lines.found and pathlib.Path(f"{out}.png").exists():
        raise ValueError(f"{out}.png is there and of no sweep: remove it, or give another --out.")


# -- what it shows: a table, and a plot over what was swept ---------------------------------------------------------


def pyplot():
    """matplotlib without a screen; ImportError, in one sentence, before any work."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('A sweep draws a plot: pip install "keras_sid2[evaluate]" for matplotlib.') from error
    return plt


def show(rows: list, console):
    """The table of (Setting, Measurement), best first; a star where the interval overlaps the best one's."""
    table = Table("scale", "interval", "steps", "weights", "frechet", "95 % interval", "precision", "recall", "")
    limit = rows[0][1].metrics["frechet_high"]
    for setting, measurement in rows:
        metrics = measurement.metrics
        scale, interval, steps, weights = setting.words()
        told = [scale, interval, f"{steps}{setting.noised()}", weights, f"{metrics['frechet']:.5g}"]
        told.append("{frechet_low:.5g} to {frechet_high:.5g}".format(**metrics))
        told += [f"{metrics[key]:.3f}" if key in metrics else "" for key in ("precision", "recall")]
        table.add_row(*told, "*" if metrics["frechet_low"] <= limit else "")
    console.print(table)
    console.print("* not told apart from the best one by these images", highlight=False)


_AXES = {"scale": "guidance scale", "num_steps": "sampler steps", "variance": "variance of ddpm"}
_AXES["ema_width"] = "width of the average"


def plot(rows: list, anew, path: pathlib.Path):
    """Frechet distance of (Setting, Measurement) over what has several values: scale, else steps, variance, or kinds.

    A line for each combination of the others. `anew`, the best one's second Measurement, is a star.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    settings = [setting for setting, _ in rows]
    values = {name: {getattr(s, name) for s in settings} for name in _AXES}
    over = next((name for name, found in values.items() if len(found) > 1 and None not in found), None)
    kinds = sorted({_label(s, over) for s in settings})
    place = (lambda s: kinds.index(_label(s, over))) if over is None else (lambda s: getattr(s, over))
    lines = {}
    for setting, measurement in rows:
        for label in [None] if over is None else _labels(setting, settings, over):
            lines.setdefault(label, []).append((place(setting), measurement.metrics))
    for label, points in sorted(lines.items(), key=lambda line: str(line[0])):
        _draw(axes, sorted(points, key=lambda point: point[0]), "o" if over is None else "o-", label)
    _draw(axes, [(place(settings[0]), anew.metrics)], "k*", "the best one, measured anew")
    if over is None:
        axes.set_xticks(range(len(kinds)), kinds, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    else:
        axes.set_xlabel(_AXES[over])
    if over == "num_steps":
        steps = sorted({s.num_steps for s in settings})
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, map(str, steps))
        axes.minorticks_off()
    fixed = {"guidance scale {:g}": {s.scale for s in settings} - {1.0}, "{} steps": {s.num_steps for s in settings}}
    axes.set_title(", ".join(text.format(*values) for text, values in fixed.items() if len(values) == 1))
    axes.set_ylabel("Frechet distance, 95 % interval")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _draw(axes, points: list, style: str, label: str | None):
    values = [metrics["frechet"] for _, metrics in points]
    below = [metrics["frechet"] - metrics["frechet_low"] for _, metrics in points]
    above = [metrics["frechet_high"] - metrics["frechet"] for _, metrics in points]
    axes.errorbar([x for x, _ in points], values, yerr=[below, above], fmt=style, capsize=3, label=label)


def _labels(setting: Setting, settings: list[Setting], over: str) -> set[str]:
    """The lines that it is on: without guidance, over scale, the left end of all that are else alike."""
    if over != "scale" or setting.scale != 1.0:
        return {_label(setting, over)}
    rest = (setting.num_steps, setting.use_ema, setting.variance, setting.ema_width)
    alike = [s for s in settings if s.scale != 1.0 and (s.num_steps, s.use_ema, s.variance, s.ema_width) == rest]
    return {_label(s, over) for s in alike}


def _label(setting: Setting, over: str | None) -> str:
    guided = "guided everywhere" if setting.interval is None else "guided from {:g} to {:g}".format(*setting.interval)
    told = ("no guidance" if setting.scale == 1.0 else guided) + ("" if setting.use_ema else ", raw weights")
    told += "" if over == "variance" else setting.noised()
    told += "" if over == "ema_width" or setting.ema_width is None else f", width {setting.ema_width:g}"
    return f"{told}, {setting.num_steps} steps" if over == "scale" else told  # they may differ
