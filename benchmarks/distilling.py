"""How near does a student of few steps come to its teacher of many?

    python benchmarks/distilling.py --json=result.json            # half an hour of one core

A teacher, `sid2_digits`, is trained on scikit-learn's handwritten digits; students of it are distilled by moment
matching, on the same digits. The measure is the Frechet distance of 500 drawn digits, classes in turn, to all real ones
(features of a classifier that was fitted on them), and the share of them that it takes for their class. Beside the
students, as they train: the teacher with 256 steps, and the teacher in as few evaluations by dpmpp_2m.
"""

import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS
DRAWN = 500


def _define_flags():
    flags.DEFINE_integer("teacher_steps", 1000, "Training steps of the teacher.", lower_bound=1)
    flags.DEFINE_integer("steps", 2000, "Training steps of a student, every other of its own.", lower_bound=2)
    flags.DEFINE_integer("every", 500, "Steps between two measurements.", lower_bound=1)
    flags.DEFINE_list("students", ["8"], "Steps that the students draw in.")
    flags.DEFINE_integer("batch_size", 64, "Digits a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 5e-4, "Of the students; it falls to 0.", lower_bound=0.0)
    flags.DEFINE_integer("seed", 0, "Of initial weights and noise.", lower_bound=0)
    flags.DEFINE_string("json", None, "Where to write the result, row by row.")


class Measured:
    """Rows of what models draw, printed and written as they come."""

    def __init__(self, digits: dict):
        from keras_sid2.evaluation import ImageClassifier

        self._classifier = ImageClassifier(digits["image"], digits["label"])
        self._real, self._labels = self._classifier.features(digits["image"]), np.arange(DRAWN) % 10
        self._began, self.rows = time.process_time(), []

    def __call__(self, name: str, model, **options):
        from keras_sid2.evaluation import frechet_distance

        trained = time.process_time() - self._began
        drawn = model.generate(self._labels, batch_size=DRAWN // 2, **options)
        row = {"name": name, "step": int(model.step.numpy()), "processor_seconds": trained}
        row["frechet"] = frechet_distance(self._classifier.features(drawn), self._real)
        row["accuracy"] = self._classifier.accuracy(drawn, self._labels)
        self.rows.append(row)
        print("{name:<28} step {step:5d}  Frechet {frechet:7.4f}  accuracy {accuracy:.3f}".format(**row), flush=True)
        if FLAGS.json:
            names = ("teacher_steps", "steps", "batch_size", "learning_rate", "seed")
            settings = {name: getattr(FLAGS, name) for name in names}
            result = {**report.heading("distilling", __doc__), "settings": settings, "rows": self.rows}
            pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")


def _fit(model, digits: dict, steps: int, first: int = 0):
    """`steps` more on batches of random digits, those of the numbers from `first` on."""
    rng = np.random.default_rng(FLAGS.seed)
    rows = rng.integers(0, len(digits["label"]), (first + steps, FLAGS.batch_size))[first:].ravel()
    chosen = {name: values[rows] for name, values in digits.items()}
    model.fit(chosen, batch_size=FLAGS.batch_size, shuffle=False, verbose=0)


def _students(teacher, digits: dict, measured: Measured):
    from keras_sid2 import AdamRecipe, MomentMatchingModel

    falling = {"decay": "linear", "decay_steps": FLAGS.steps, "ema_decay": 0.99, "ema_warmup": True}
    recipe = AdamRecipe(FLAGS.learning_rate, warmup_steps=min(50, FLAGS.steps // 2), beta_1=0.0, **falling)
    for k in map(int, FLAGS.students):
        measured(f"teacher, dpmpp_2m, {k} steps", teacher, num_steps=k, sampler="dpmpp_2m")
        student = MomentMatchingModel.of_teacher(teacher, k, recipe=recipe, seed=FLAGS.seed)
        student.compile()
        for step in range(0, FLAGS.steps, FLAGS.every):
            _fit(student, digits, min(FLAGS.every, FLAGS.steps - step), first=step)
            measured(f"student of {k} steps", student)


def main(argv):
    del argv
    import keras
    from sklearn.datasets import load_digits

    from keras_sid2 import SiD2Model

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype("uint8")[..., None]
    digits = {"image": images, "label": found.target.astype("int32")}
    measured = Measured(digits)
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = SiD2Model.from_preset("sid2_digits", seed=FLAGS.seed)
    teacher.compile()
    _fit(teacher, digits, FLAGS.teacher_steps)
    measured("teacher, 256 steps", teacher, num_steps=256)
    _students(teacher, digits, measured)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
