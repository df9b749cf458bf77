"""The sweep of sid2-evaluate: scale x interval x steps x weights x variance, on a few thousand images each.

The lowest of many figures is low by luck too: among 24 settings that are equally good, its 95 % interval held its own
expectation in 57 of 100 trials, and in 96 of 100 with other images. So the best one is drawn once more with the next
seed, and that figure is the result.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable

from absl import flags

from keras_sid2.bin.sweep_report import plot, pyplot, show

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
    """One combination; `options` are those of Drawing."""

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
    from keras_sid2 import Guidance

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
            changed["weaker"] = None
        setting = Setting(scale, interval, num_steps, use_ema, {**options, **changed}, variance)
        found[setting] = setting
    return list(found)


def _samplers(values) -> dict[float | None, dict]:
    """{variance: what it changes of the options}, which is nothing where it is not swept over."""
    from keras_sid2.sampling import DDPMSampler

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
    rows.sort(key=lambda row: row[1].figures["frechet"])
    show(rows, console)
    best, chosen = rows[0]
    seed = (best.options["seed"] + 1) % 2**32
    title = f"the best one anew, with seed {seed}: {best.name()}"
    anew = _measured(measuring, lines, {**best.options, "seed": seed}, title, console)
    plot(rows, anew, pathlib.Path(f"{out}.png"))
    anew.write(f"{out}.json")
    print(f"best       {best.name()}")
    told = "frechet    {frechet:.5g}, 95 % interval {frechet_low:.5g} to {frechet_high:.5g}".format(**anew.figures)
    print(f"{told}, measured anew with seed {seed}")
    print(f"chosen by  {chosen.figures['frechet']:.5g}, the lowest of {len(rows)}: low by luck too")
    print(f"signature  {anew.signature()}")
    return 0


def _measured(measuring, lines, options: dict, title: str, console):
    """The Measurement of images drawn with `options`, from the lines if it is there."""
    from keras_sid2.evaluation import how_measured

    drawn = measuring.drawing(options).describe()
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
