"""How many steps does a model of finer images save that begins with the weights of one of coarser images?

    python benchmarks/adapting.py --json=result.json            # five minutes of one core
    python benchmarks/adapting.py --only=parts                   # parts of the adaptation left out, in turn

A network like `sid2_digits`, smaller, is trained on scikit-learn's handwritten digits, 8 x 8. Then two are trained on
the same digits made 16 x 16 (bicubic), with patches of 2 x 2: one from new weights, one by `model.adapt`. Each is
measured by its loss on digits that it was not trained on, and by the Frechet distance of 500 drawn digits to all real
ones (features of a classifier that was fitted on them). A row of "steps to" says when each had come down to a level for
good, straight between two measurements: the levels are those that new weights came to.
"""

import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS
MEASURES = ("loss", "frechet")
CLASSES, DRAWN = 10, 500


def _define_flags():
    flags.DEFINE_integer("base_steps", 1500, "Steps at 8 x 8.", lower_bound=1)
    flags.DEFINE_integer("steps", 900, "Steps at 16 x 16 from new weights.", lower_bound=1)
    flags.DEFINE_integer("adapted_steps", 400, "Steps at 16 x 16 from adapted weights.", lower_bound=1)
    flags.DEFINE_integer("every", 50, "Steps between two measurements.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 32, "Digits a step.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of initial weights and noise.", lower_bound=0)
    flags.DEFINE_enum("only", None, ["parts"], "Leave out `resizing.detail_in`, too.")
    flags.DEFINE_string("json", None, "Where to write the result.")


class Digits:
    """All digits, 8 x 8 or 16 x 16 grey; every tenth is for testing."""

    def __init__(self, side: int):
        from PIL import Image
        from sklearn.datasets import load_digits

        found = load_digits()
        images = np.rint(found.images * (255 / 16)).astype("uint8")
        resized = (np.asarray(Image.fromarray(image).resize((side, side), Image.BICUBIC)) for image in images)
        self.images, self.labels = np.stack([*resized])[..., None], found.target.astype("int32")
        self._test = np.arange(len(images)) % 10 == 0

    def part(self, test: bool) -> dict[str, np.ndarray]:
        chosen = self._test == test
        return {"image": self.images[chosen], "label": self.labels[chosen]}


class Judge:
    """What a model of 16 x 16 digits is worth."""

    def __init__(self, digits: Digits):
        from keras_sid2.evaluation import ImageClassifier

        self._digits, self._classifier = digits, ImageClassifier(digits.images, digits.labels)
        self._real, self._labels = self._classifier.features(digits.images), np.arange(DRAWN) % CLASSES

    def __call__(self, model) -> dict[str, float]:
        from keras_sid2.evaluation import frechet_distance

        loss = model.evaluate(self._digits.part(test=True), batch_size=180, return_dict=True, verbose=0)["loss"]
        drawn = model.generate(self._labels, num_steps=16, sampler="dpmpp_2m", batch_size=DRAWN // 2)
        distance = frechet_distance(self._classifier.features(drawn), self._real)
        return {"loss": float(loss), "frechet": distance, "accuracy": self._classifier.accuracy(drawn, self._labels)}


def _new_model(side: int, patch_size: int):
    """A smaller sid2_digits."""
    import dataclasses

    import keras

    from keras_sid2 import SiD2Model
    from keras_sid2.training import find_preset

    preset = find_preset("sid2_digits")
    levels = [{**level, "channels": level["channels"] * 2 // 3, "blocks": 1} for level in preset.network["levels"]]
    changes = {"image_shape": (side, side, 1), "patch_size": patch_size, "levels": levels}
    keras.utils.set_random_seed(FLAGS.seed)
    recipe = dataclasses.replace(preset.recipe, warmup_steps=50)
    changed = dataclasses.replace(preset, network={**preset.network, **changes}, recipe=recipe)
    return changed.build(SiD2Model, seed=FLAGS.seed)


def _fit(model, digits: Digits, steps: int, first: int = 0):
    """`steps` more on batches of random digits, those of the numbers from `first` on."""
    data, rng = digits.part(test=False), np.random.default_rng(FLAGS.seed)
    rows = rng.integers(0, len(data["label"]), (first + steps, FLAGS.batch_size))[first:].ravel()
    chosen = {name: values[rows] for name, values in data.items()}
    model.fit(chosen, batch_size=FLAGS.batch_size, shuffle=False, verbose=0)


def _curve(name: str, model, digits: Digits, judge: Judge, steps: int) -> list[dict]:
    model.compile()
    rows, began = [], time.process_time()
    for step in range(0, steps + 1, FLAGS.every):
        if step:
            _fit(model, digits, FLAGS.every, first=step - FLAGS.every)
        rows.append({"step": step, **judge(model), "processor_seconds": time.process_time() - began})
        told = "{step:5d} steps  loss {loss:.4f}  Frechet {frechet:8.4f}  accuracy {accuracy:.3f}".format(**rows[-1])
        print(f"{name:<16} {told}  {rows[-1]['processor_seconds']:.0f} s", flush=True)
    return rows


def _base(digits: Digits):
    model = _new_model(8, 1)
    model.compile()
    _fit(model, digits, FLAGS.base_steps)
    return model


def _cases(base) -> dict:
    """{name: (model, steps)}."""
    from keras_sid2.backend.state import replaced
    from keras_sid2.training import resizing

    cases = {"new": (_new_model(16, 2), FLAGS.steps), "adapted": (base.adapt((16, 16, 1)), FLAGS.adapted_steps)}
    if FLAGS.only == "parts":
        with replaced(resizing, detail_in=lambda kernel, old, seed: kernel):
            cases = {"adapted": cases["adapted"], "without detail": (base.adapt((16, 16, 1)), FLAGS.adapted_steps)}
    return cases


def _steps_to(rows: list[dict], measure: str, level: float) -> float | None:
    """The first step at or below a level from which all later ones are, straight between two; None if none is."""
    above = [i for i, row in enumerate(rows) if row[measure] > level]
    if not above:
        return float(rows[0]["step"])
    if above[-1] == len(rows) - 1:
        return None
    before, after = rows[above[-1]], rows[above[-1] + 1]
    share = (before[measure] - level) / (before[measure] - after[measure])
    return before["step"] + share * (after["step"] - before["step"])


def _compared(curves: dict) -> list[dict]:
    """Steps of both to the levels that new weights came to at a half, at three quarters, and at the end."""
    found, new = [], curves["new"]
    for measure in MEASURES:
        for share in (0.5, 0.75, 1.0):
            reached = [row[measure] for row in new if row["step"] <= share * new[-1]["step"]]
            level = min(reached)
            steps = {name: _steps_to(rows, measure, level) for name, rows in curves.items()}
            ratio = None if None in steps.values() else steps["adapted"] / steps["new"]
            found.append({"measure": measure, "level": level, **steps, "adapted / new": ratio})
            print(
                "steps to {measure} {level:.4f}: new {new}, adapted {adapted}, ratio {r}".format(r=ratio, **found[-1])
            )
    return found


def main(argv):
    del argv
    began = time.process_time()
    base, digits = _base(Digits(8)), Digits(16)
    print(f"{FLAGS.base_steps} steps at 8 x 8 took {time.process_time() - began:.0f} s", flush=True)
    judge, cases = Judge(digits), _cases(base)
    curves = {name: _curve(name, model, digits, judge, steps) for name, (model, steps) in cases.items()}
    names = ("base_steps", "steps", "adapted_steps", "every", "batch_size", "seed")
    result = {
        **report.heading("adapting", __doc__),
        "settings": {name: getattr(FLAGS, name) for name in names},
        "curves": curves,
        "steps_to": _compared(curves) if "new" in curves else [],
        "processor_seconds": time.process_time() - began,
    }
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    _define_flags()
    app.run(main)
