"""Question: how does the Frechet distance of drawn digits fall with the number of steps, for each sampler?

    python benchmarks/sampler_steps.py --checkpoint=runs/digits/checkpoints/step_0000001500 --noise_levels=uniform_t \
        --json=result.json --plot=result.png

Expected: with uniform_t, heun and dpmpp_2m score in 16 steps what real halves do, ddim in 32, and more steps
change little; ddpm in 256. Another --seed moved scores by up to 8 percent: the deterministic samplers start from the
same noise and compare more finely than that, ddpm does not.

A row is as many digits as there are real ones, with their labels, drawn without guidance from a trained `sid2_digits`
(`sid2-demo` trains it) by one sampler in one number of steps. Its distance is that of `keras_sid2.evaluation.quality`:
between halves of the drawn and of the real digits, mean over ten cuts, so that a perfect model would score what one
half of the real digits scores against the other. One classifier, fitted on all real digits, judges all rows.

--json is written after every row. A second start keeps its rows and draws those that are missing.
"""

import datetime
import importlib.metadata
import json
import pathlib
import time

import numpy as np
import report
import rich.console
import rich.table
from absl import app, flags

FLAGS = flags.FLAGS
MARKERS = {"ddpm": "o", "ddim": "s", "heun": "D", "dpmpp_2m": "^", "edm_heun": "v"}  # of the samplers, in the plot
CUTS = 10


def _define_flags():
    flags.DEFINE_string("checkpoint", None, "A checkpoint of a trained sid2_digits.", required=True)
    flags.DEFINE_list("samplers", list(MARKERS), "Samplers.")
    flags.DEFINE_list("steps", ["8", "16", "32", "64", "128", "256"], "Numbers of steps.")
    flags.DEFINE_enum("noise_levels", "uniform_t", ["uniform_t", "uniform_logsnr", "edm_rho"], "Where the steps lie.")
    flags.DEFINE_integer("images", None, "Only so many digits, drawn and real; default: all.", lower_bound=100)
    flags.DEFINE_integer("batch_size", 600, "Digits drawn at once.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the noise.", lower_bound=0)
    flags.DEFINE_string("json", None, "Where to write the result, and to go on with it.")
    flags.DEFINE_string("plot", None, "Where to draw it, a PNG file; needs matplotlib.")
    flags.register_validator("samplers", lambda values: set(values) <= set(MARKERS), f"from {', '.join(MARKERS)}")
    flags.register_validator("steps", lambda values: all(v.isdigit() and int(v) for v in values))


# -- what is measured ----------------------------------------------------------------------------------------------


def _real_digits() -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 8, 8, 1], labels int32 [N]), as `pipelines` stores them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")[..., None]
    return images[: FLAGS.images], digits.target[: FLAGS.images].astype("int32")


class Judge:
    """What drawn digits are worth beside the real ones."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        from keras_sid2.evaluation import ImageClassifier

        rng = np.random.default_rng(0)
        self.labels, self._classifier = labels, ImageClassifier(images, labels)
        self._real = self._classifier.features(images)
        self._cuts = [np.array_split(rng.permutation(len(images)), 2) for _ in range(CUTS)]

    def frechet_halves(self) -> float:
        """Of one half of the real digits to the other."""
        return self._distance(self._real)

    def __call__(self, drawn: np.ndarray) -> dict[str, float]:
        return {
            "frechet": self._distance(self._classifier.features(drawn)),
            "accuracy": self._classifier.accuracy(drawn, self.labels),
        }

    def _distance(self, features: np.ndarray) -> float:
        from keras_sid2.evaluation import frechet_distance

        pairs = [pair for a, b in self._cuts for pair in ((a, b), (b, a))]
        return float(np.mean([frechet_distance(features[i], self._real[j]) for i, j in pairs]))


def _request(model, labels: np.ndarray, sampler: str, num_steps: int):
    import keras_sid2

    settings = {"sampler": sampler, "num_steps": num_steps, "noise_levels": FLAGS.noise_levels}
    return keras_sid2.SampleRequest(model, labels, seed=FLAGS.seed, batch_size=FLAGS.batch_size, **settings)


def _row(model, judge: Judge, sampler: str, num_steps: int) -> dict:
    import keras

    from keras_sid2.sampling import evaluations

    start = time.perf_counter()
    request = _request(model, judge.labels, sampler, num_steps)
    images = request.images()
    return {
        "sampler": sampler,
        "steps": num_steps,
        "evaluations": num_steps * evaluations(request.sampler),
        **judge(images),
        "seconds_with_compiling": time.perf_counter() - start,
        "backend": keras.backend.backend(),
    }


# -- the record ----------------------------------------------------------------------------------------------------


def _begun(settings: dict) -> dict:
    """The result so far: that of --json, or one without rows. Ends the program where the rows there differ."""
    path = pathlib.Path(FLAGS.json) if FLAGS.json else None
    if path is None or not path.exists():
        return _document(settings)
    result = json.loads(path.read_text())
    if result["settings"] != settings:
        raise SystemExit(f"{path} was made with {result['settings']}, not with {settings}: give another --json.")
    print(f"{path} has {len(result['rows'])} rows, which are kept.", flush=True)
    return result


def _document(settings: dict) -> dict:
    packages = ("keras", "jax", "tensorflow", "torch", "numpy", "scikit-learn")
    return {
        "program": "sampler_steps",
        "question": __doc__.split("\n\n")[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "versions": {name: version for name in packages if (version := _version(name))},
        "settings": settings,
        "rows": [],
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _settings(model, labels: np.ndarray) -> dict:
    """What the rows must have in common."""
    described = _request(model, labels, "ddpm", 1).describe()
    return {name: described[name] for name in ("training_step", "weights", "images", "labels", "noise_levels", "seed")}


def _save(result: dict):
    from keras_sid2.io.atomic import atomic_write

    if FLAGS.json:
        with atomic_write(FLAGS.json) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")


# -- the table and the plot ----------------------------------------------------------------------------------------


def _lines(result: dict) -> dict[str, list[dict]]:
    """The rows of each sampler, by number of steps."""
    rows = sorted(result["rows"], key=lambda row: row["steps"])
    lines = {sampler: [row for row in rows if row["sampler"] == sampler] for sampler in MARKERS}
    return {sampler: line for sampler, line in lines.items() if line}


def _show(result: dict):
    console = rich.console.Console()
    console = console if console.is_terminal else rich.console.Console(width=120)
    halves = result["frechet_halves"]
    columns = ("steps", "evaluations", "Frechet distance", "by that of real halves", "class accuracy", "seconds")
    table = rich.table.Table(title=f"sampler_steps, noise levels {result['settings']['noise_levels']}")
    table.add_column("sampler")
    for column in columns:
        table.add_column(column, justify="right")
    for sampler, line in _lines(result).items():
        for row in line:
            counts = (str(row[key]) for key in ("steps", "evaluations"))
            values = (f"{row['frechet']:.4f}", f"{row['frechet'] / halves:.2f}", f"{row['accuracy']:.4f}")
            table.add_row(sampler, *counts, *values, f"{row['seconds_with_compiling']:.0f}")
        table.add_section()
    console.print(table)
    console.print(f"one half of the real digits to the other: {halves:.4f}", highlight=False)


def _plot(result: dict):
    """Frechet distance against evaluations of the network, a line for each sampler."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    from keras_sid2.io.atomic import atomic_write

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for sampler, line in _lines(result).items():
        x, y = ([row[key] for row in line] for key in ("evaluations", "frechet"))
        axes.loglog(x, y, marker=MARKERS[sampler], label=sampler)
    axes.axhline(result["frechet_halves"], color="black", linestyle="--", label="real digits, half to half")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(ticker.FormatStrFormatter("%g"))
    axes.set(xlabel="network evaluations an image", ylabel="Frechet distance")
    axes.set_title(f"digits, noise levels {result['settings']['noise_levels']}")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with atomic_write(FLAGS.plot) as temporary:
        figure.savefig(temporary, dpi=150)


def main(argv):
    del argv
    from keras_sid2.checkpoints import load_model

    model = load_model(FLAGS.checkpoint)
    images, labels = _real_digits()
    result = _begun(_settings(model, labels))
    judge = Judge(images, labels)
    result["frechet_halves"] = judge.frechet_halves()
    done = {(row["sampler"], row["steps"]) for row in result["rows"]}
    for case in [(s, n) for n in map(int, FLAGS.steps) for s in FLAGS.samplers if (s, n) not in done]:
        print("request: sampler {}, {} steps".format(*case), flush=True)
        result["rows"].append(_row(model, judge, *case))
        _save(result)
    _show(result)
    if FLAGS.plot:
        _plot(result)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
