"""Question: is an ensemble that a trained model draws for a condition the posterior, and does it tell what is lost?

   python benchmarks/fields.py --json=result.json --plot=result.png

posterior   random fields (2 channels, 8 x 8, periodic, known spectrum) observed through blur and noise, whose posterior
            is known: gaussian_fields.py. Beside the model's ensembles those of the posterior itself, of as many members
            for the same truths, which say what figures so few truths and members can give:
                mean_error     deviation of the ensemble's mean from the posterior's, by the posterior's deviation;
                               of E true members 1 / E^1/2
                spread         by the posterior's deviation; crps: by the closed form's, s / pi^1/2
                mode_spread    deviation of the ensembles' modes by the posterior's, least and greatest over wavenumbers
flow        a simulated flow (32 x 32, periodic, vorticity: flow.py) of which means over 4 x 4 pixels are seen; its CRPS
            beside the mean absolute errors of bicubic interpolation and of the ensemble's mean, and spectra

Networks have periodic edges and the observation as an image beside the sample; data are in physical units, which the
models' channels undo. Expected: figures of the posterior's ensembles; CRPS below both errors.
"""

import json
import pathlib
import time

import flow
import numpy as np
import report
from absl import app, flags
from gaussian_fields import GaussianFields

FLAGS = flags.FLAGS
BOTH = ("height", "width")
UNITS = np.array([285.0, -3.0]), np.array([12.0, 0.5])  # mean and deviation of the posterior case's two channels


def _define_flags():
    flags.DEFINE_list("cases", ["posterior", "flow"], "Which rows.")
    flags.DEFINE_integer("posterior_steps", 2500, "Training steps of the first row, 64 fields each.", lower_bound=1)
    flags.DEFINE_integer("flow_steps", 1000, "Of the second, 16 fields each.", lower_bound=1)
    flags.DEFINE_integer("runs", 400, "Simulated flows to train on, four times of each.", lower_bound=1)
    flags.DEFINE_integer("truths", 64, "Truths that ensembles are drawn for.", lower_bound=2)
    flags.DEFINE_integer("members", 16, "Of an ensemble.", lower_bound=2)
    flags.DEFINE_integer("num_steps", 48, "Sampler steps (dpmpp_2m).", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("plot", None, "Where to draw truth, what is seen, bicubic and two members of the second row.")


def _model(sample, seen, names, levels, units, units_of_seen, steps: int):
    """A model of fields of one shape, conditioned on those of another, each with (mean, deviation) by channel."""
    from keras_sid2 import AdamRecipe, Channels, ResidualUViT, SiD2Model, SigmoidWeighting
    from keras_sid2.conditions import Image
    from keras_sid2.diffusion import CosineSchedule

    low = Image(seen, channels=Channels([f"{name} seen" for name in names], *units_of_seen))
    network = ResidualUViT(sample, 1, None, 64, levels, conditions={"seen": low}, periodic=BOTH)
    rate = {"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine", "decay_steps": max(steps, 101)}
    recipe = AdamRecipe(**rate, ema_decay=0.998, ema_warmup=True)
    options = {"recipe": recipe, "channels": Channels(names, *units), "label_dropout": 0.0}
    return SiD2Model(network, CosineSchedule(), SigmoidWeighting(2.0), **options)


def _train(model, batch, steps: int) -> float:
    """`batch(step)` is the data of a step; the loss of the last tenth of the steps."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self, first, count):
            super().__init__()
            self.first, self.count = first, count

        def __len__(self):
            return self.count

        def __getitem__(self, step):
            return batch(self.first + step)

    model.compile()
    last = max(steps // 10, 1)
    for first, count in ((0, steps - last), (steps - last, last)):
        if count:
            found = model.fit(Batches(first, count), epochs=1, shuffle=False, verbose=0).history["loss"][-1]
    return float(found)


def _draw(model, seen) -> np.ndarray:
    options = {"num_steps": FLAGS.num_steps, "sampler": "dpmpp_2m", "seed": 1, "batch_size": 256}
    return model.generate(conditions={"seen": seen}, ensemble_size=FLAGS.members, **options)


def _scores(ensembles, truth, names) -> dict[str, float]:
    from keras_sid2.evaluation import measure_fields

    return measure_fields([(ensembles, truth)], names, periodic=BOTH).metrics


def _beside_posterior(problem: GaussianFields, ensembles, x, y) -> dict[str, float]:
    """Figures of ensembles [N, E, H, W, 2] without units, means over the two channels."""
    from keras_sid2.evaluation import power_spectrum

    metrics, s = _scores(ensembles, x, ["a", "b"]), problem.deviation()
    own = ensembles - ensembles.mean(1, keepdims=True)
    spectra = [power_spectrum(own)[1].mean((0, 1)) * FLAGS.members / (FLAGS.members - 1)]
    many = problem.members(y[:1] * 0.0, 20_000, np.random.default_rng(9))
    modes = np.sqrt(spectra[0] / power_spectrum(many)[1].mean((0, 1)))
    mean = {k: np.mean([metrics[f"{k}_a"], metrics[f"{k}_b"]]) for k in ("crps", "spread", "spread_skill")}
    return {
        "mean_error": float((ensembles.mean(1) - problem.mean(y)).std() / s),
        "spread": float(mean["spread"] / s),
        "crps": float(mean["crps"] * np.pi**0.5 / s),
        "spread_skill": float(mean["spread_skill"]),
        "mode_spread": [float(modes.min()), float(modes.max())],
        "log_spectral_distance": float(max(metrics[f"log_spectral_distance_{c}"] for c in "ab")),
        "wasserstein": float(max(metrics[f"wasserstein_{c}"] for c in "ab")),
    }


def posterior() -> list[dict]:
    from keras_sid2 import Level

    problem, (offset, scale) = GaussianFields(), UNITS
    levels = [Level("res", 32, 1), Level("transformer", 64, 2, head_dim=32)]
    spread = np.sqrt((problem.prior * problem.blur**2).mean() + problem.tau**2)
    shape = (problem.side, problem.side, 2)
    model = _model(shape, shape, ("a", "b"), levels, UNITS, (np.zeros(2), np.full(2, spread)), FLAGS.posterior_steps)

    def batch(step):
        x, y = problem.draw(64, np.random.default_rng([0, step]))
        return {"image": (offset + scale * x).astype("float32"), "seen": y.astype("float32")}

    began = time.process_time()
    loss = _train(model, batch, FLAGS.posterior_steps)
    x, y = problem.draw(FLAGS.truths, np.random.default_rng([1, 0]))
    drawn = (_draw(model, y.astype("float32")) - offset) / scale
    exact = problem.members(y, FLAGS.members, np.random.default_rng([2, 0]))
    rows = [{"case": "posterior, model", "loss": loss, **_beside_posterior(problem, drawn, x, y)}]
    rows[0]["processor_seconds"] = time.process_time() - began
    return [*rows, {"case": "posterior, itself", **_beside_posterior(problem, exact, x, y)}]


def super_resolution() -> list[dict]:
    from keras_sid2 import Level
    from keras_sid2.evaluation import power_spectrum

    began = time.process_time()
    fields = flow.vorticity(FLAGS.runs, seed=0).reshape(-1, 32, 32, 1)
    truth = flow.vorticity(FLAGS.truths, seed=1)[:, 1]  # of other beginnings
    simulated, units = time.process_time() - began, ([0.0], [float(fields.std())])
    levels = [Level("res", 24, 1), Level("res", 48, 1), Level("transformer", 96, 2, head_dim=32)]
    of_seen = ([0.0], [float(flow.coarse(fields).std())])
    model = _model((32, 32, 1), (8, 8, 1), ("vorticity",), levels, units, of_seen, FLAGS.flow_steps)

    def batch(step):
        rng = np.random.default_rng([0, step])
        rolls = rng.integers(32, size=(16, 2))
        chosen = [np.roll(fields[i], tuple(r), (0, 1)) for i, r in zip(rng.integers(len(fields), size=16), rolls)]  # noqa: B905
        return {"image": np.stack(chosen), "seen": flow.coarse(np.stack(chosen))}

    loss, seen = _train(model, batch, FLAGS.flow_steps), flow.coarse(truth)
    drawn, cubic = _draw(model, seen), flow.bicubic(seen)
    metrics = {k.removesuffix("_vorticity"): v for k, v in _scores(drawn, truth, ["vorticity"]).items()}
    error, spectra = np.abs(cubic - truth).mean(dtype="float64"), {}
    for name, shown in (("truth", truth), ("members", drawn), ("mean", drawn.mean(1)), ("bicubic", cubic)):
        spectra[name] = power_spectrum(shown)[1].reshape(-1, 16).mean(0).tolist()
    row = {
        "case": "flow",
        "loss": loss,
        "mae_bicubic": float(error),
        **metrics,
        "crps / mae of bicubic": float(metrics["crps"] / error),
        "crps / mae of the mean": metrics["crps"] / metrics["mae"],
        "log_spectral_distance": _decibels(spectra["members"], spectra["truth"]),
        "log_spectral_distance of bicubic": _decibels(spectra["bicubic"], spectra["truth"]),
        "seen_again": float(np.abs(flow.coarse(drawn[:, 0]) - seen).mean() / np.abs(seen).mean()),
        "spectra": spectra,
        "simulation_seconds": simulated,
        "processor_seconds": time.process_time() - began,
    }
    if FLAGS.plot:
        _plot(truth, seen, cubic, drawn, spectra)
    return [row]


def _decibels(found, truth, most: int = 10) -> float:
    """The distance of spectra up to wavenumber 10: a third of the pixels, beyond which the simulation leaves out."""
    return float(np.sqrt(np.square(10.0 * np.log10(np.array(found) / np.array(truth))[:most]).mean()))


def _plot(truth, seen, cubic, drawn, spectra):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = {"truth": truth, "seen": seen, "bicubic": cubic, "a member": drawn[:, 0], "another": drawn[:, 1]}
    shown["mean of all"] = drawn.mean(1)
    figure, axes = pyplot.subplots(3, len(shown) + 1, figsize=(2 * len(shown) + 3, 6.2), layout="constrained")
    for column, (name, fields) in enumerate(shown.items()):
        axes[0, column].set_title(name)
        for row in range(3):
            limit = np.abs(truth[row]).max()
            axes[row, column].imshow(fields[row, :, :, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes[row, column].set_axis_off()
    for row in range(3):
        axes[row, -1].remove()
    spectrum = figure.add_subplot(axes[0, -1].get_gridspec()[:, -1])
    for name, power in spectra.items():
        spectrum.loglog(np.arange(1, 17), power, label=name, linestyle="--" if name == "truth" else "-")
    spectrum.set(title="power", xlabel="wavenumber", ylim=(1e-2 * min(spectra["truth"]), None))
    spectrum.legend()
    figure.savefig(FLAGS.plot, dpi=90)


def main(argv):
    del argv
    import keras

    names = ("posterior_steps", "flow_steps", "runs", "truths", "members", "num_steps")
    settings = {"backend": keras.backend.backend(), **{name: getattr(FLAGS, name) for name in names}}
    rows = []
    for case in FLAGS.cases:
        rows += {"posterior": posterior, "flow": super_resolution}[case]()
        for row in rows[-2:] if case == "posterior" else rows[-1:]:
            print(json.dumps(row), flush=True)
        if FLAGS.json:
            result = {**report.heading("fields", __doc__), "settings": settings, "rows": rows}
            pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
