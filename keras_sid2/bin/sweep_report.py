"""What a sweep shows: a table, and a plot over what was swept."""

import pathlib

from keras_sid2.io.atomic import written_whole


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
    from rich.table import Table

    table = Table("scale", "interval", "steps", "weights", "frechet", "95 % interval", "precision", "recall", "")
    limit = rows[0][1].figures["frechet_high"]
    for setting, measurement in rows:
        figures = measurement.figures
        near = "*" if figures["frechet_low"] <= limit else ""
        table.add_row(
            f"{setting.scale:g}",
            "all" if setting.interval is None else "{:g}:{:g}".format(*setting.interval),
            f"{setting.num_steps}{setting.noised()}",
            "averaged" if setting.use_ema else "raw",
            f"{figures['frechet']:.5g}",
            "{frechet_low:.5g} to {frechet_high:.5g}".format(**figures),
            *(f"{figures[key]:.3f}" if key in figures else "" for key in ("precision", "recall")),
            near,
        )
    console.print(table)
    console.print("* not told apart from the best one by these images", highlight=False)


def plot(rows: list, anew, path: pathlib.Path):
    """Frechet distance of (Setting, Measurement) over what has several values: scale, else steps, else kinds.

    A line for each combination of the others. `anew`, the best one's second Measurement, is a star.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    settings = [setting for setting, _ in rows]
    lines, where, style = _over_what_was_swept(rows, axes)
    for label, points in sorted(lines.items(), key=lambda item: str(item[0])):
        _draw(axes, [(where(setting), figures) for setting, figures in points], style, label)
    _draw(axes, [(where(settings[0]), anew.figures)], "k*", "the best one, measured anew")
    axes.set_title(_fixed(settings))
    axes.set_ylabel("Frechet distance, 95 % interval")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def _over_what_was_swept(rows: list, axes) -> tuple:
    """({label: [(Setting, figures)]}, where on x a Setting is, style of the lines); prepares the x axis."""
    settings = [setting for setting, _ in rows]
    scales, steps = {s.scale for s in settings}, sorted({s.num_steps for s in settings})
    variances = {s.variance for s in settings}
    if len(variances) > 1 and len(scales) == len(steps) == 1:
        axes.set_xlabel("variance of ddpm")
        return _grouped(rows, lambda s: s.variance, _kind_at_any_variance), (lambda s: s.variance), "o-"
    if len(scales) > 1:
        axes.set_xlabel("guidance scale")
        return _over_scale(rows), (lambda s: s.scale), "o-"
    if len(steps) > 1:
        axes.set_xlabel("sampler steps")
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, map(str, steps))
        axes.minorticks_off()
        return _grouped(rows, lambda s: s.num_steps, _kind), (lambda s: s.num_steps), "o-"
    names = sorted({_kind(s) for s in settings})
    axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set_xlim(-0.5, len(names) - 0.5)
    return _grouped(rows, _kind, lambda _: None), (lambda s: names.index(_kind(s))), "o"


def _draw(axes, points: list, style: str, label: str | None):
    values = [figures["frechet"] for _, figures in points]
    below = [figures["frechet"] - figures["frechet_low"] for _, figures in points]
    above = [figures["frechet_high"] - figures["frechet"] for _, figures in points]
    axes.errorbar([x for x, _ in points], values, yerr=[below, above], fmt=style, capsize=3, label=label)


def _grouped(rows: list, order, label) -> dict:
    """{label: [(Setting, figures) in order]}."""
    lines = {}
    for setting, measurement in sorted(rows, key=lambda row: order(row[0])):
        lines.setdefault(label(setting), []).append((setting, measurement.figures))
    return lines


def _over_scale(rows: list) -> dict:
    """A line for each interval, number of steps and kind of weights; scale 1 is the left end of all of these steps."""
    lines = {}
    guided = [setting for setting, _ in rows if setting.scale != 1.0]
    for setting, measurement in sorted(rows, key=lambda row: row[0].scale):
        for other in {(s.interval, *_other(s)): s for s in guided}.values():
            unguided = setting.scale == 1.0 and _other(setting) == _other(other)
            if unguided or (setting.interval == other.interval and _other(setting) == _other(other)):
                label = f"{_kind(other)}, {other.num_steps} steps"  # with steps, as they may differ
                lines.setdefault(label, []).append((setting, measurement.figures))
    return lines


def _other(setting) -> tuple:
    return setting.num_steps, setting.use_ema, setting.variance


def _kind(setting) -> str:
    return _kind_at_any_variance(setting) + setting.noised()


def _kind_at_any_variance(setting) -> str:
    guided = "guided everywhere" if setting.interval is None else "guided from {:g} to {:g}".format(*setting.interval)
    return ("no guidance" if setting.scale == 1.0 else guided) + ("" if setting.use_ema else ", raw weights")


def _fixed(settings: list) -> str:
    """Which scale and number of steps all have."""
    scales, steps = {s.scale for s in settings} - {1.0}, {s.num_steps for s in settings}
    told = [f"guidance scale {scale:g}" for scale in scales if len(scales) == 1]
    return ", ".join(told + [f"{number} steps" for number in steps if len(steps) == 1])
