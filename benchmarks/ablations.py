"""Question: which of SiD2's choices matter, and which way, on digits that one core can train?

    python benchmarks/ablations.py --json=result.json --plot=result.png          # half an hour of one core
    python benchmarks/ablations.py --cases="bias 4,x-prediction" --seeds=1       # two rows

The base is a smaller `sid2_digits` with two blocks before and behind each skip: v-prediction, sigmoid weighting of bias
2, one skip a level, patches of one pixel. Every other case changes one thing and keeps the rest, learning rate too.
Each is trained on scikit-learn's handwritten digits and judged by the Frechet distance of drawn digits to all real ones
(features of one classifier that was fitted on them), drawn with the averaged weights. A row is a case and a seed, of
initial weights, batches, noise and samples alike; a case is told by mean and standard deviation over its seeds.

Expected by the paper: sigmoid ahead of the other weightings, a best bias inside the sweep, residual skips no worse than
one for every block, finer patches ahead of a wider network, v-prediction ahead. What is seen is in
docs/guides/ablations.md.

--json is written after every row. A second start keeps its rows and makes those that are missing.
"""

import dataclasses
import json
import pathlib
import statistics
import time

import numpy as np
import report
import rich.table
from absl import app, flags

FLAGS = flags.FLAGS
CLASSES, BASE, BIASES = 10, "base", (-2, 0, 4, 6)
GROUPS = {  # what is compared with what; the base is one of each
    "weighting": ("base", "constant on eps", "constant on x", "EDM", "EDM-monotonic"),
    "bias": ("bias -2", "bias 0", "base", "bias 4", "bias 6"),
    "skips": ("base", "skip per block"),
    "multiply-adds": ("base", "patches of 2 x 2, wider"),
    "prediction": ("base", "x-prediction", "eps-prediction"),
}
NAMES = tuple(dict.fromkeys(name for names in GROUPS.values() for name in names))
AS_BASE = {"weighting": "sigmoid", "bias": "bias 2", "skips": "skip per level", "multiply-adds": "patches of 1 x 1"}
AS_BASE["prediction"] = "v-prediction"
WIDER = (64, 128)  # channels with patches of 2 x 2 that cost the base's multiply-adds


def _define_flags():
    flags.DEFINE_list("cases", list(NAMES), f"From {', '.join(NAMES)}.")
    flags.DEFINE_integer("seeds", 3, "Runs of each case.", lower_bound=1)
    flags.DEFINE_integer("steps", 500, "Steps of training.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Digits a step.", lower_bound=1)
    flags.DEFINE_integer("drawn", 600, "Digits drawn, as many of each class.", lower_bound=CLASSES)
    flags.DEFINE_integer("sampling_steps", 24, "Steps of dpmpp_2m.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the result, and to go on with it.")
    flags.DEFINE_string("plot", None, "Where to draw it, a PNG file; needs matplotlib.")
    flags.register_validator("cases", lambda values: set(values) <= set(NAMES), f"from {', '.join(NAMES)}")


# -- the cases -----------------------------------------------------------------------------------------------------


def _network(channels=(32, 64), patch_size: int = 1) -> dict:
    res = {"kind": "res", "channels": channels[0], "blocks": 2}
    middle = {"kind": "transformer", "channels": channels[1], "blocks": 2, "head_dim": 32}
    return {"levels": (res, middle), "embedding_dim": 64, "patch_size": patch_size}


def base():
    """A smaller sid2_digits."""
    from keras_sid2.training import find_preset

    preset = find_preset("sid2_digits")
    recipe = dataclasses.replace(preset.recipe, warmup_steps=50)
    return dataclasses.replace(preset, network={**preset.network, **_network()}, recipe=recipe)


def case(name: str):
    """The preset of a case: the base but for one thing."""
    import skips

    from keras_sid2 import diffusion

    weightings = {
        "constant on eps": diffusion.ConstantEpsWeighting(),
        "constant on x": diffusion.ConstantXWeighting(),
        "EDM": diffusion.EDMWeighting(),
        "EDM-monotonic": diffusion.EDMMonotonicWeighting(),
        **{f"bias {bias}": diffusion.SigmoidWeighting(bias) for bias in BIASES},
    }
    changed = {
        BASE: {},
        **{name: {"weighting": weighting} for name, weighting in weightings.items()},
        "skip per block": {"network_class": skips.SkipPerBlockUViT},
        "patches of 2 x 2, wider": {"network": {**base().network, **_network(WIDER, patch_size=2)}},
        "x-prediction": {"prediction": "x"},
        "eps-prediction": {"prediction": "eps"},
    }
    return dataclasses.replace(base(), **changed[name])


# -- a row ---------------------------------------------------------------------------------------------------------


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [N, 8, 8, 1], labels int32 [N])."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.rint(found.images * (255 / 16)).astype("uint8")[..., None], found.target.astype("int32")


def _trained(preset, seed: int, images, labels):
    import keras

    from keras_sid2 import SiD2Model

    keras.utils.set_random_seed(seed)
    model = preset.build(SiD2Model, seed=seed)
    model.compile()
    rows = np.random.default_rng(seed).integers(0, len(labels), FLAGS.steps * FLAGS.batch_size)
    data = {"image": images[rows], "label": labels[rows]}
    history = model.fit(data, batch_size=FLAGS.batch_size, shuffle=False, verbose=0).history
    return model, history["loss"][-1]


def _row(name: str, seed: int, judge, images, labels) -> dict:
    from keras_sid2.evaluation import frechet_distance

    began, preset = time.process_time(), case(name)
    model, loss = _trained(preset, seed, images, labels)
    trained = time.process_time()
    wanted = np.arange(FLAGS.drawn) % CLASSES
    how = {"num_steps": FLAGS.sampling_steps, "sampler": "dpmpp_2m", "batch_size": FLAGS.drawn, "seed": seed}
    drawn = model.generate(wanted, **how)
    return {
        "case": name,
        "seed": seed,
        "frechet": float(frechet_distance(judge.features(drawn), judge.features(images))),
        "accuracy": judge.accuracy(drawn, wanted),
        "mean_loss": float(loss),
        "parameters": preset.cost.parameters,
        "multiply_adds": preset.cost.multiply_adds,
        "seconds_training": trained - began,
        "seconds_drawing": time.process_time() - trained,
    }


# -- the table and the plot ----------------------------------------------------------------------------------------


def groups(rows: list[dict]) -> dict[str, list[dict]]:
    """By what is compared: the cases that there are, each with mean and standard deviation of its seeds."""
    found = {}
    for group, names in GROUPS.items():
        cases = [_told(group, name, [row for row in rows if row["case"] == name]) for name in names]
        found[group] = [case for case in cases if case["seeds"]]
    return {group: cases for group, cases in found.items() if cases}


def _told(group: str, name: str, rows: list[dict]) -> dict:
    told = {"case": AS_BASE[group] if name == BASE else name, "base": name == BASE, "seeds": len(rows)}
    for key in ("frechet", "accuracy"):
        values = [row[key] for row in rows]
        told[key] = statistics.fmean(values) if values else None
        told[f"{key}_deviation"] = statistics.stdev(values) if len(values) > 1 else 0.0
    return told | {key: rows[0][key] for key in ("parameters", "multiply_adds") if rows}


def _show(result: dict):
    table = rich.table.Table(title=f"{FLAGS.steps} steps of {FLAGS.batch_size} digits")
    for column in ("compared", "case", "Frechet distance", "accuracy", "multiply-adds", "parameters", "seeds"):
        table.add_column(column, justify="left" if column in ("compared", "case") else "right")
    for group, cases in groups(result["rows"]).items():
        for told in cases:
            values = [f"{told[key]:.3f} ± {told[f'{key}_deviation']:.3f}" for key in ("frechet", "accuracy")]
            counts = (f"{told['multiply_adds'] / 1e6:.2f} M", f"{told['parameters']:,}", str(told["seeds"]))
            table.add_row(group, told["case"], *values, *counts)
        table.add_section()
    report.console().print(table)


def draw(result: dict, path: str):
    """Bars of the Frechet distances with their standard deviations, the base in another colour."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = groups(result["rows"])
    counts = [len(cases) for cases in found.values()]
    size = (7.5, 0.7 * len(found) + 0.3 * sum(counts))
    figure, axes = pyplot.subplots(
        len(found), 1, figsize=size, height_ratios=counts, layout="constrained", squeeze=False, sharex=True
    )
    for panel, (group, cases) in zip(axes[:, 0], found.items(), strict=True):
        values, deviations = ([told[key] for told in cases] for key in ("frechet", "frechet_deviation"))
        colours = ["#1f6fb4" if told["base"] else "#b9bec4" for told in cases]
        panel.barh(range(len(cases)), values, xerr=deviations, color=colours, capsize=3)
        panel.set_yticks(range(len(cases)), [told["case"] for told in cases])
        panel.invert_yaxis()
        panel.set_title(group, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("Frechet distance, less is better: mean and standard deviation of the seeds")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv):
    del argv
    import keras

    from keras_sid2.evaluation import ImageClassifier

    images, labels = _digits()
    judge = ImageClassifier(images, labels)
    settings = {key: getattr(FLAGS, key) for key in ("steps", "batch_size", "drawn", "sampling_steps")}
    settings["backend"] = f"{keras.backend.backend()} {report.version(keras.backend.backend())}"
    result = report.begun("ablations", __doc__, settings, FLAGS.json)
    done = {(row["case"], row["seed"]) for row in result["rows"]}
    for name, seed in [(n, s) for s in range(FLAGS.seeds) for n in FLAGS.cases if (n, s) not in done]:
        result["rows"].append(row := _row(name, seed, judge, images, labels))
        took = row["seconds_training"] + row["seconds_drawing"]
        told = f"Frechet {row['frechet']:.3f}, accuracy {row['accuracy']:.3f}, {took:.0f} s"
        print(f"{name}, seed {seed}: {told}", flush=True)
        if FLAGS.json:
            _save(result)
    _show(result)
    if FLAGS.plot:
        draw(result, FLAGS.plot)


def _save(result: dict):
    from keras_sid2.io.atomic import atomic_write

    with atomic_write(FLAGS.json) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
