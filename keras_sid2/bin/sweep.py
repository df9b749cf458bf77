"""The sweep of sid2-evaluate: scale x interval x steps x weights x variance, on a few thousand images each.

The lowest of many metrics is low by luck too: among 24 settings that are equally good, its 95 % interval held its own
expectation in 57 of 100 trials, and in 96 of 100 with other images. So the best one is drawn once more with the next
seed, and that figure is the result.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable

from absl import flags
from rich.table import Table

from keras_sid2 import Guidance
from keras_sid2.evaluation import how_measured
from keras_sid2.io.atomic import atomic_write
from keras_sid2.sampling import DDPMSampler

IMAGES = 2000  # for each setting, at most, unless the user says how many


def define(values: flags.FlagValues = flags.FLAGS):
    """Defines the sweep's flags."""
    add = {"flag_values": values}
    text = "measure all combinations of these lists, and the best one anew with the next seed; other flags hold for all"
    flags.DEFINE_bool("sweep", False, text, **add)
    flags.DEFINE_list("sweep_scales", ["1", "1.5", "2", "3"], "guidance scales", **add)
    flags.DEFINE_list("sweep_intervals", ["all"], "guidance intervals in logsnr, as all,-3:5", **add)
    flags.DEFINE_list("sweep_steps", None, "numbers of sampler steps; --num_steps if not given", **add)
    flags.DEFINE_list("sweep_ema", ["true"], "true, false or both: averaged and raw weights", **add)
    flags.DEFINE_list("sweep_variance", None, "of ddpm, in [0, 1], as 0.1,0.2,0.3; --variance if not given", **add)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One combination; `options` are those of SampleRequest."""

    scale: float
    interval: tuple[float, float] | None
    num_steps: int
    use_ema: bool
    options: dict = dataclasses.field(compare=False)
    variance: float | None = None  # of ddpm, where it is swept over

    def name(self) -> str:
        interval = "all" if self.interval is None else "{:g}:{:g}".format(*self.interval)
        weights = "averaged" if self.use_ema else "raw"
        guided = f"scale {self.scale:g} in {interval}" if self.scale != 1.0 else "no guidance"
        return f"{guided}, {self.num_steps} steps{self.noised()}, {weights} weights"

    def noised(self) -> str:
        """The variance, behind other words."""
        return "" if self.variance is None else f", variance {self.variance:g}"


def settings(values, options: dict) -> list[Setting]:
    """All combinations, each once: without guidance the interval says nothing.

    Raises ValueError for what is no list, and ImportError without matplotlib, before any work.
    """
    _refuse_what_is_swept(values)
    pyplot()
    scales = _parsed("sweep_scales", values.sweep_scales, float)
    intervals = _parsed("sweep_intervals", values.sweep_intervals, _interval)
    steps = _parsed("sweep_steps", values.sweep_steps or [str(values.num_steps)], _steps)
    weights = _parsed("sweep_ema", values.sweep_ema, lambda text: {"true": True, "false": False}[text.lower()])
    samplers = _samplers(values)
    found = {}
    swept = itertools.product(scales, intervals, steps, weights, samplers.items())
    for scale, interval, num_steps, use_ema, (variance, sampler) in swept:
        interval = None if scale == 1.0 else interval
        guidance = Guidance(scale, interval, options["guidance"].one_batch)
        changed = {"guidance": guidance, "num_steps": num_steps, "use_ema": use_ema, **sampler}
        if scale == 1.0:
            changed["guidance_network"] = None
        setting = Setting(scale, interval, num_steps, use_ema, {**options, **changed}, variance)
        found[setting] = setting
    return list(found)


def _samplers(values) -> dict[float | None, dict]:
    """{variance: what it changes of the options}, which is nothing where it is not swept over."""
    if values.sweep_variance is None:
        return {None: {}}
    if values.sampler != "ddpm":
        raise ValueError(f"--sweep_variance goes with --sampler=ddpm, got --sampler={values.sampler}.")
    found = _parsed("sweep_variance", values.sweep_variance, float)
    return {variance: {"sampler": DDPMSampler(variance)} for variance in found}


def _refuse_what_is_swept(values):
    for flag, swept in _SWEPT.items():
        if values[flag].present and (flag not in _KEPT or values[swept].value):
            raise ValueError(f"--{flag} is swept over: give --{swept} in its place.")


_SWEPT = {
    "guidance_scale": "sweep_scales",
    "guidance_interval": "sweep_intervals",
    "ema": "sweep_ema",
    "num_steps": "sweep_steps",
    "variance": "sweep_variance",
}
_KEPT = ("num_steps", "variance")  # hold for all where they are not swept over


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


def run(settings: list[Setting], measuring, lines, out: pathlib.Path, console) -> int:
    """Measures them one after another, and the best one anew; what `lines` (SweepLines) have is not drawn again."""
    rows = []
    for number, setting in enumerate(settings, 1):
        title = f"{number} of {len(settings)}: {setting.name()}"
        rows.append((setting, _measured(measuring, lines, setting.options, title, console)))
    rows.sort(key=lambda row: row[1].metrics["frechet"])
    show(rows, console)
    best, chosen = rows[0]
    seed = (best.options["seed"] + 1) % 2**32
    title = f"the best one anew, with seed {seed}: {best.name()}"
    anew = _measured(measuring, lines, {**best.options, "seed": seed}, title, console)
    plot(rows, anew, pathlib.Path(f"{out}.png"))
    anew.write(f"{out}.json")
    print(f"best       {best.name()}")
    told = "frechet    {frechet:.5g}, 95 % interval {frechet_low:.5g} to {frechet_high:.5g}".format(**anew.metrics)
    print(f"{told}, measured anew with seed {seed}")
    print(f"chosen by  {chosen.metrics['frechet']:.5g}, the lowest of {len(rows)}: low by luck too")
    print(f"signature  {anew.signature()}")
    return 0


def _measured(measuring, lines, options: dict, title: str, console):
    """The Measurement of images drawn with `options`, from the lines if it is there."""
    drawn = measuring.sample_request(options).describe()
    measured = how_measured(measuring.features, measuring.reference, images=drawn["images"])
    measurement = lines.find(drawn, measured)
    if measurement is None:
        console.print(title, highlight=False)
        measurement = measuring(options)
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
        near = "*" if metrics["frechet_low"] <= limit else ""
        table.add_row(
            f"{setting.scale:g}",
            "all" if setting.interval is None else "{:g}:{:g}".format(*setting.interval),
            f"{setting.num_steps}{setting.noised()}",
            "averaged" if setting.use_ema else "raw",
            f"{metrics['frechet']:.5g}",
            "{frechet_low:.5g} to {frechet_high:.5g}".format(**metrics),
            *(f"{metrics[key]:.3f}" if key in metrics else "" for key in ("precision", "recall")),
            near,
        )
    console.print(table)
    console.print("* not told apart from the best one by these images", highlight=False)


def plot(rows: list, anew, path: pathlib.Path):
    """Frechet distance of (Setting, Measurement) over what has several values: scale, else steps, variance, or kinds.

    A line for each combination of the others. `anew`, the best one's second Measurement, is a star.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    settings = [setting for setting, _ in rows]
    over = next((name for name in _AXES if len({getattr(s, name) for s in settings}) > 1), None)
    kinds = sorted({_label(s, over) for s in settings})
    place = (lambda s: kinds.index(_label(s, over))) if over is None else (lambda s: getattr(s, over))
    lines = {}
    for setting, measurement in rows:
        for label in [None] if over is None else _labels(setting, settings, over):
            lines.setdefault(label, []).append((place(setting), measurement.metrics))
    for label, points in sorted(lines.items(), key=lambda line: str(line[0])):
        _draw(axes, sorted(points, key=lambda point: point[0]), "o" if over is None else "o-", label)
    _draw(axes, [(place(settings[0]), anew.metrics)], "k*", "the best one, measured anew")
    _prepare_x(axes, over, kinds, sorted({s.num_steps for s in settings}))
    axes.set_title(_fixed(settings))
    axes.set_ylabel("Frechet distance, 95 % interval")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


_AXES = {"scale": "guidance scale", "num_steps": "sampler steps", "variance": "variance of ddpm"}


def _prepare_x(axes, over: str | None, kinds: list[str], steps: list[int]):
    if over is None:
        axes.set_xticks(range(len(kinds)), kinds, rotation=20, ha="right")
        axes.set_xlim(-0.5, len(kinds) - 0.5)
    else:
        axes.set_xlabel(_AXES[over])
    if over == "num_steps":
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, map(str, steps))
        axes.minorticks_off()


def _draw(axes, points: list, style: str, label: str | None):
    values = [metrics["frechet"] for _, metrics in points]
    below = [metrics["frechet"] - metrics["frechet_low"] for _, metrics in points]
    above = [metrics["frechet_high"] - metrics["frechet"] for _, metrics in points]
    axes.errorbar([x for x, _ in points], values, yerr=[below, above], fmt=style, capsize=3, label=label)


def _labels(setting: Setting, settings: list[Setting], over: str) -> set[str]:
    """The lines that it is on: without guidance, over scale, the left end of all that are else alike."""
    alike = [s for s in settings if s.scale != 1.0 and _rest(s) == _rest(setting)]
    ends = over == "scale" and setting.scale == 1.0
    return {_label(s, over) for s in alike} if ends else {_label(setting, over)}


def _rest(setting: Setting) -> tuple:
    return setting.num_steps, setting.use_ema, setting.variance


def _label(setting: Setting, over: str | None) -> str:
    guided = "guided everywhere" if setting.interval is None else "guided from {:g} to {:g}".format(*setting.interval)
    told = ("no guidance" if setting.scale == 1.0 else guided) + ("" if setting.use_ema else ", raw weights")
    told += "" if over == "variance" else setting.noised()
    return f"{told}, {setting.num_steps} steps" if over == "scale" else told  # they may differ


def _fixed(settings: list[Setting]) -> str:
    """Which scale and number of steps all have."""
    scales, steps = {s.scale for s in settings} - {1.0}, {s.num_steps for s in settings}
    told = [f"guidance scale {scale:g}" for scale in scales if len(scales) == 1]
    return ", ".join(told + [f"{number} steps" for number in steps if len(steps) == 1])
