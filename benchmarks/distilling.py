"""How near does a student of few steps come to its teacher of many?

    python benchmarks/distilling.py --workdir=runs/distilling --json=result.json            # half an hour of one core

The teacher is the trained `sid2_digits` that comes with the library (another by --teacher); students of it are
distilled by moment matching, on scikit-learn's handwritten digits. The measure is the Frechet distance of 2000 drawn
digits, classes in turn, to all real ones (features of a classifier that was fitted on them) with its 95 % interval
(`keras_sid2.evaluation.measure` says of what), and the share of them that the classifier takes for their class. Beside
the students, as they train: the teacher with 256 steps, and the teacher in as few evaluations by dpmpp_2m.

A second start keeps the rows of --json, and goes on with a student where --workdir has it.
"""

import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS
SETTINGS = ("teacher", "steps", "every", "batch_size", "learning_rate", "images", "auxiliary_steps", "own_levels")


def _define_flags():
    flags.DEFINE_string("teacher", "sid2_digits_trained", "A name or folder that SiD2Model.from_preset takes.")
    flags.DEFINE_integer("steps", 1000, "Training steps, of the student and of the auxiliary network.", lower_bound=2)
    flags.DEFINE_integer("every", 250, "Steps between two measurements.", lower_bound=1)
    flags.DEFINE_list("students", ["8:0", "4:0", "2:0", "1:0", "8:1", "8:2"], "Steps that they draw in, and seeds.")
    flags.DEFINE_integer("batch_size", 64, "Digits a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 1e-3, "Of the students; it falls to 0.", lower_bound=0.0)
    flags.DEFINE_integer("auxiliary_steps", 1, "Of the auxiliary network, to each of the student's.", lower_bound=1)
    flags.DEFINE_bool("own_levels", False, "Train at the noise levels that the student draws at.")
    flags.DEFINE_integer("images", 2000, "Digits drawn for a row.", lower_bound=100)
    flags.DEFINE_string("workdir", None, "Folder of the students, as .keras files.", required=True)
    flags.DEFINE_string("json", None, "Where to write the result, row by row, and to go on with it.")


class Rows:
    """What models draw, printed and written as they are measured; a row that is there is not drawn again."""

    def __init__(self, digits: dict):
        from keras_sid2.evaluation import ImageClassifier

        self._judge = ImageClassifier(digits["image"], digits["label"])
        self._real, self._labels = self._set_of(digits["image"]), np.arange(FLAGS.images) % 10
        there = pathlib.Path(FLAGS.json) if FLAGS.json else None
        found = json.loads(there.read_text()) if there and there.is_file() else {"rows": []}
        settings = {name: getattr(FLAGS, name) for name in SETTINGS}
        if found.get("settings", settings) != settings:
            raise app.UsageError(f"--json={there} is of other settings: {found['settings']}.")
        self._result = {**report.heading("distilling", __doc__), "settings": settings, "rows": found["rows"]}

    def _set_of(self, images: np.ndarray):
        from keras_sid2.evaluation.feature_set import FeatureSet

        found = FeatureSet()
        found.add(self._judge.features(images))
        return found

    def has(self, **key) -> bool:
        return any(key.items() <= row.items() for row in self._result["rows"])

    def measure(self, model, key: dict, told: dict | None = None, **options):
        """Draws with `options`, unless the row of `key` is there; `told` is written beside."""
        from keras_sid2.evaluation.measure import measure

        if self.has(**key):
            return
        wall, processor = time.perf_counter(), time.process_time()
        drawn = model.generate(self._labels, batch_size=500, seed=key["seed"], **options)
        row = {**key, "wall_seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
        row |= {"accuracy": self._judge.accuracy(drawn, self._labels), **(told or {})}
        row |= {n: v for n, v in measure(self._set_of(drawn), self._real).items() if n.startswith("frechet")}
        self._result["rows"].append(row)
        line = "{name:<18} steps {k:3d}  seed {seed}  trained {step:5d}  Frechet {frechet:.4f} [{frechet_low:.4f}, "
        print((line + "{frechet_high:.4f}]  accuracy {accuracy:.3f}").format(**row), flush=True)
        if FLAGS.json:
            pathlib.Path(FLAGS.json).write_text(json.dumps(self._result, indent=1) + "\n")


def _batches(digits: dict, first: int, last: int, seed: int) -> dict:
    """The random digits of steps first <= i < last."""
    rows = np.random.default_rng(seed).integers(0, len(digits["label"]), (last, FLAGS.batch_size))[first:].ravel()
    return {name: values[rows] for name, values in digits.items()}


def _student(teacher, k: int, seed: int, path: pathlib.Path):
    """A new one, or that in the file."""
    import keras

    from keras_sid2 import AdamRecipe, MomentMatchingModel

    if path.is_file():
        return keras.saving.load_model(path)
    falling = {"decay": "linear", "decay_steps": FLAGS.steps, "ema_decay": 0.99, "ema_warmup": True}
    recipe = AdamRecipe(FLAGS.learning_rate, warmup_steps=min(50, FLAGS.steps // 2), beta_1=0.0, **falling)
    how = {"auxiliary_steps": FLAGS.auxiliary_steps, "own_levels": FLAGS.own_levels}
    student = MomentMatchingModel.of_teacher(teacher, k, recipe=recipe, seed=seed, **how)
    student.compile()
    return student


def _train(teacher, k: int, seed: int, digits: dict, rows: Rows):
    path = pathlib.Path(FLAGS.workdir) / f"student-{k}-{seed}.keras"
    student = _student(teacher, k, seed, path)
    for first in range(0, FLAGS.steps, FLAGS.every):
        last, began = min(first + FLAGS.every, FLAGS.steps), time.process_time()
        if int(student.step.numpy()) < last:
            given = _batches(digits, first, last, seed)
            student.fit(given, batch_size=FLAGS.batch_size, shuffle=False, verbose=0)
            student.save(path)
        told = {"training_seconds": time.process_time() - began}
        rows.measure(student, {"name": "student", "k": k, "seed": seed, "step": last}, told)


def main(argv):
    del argv
    from sklearn.datasets import load_digits

    from keras_sid2 import SiD2Model

    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype("uint8")[..., None]
    digits = {"image": images, "label": found.target.astype("int32")}
    pathlib.Path(FLAGS.workdir).mkdir(parents=True, exist_ok=True)
    rows, teacher = Rows(digits), SiD2Model.from_preset(FLAGS.teacher)
    trained = {"seed": 0, "step": int(teacher.step.numpy())}
    students = [tuple(map(int, text.split(":"))) for text in FLAGS.students]
    for k, seed in students:
        _train(teacher, k, seed, digits, rows)
        for sampler in ("dpmpp_2m", "ddpm"):
            rows.measure(teacher, {"name": f"teacher, {sampler}", "k": k, **trained}, num_steps=k, sampler=sampler)
        rows.measure(teacher, {"name": "teacher, ddpm", "k": 256, **trained}, num_steps=256)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
