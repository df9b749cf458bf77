"""Does a student reach a distribution that is known in closed form?

    python benchmarks/distilling_gaussians.py --json=result.json            # half an hour of one core

The teacher is exact: E[x | z] of a mixture of Gaussians, in closed form, so that what is left is the error of
distillation. Student and auxiliary network are the same formula with a small network in it, which begins at 0: it may
move and sharpen the choice of the component and move its mean, and so be as steep between components as few steps need.
Cases:

    mixture     three Gaussians in the plane, of different weights and covariances
    anisotropic one Gaussian in 16 dimensions, standard deviations from 0.1 to 0.4 in directions drawn at random
    guided      the same with a label, N(m_label, S), and no label, N(0, S), guided with scale w: then the guided
                estimate is E[x | z] of the tilted density p(x | label)^w p(x)^(1-w) ~ N(w m_label, S), exactly

Beside each student stand DDIM and DPM-Solver++ of the teacher with as many steps, on the schedule of the students, and
on the plain cosine one. A row has the errors of weights (the
largest, relative), means (the largest distance, relative to the root mean square of the data) and covariances
(Frobenius, relative, the largest of the components), points counted to the nearest component in its own metric, and
the energy distance to points of the distribution. The schedule is shifted towards low noise, so that the last of four
steps begins below the components' deviations, and t is where the student draws: docs/guides/distillation.md says why.
--shift=1 --all_levels --auxiliary_steps=1 is the paper's way on the plain cosine schedule.
"""

import itertools
import json
import math
import pathlib
import time

import keras
import numpy as np
import report
from absl import app, flags
from keras import ops

FLAGS = flags.FLAGS
SCALE = 2.0  # of the guided case
EPOCH = 2000  # steps, behind which the points come again, with other noise
DRAWN, PAIRED = 500_000, 5_000  # points a row, and of them for the energy distance


class Mixture:
    """Gaussians of `weights` [K], `means` [K, D] and `covariances` [K, D, D]."""

    def __init__(self, weights, means, covariances):
        self.weights, self.means, self.covariances = (np.asarray(a, "float64") for a in (weights, means, covariances))

    def draw(self, count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.weights), count, p=self.weights)
        roots = np.linalg.cholesky(self.covariances)[chosen]
        return self.means[chosen] + np.einsum("nij,nj->ni", roots, rng.normal(size=(count, self.means.shape[1])))

    def errors(self, points: np.ndarray) -> dict[str, float]:
        apart = points[:, None] - self.means
        metric = np.einsum("nki,kij,nkj->nk", apart, np.linalg.inv(self.covariances), apart)
        logs = np.log(self.weights) - 0.5 * np.linalg.slogdet(self.covariances)[1] - 0.5 * metric
        nearest = logs.argmax(axis=1)
        parts = [points[nearest == k] for k in range(len(self.weights))]
        if min(map(len, parts)) < 2 * points.shape[1]:
            return dict.fromkeys(("weights", "means", "covariances"), math.inf)
        size = np.sqrt(
            np.einsum("k,kii->", self.weights, self.covariances) + self.weights @ np.square(self.means).sum(1)
        )
        weights = [len(part) / len(points) / w - 1 for part, w in zip(parts, self.weights, strict=True)]
        means = [np.linalg.norm(part.mean(0) - m) / size for part, m in zip(parts, self.means, strict=True)]
        pairs = zip(parts, self.covariances, strict=True)
        covariances = [np.linalg.norm(np.cov(part.T) - c) / np.linalg.norm(c) for part, c in pairs]
        return {"weights": max(map(abs, weights)), "means": max(means), "covariances": max(covariances)}


def _turned(deviations, angle: float) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return turn @ np.diag(np.square(deviations)) @ turn.T


def three_in_the_plane() -> Mixture:
    covariances = [_turned((0.1, 0.1), 0), _turned((0.15, 0.07), 0.6), _turned((0.08, 0.18), 0.3)]
    return Mixture([0.5, 0.3, 0.2], [[0.6, 0.0], [-0.5, 0.5], [-0.3, -0.6]], covariances)


def anisotropic(dimensions: int = 16) -> np.ndarray:
    """A covariance."""
    axes, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(dimensions, dimensions)))
    return (axes * np.geomspace(0.1, 0.4, dimensions) ** 2) @ axes.T


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of points [N, D], unbiased; 0 for equal distributions."""

    def apart(x, y):
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return np.sqrt(np.maximum(squares, 0.0)).sum()

    n, m = len(a), len(b)
    return float(2 * apart(a, b) / (n * m) - apart(a, a) / (n * (n - 1)) - apart(b, b) / (m * (m - 1)))


def _mixed(logs, values):
    return ops.sum(ops.softmax(logs, axis=-1)[..., None] * values, axis=1)


@keras.saving.register_keras_serializable(package="benchmarks")
class Posterior(keras.Model):
    """x_hat = E[x | z, label] of mixtures, one a label and the last one for no label, with a small network in it:

        sum_k softmax(e^c (logs_k + a_k)) (mean_k + S_k alpha (z - alpha mean_k) + B_k (z - alpha mean_k)) + d

    a, d are of z, E[x | z] and the noise level; c, B and what is added to mean_k, which is in logs_k, too, of noise
    level and label alone; all are 0 at first, S_k is exact.

    Args:
        mixtures: (weights, means, covariances) of each, equal in shape, as lists.
        width: of the network, of two hidden layers, and of the one for what is of the level alone.
    """

    def __init__(self, mixtures, width: int = 64, **kwargs):
        from keras_sid2.conditions import ClassLabel

        super().__init__(**kwargs)
        self.mixtures, self.width = mixtures, width
        self._weights_of, self._means, covariances = (np.array(part) for part in zip(*mixtures, strict=True))
        self._values, self._axes = np.linalg.eigh(covariances)
        self.sample_shape = (1, 1, self._means.shape[-1])
        self.conditions = {} if len(mixtures) == 1 else {"label": ClassLabel(len(mixtures) - 1)}
        components, size = self._means.shape[1:]
        sizes = {"a": components, "d": size, "b": components * size * size, "c": 1, "m": components * size}
        self.hidden = [keras.layers.Dense(width, activation="silu") for _ in range(2)]
        self.level = keras.layers.Dense(width, activation="silu")
        self.heads = {name: keras.layers.Dense(n, kernel_initializer="zeros") for name, n in sizes.items()}

    def call(self, inputs, training=None):
        size = self.sample_shape[-1]
        z, logsnr = ops.reshape(inputs["z_t"], (-1, size)), ops.reshape(inputs["logsnr"], (-1, 1))
        known = self._known(logsnr, inputs)
        level = self.level(known)
        logs, means, apart = self._exact(z, logsnr, inputs, self.heads["m"](level))
        h = ops.concatenate([z, _mixed(logs, means), known], axis=-1)
        for layer in self.hidden:
            h = layer(h)
        matrices = ops.reshape(self.heads["b"](level), (-1, means.shape[1], size, size))
        logs = (logs + self.heads["a"](h)) * ops.exp(self.heads["c"](level))
        found = _mixed(logs, means + ops.einsum("bkij,bkj->bki", matrices, apart)) + self.heads["d"](h)
        return ops.reshape(found, (-1, *self.sample_shape))

    def _known(self, logsnr, inputs):
        angles = logsnr * ops.convert_to_tensor([0.1, 0.2, 0.4, 0.8], "float32")
        label = [ops.one_hot(inputs["label"], len(self.mixtures), dtype="float32")] if self.conditions else []
        return ops.concatenate([ops.sin(angles), ops.cos(angles), *label], axis=-1)

    def _exact(self, z, logsnr, inputs, shift):
        """(logarithms of the components' shares [B, K], E[x | z, k] and z - alpha mean_k [B, K, D])."""

        def chosen(values):  # [mixtures, ...] -> [B or 1, ...]
            values = ops.convert_to_tensor(values, "float32")
            return ops.take(values, inputs["label"], axis=0) if self.conditions else values

        alpha, sigma = ops.sqrt(ops.sigmoid(logsnr))[..., None], ops.sqrt(ops.sigmoid(-logsnr))[..., None]
        means, values, axes = chosen(self._means), chosen(self._values), chosen(self._axes)
        means = means + ops.reshape(shift, (-1, *self._means.shape[1:]))
        spread = ops.square(alpha) * values + ops.square(sigma)  # eigenvalues of z's covariance
        axes = axes + 0 * spread[..., None]
        from_mean = z[:, None] - alpha * means
        apart = ops.einsum("bkij,bki->bkj", axes, from_mean)
        logs = ops.log(chosen(self._weights_of)) - 0.5 * ops.sum(ops.square(apart) / spread + ops.log(spread), axis=-1)
        return logs, means + ops.einsum("bkij,bkj->bki", axes, alpha * values / spread * apart), from_mean

    def get_config(self):
        return {**super().get_config(), "mixtures": self.mixtures, "width": self.width}


def case(name: str) -> tuple[Mixture, list, object]:
    """(what a student should draw, mixtures of the teacher, its guidance)."""
    from keras_sid2 import Guidance

    def plain(mixture: Mixture) -> tuple:
        return tuple(a.tolist() for a in (mixture.weights, mixture.means, mixture.covariances))

    if name == "mixture":
        return three_in_the_plane(), [plain(three_in_the_plane())], None
    covariance, mean = anisotropic(), np.random.default_rng(6).normal(size=16) * 0.2
    if name == "anisotropic":
        whole = Mixture([1.0], [mean], [covariance])
        return whole, [plain(whole)], None
    given, none = (Mixture([1.0], [m], [covariance]) for m in (mean, 0 * mean))
    return Mixture([1.0], [SCALE * mean], [covariance]), [plain(given), plain(none)], Guidance(SCALE)


def teacher_of(mixtures: list, width: int = 64, bias: float = 5.0, shift: float = 18.0):
    """Exact; with weighting and schedule of its students, whose noise is `shift` times lower than the cosine's."""
    from keras_sid2 import Channels, SiD2Model
    from keras_sid2.diffusion import ShiftedCosineSchedule, SigmoidWeighting

    network, size = Posterior(mixtures, width, name="posterior"), len(mixtures[0][1][0])
    unit = Channels([f"x{i}" for i in range(size)], mean=[0.0] * size, std=[1.0] * size)  # as they are, not clipped
    schedule = ShiftedCosineSchedule(shift, 1.0, logsnr_min=-12.0, logsnr_max=12.0)
    parts = {"schedule": schedule, "weighting": SigmoidWeighting(bias), "prediction": "x"}
    return SiD2Model(network, **parts, channels=unit, label_dropout=0.1)


def student_of(teacher, mixture: Mixture, k: int, guidance, *, steps: int, batch_size: int, rate: float, seed=0, **how):
    """A student that was trained for so many steps, on the teacher's own distribution; `how` are of `of_teacher`."""
    from keras_sid2 import AdamRecipe, MomentMatchingModel

    falling = {"decay": "linear", "decay_steps": steps, "ema_decay": 0.9995, "ema_warmup": True}
    recipe = AdamRecipe(rate, warmup_steps=min(100, steps // 2), beta_1=0.0, **falling)
    student = MomentMatchingModel.of_teacher(teacher, k, guidance, recipe=recipe, seed=seed, **how)
    student.compile()
    epoch = min(steps, EPOCH)
    data = {"image": mixture.draw(epoch * batch_size, seed + 1).astype("float32")[:, None, None]}
    if teacher.conditions:
        data["label"] = np.zeros(epoch * batch_size, "int32")
    student.fit(data, batch_size=batch_size, epochs=steps // epoch, shuffle=False, verbose=0)
    return student


def drawn(model, count: int = DRAWN, seed: int = 3, **options) -> np.ndarray:
    labels = {"labels": [0] * count} if model.conditions else {"num_images": count}
    return model.generate(**labels, batch_size=min(count, 5000), seed=seed, clip=None, **options).reshape(count, -1)


def rows_of(name: str, k: int, seeds, **how):
    """What each model draws in k steps, as it is measured; a student for each of `seeds`."""
    wanted, mixtures, guidance = case(name)
    data, real = Mixture(*mixtures[0]), wanted.draw(PAIRED, seed=4)

    def row(model, of: str, k: int, **options):
        points = drawn(model, **options)
        distance = energy_distance(points[:PAIRED], real)
        return {"case": name, "of": of, "k": k, **wanted.errors(points), "energy_distance": distance}

    exact = {**wanted.errors(wanted.draw(DRAWN, seed=5))}
    exact |= {"energy_distance": energy_distance(wanted.draw(PAIRED, seed=6), real)}
    yield {"case": name, "of": "points of the distribution", "k": 0, **exact}
    for shift, sampler in itertools.product((FLAGS.shift, 1.0) * FLAGS.solvers, ("ddim", "dpmpp_2m")):
        same = teacher_of(mixtures, FLAGS.width, FLAGS.bias, shift)
        of = f"teacher, {sampler}, shift {shift:g}"
        yield row(same, of, k, num_steps=k, sampler=sampler, guidance=guidance)
    for seed in seeds:
        began = time.process_time()
        keras.utils.set_random_seed(seed)
        teacher = teacher_of(mixtures, FLAGS.width, FLAGS.bias, FLAGS.shift)
        student = student_of(teacher, data, k, guidance, seed=seed, **how)
        yield row(student, "student", k) | {"seed": seed, "training_seconds": time.process_time() - began}


def main(argv):
    del argv
    how = {"steps": FLAGS.steps, "batch_size": FLAGS.batch_size, "rate": FLAGS.learning_rate}
    how |= {"matching": FLAGS.matching, "auxiliary_steps": FLAGS.auxiliary_steps, "own_levels": not FLAGS.all_levels}
    how["own_chain"] = FLAGS.own_chain
    settings = {**how, "width": FLAGS.width, "bias": FLAGS.bias, "shift": FLAGS.shift}
    result = {**report.heading("distilling_gaussians", __doc__), "settings": settings, "rows": []}
    for k, name in itertools.product(map(int, FLAGS.ks), FLAGS.cases):
        for row in rows_of(name, k, map(int, FLAGS.seeds), **how):
            result["rows"].append(row)
            line = "{case:<12}{of:<28}steps {k:2d}  weights {weights:.4f}  means {means:.4f}  "
            print((line + "covariances {covariances:.4f}  energy {energy_distance:.6f}").format(**row), flush=True)
            if FLAGS.json:
                pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    flags.DEFINE_list("cases", ["mixture", "anisotropic", "guided"], "Which.")
    flags.DEFINE_list("ks", ["4", "1", "8"], "Steps of the students.")
    flags.DEFINE_list("seeds", ["0"], "Of the students: weights, data and noise.")
    flags.DEFINE_integer("steps", 40_000, f"Training steps; multiples of {EPOCH} where above.", lower_bound=2)
    flags.DEFINE_integer("batch_size", 512, "Points a step.", lower_bound=1)
    flags.DEFINE_float("learning_rate", 2e-3, "It falls to 0.", lower_bound=0.0)
    flags.DEFINE_integer("width", 64, "Of the small networks.", lower_bound=1)
    flags.DEFINE_float("bias", 5.0, "Of the loss weighting: more of it weighs low noise more.")
    flags.DEFINE_float("shift", 18.0, "How many times lower the noise is than the cosine schedule's.", lower_bound=1.0)
    flags.DEFINE_enum("matching", "auxiliary", ["auxiliary", "parameters"], "By an auxiliary network, or without.")
    flags.DEFINE_integer("auxiliary_steps", 3, "Of the auxiliary network, to each of the student's.", lower_bound=1)
    flags.DEFINE_bool("all_levels", False, "Train at all t, as the paper does, and not only where the student draws.")
    flags.DEFINE_bool("own_chain", False, "z_t of the student's own steps, and not of data.")
    flags.DEFINE_bool("solvers", True, "Also what DDIM and DPM-Solver++ draw of the teacher.")
    flags.DEFINE_string("json", None, "Where to write the result, row by row.")
    app.run(main)
