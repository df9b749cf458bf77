"""Distillation by moment matching (arXiv 2406.04103) as another objective with three networks and no train step.

    x~ = student(z_t),  z_s ~ q(z_s | z_t, x~),  t - s ~ U(0, 1 / k)
    (1) auxiliary: w(s) (|x~ - a(z_s)|^2 + |teacher(z_s) - a(z_s)|^2),  x~ held, so a(z_s) follows E[x~ | z_s]
    (2) student:   w(s) <x~, a(z_s) - teacher(z_s)>, the bracket held: where it is zero, moments match

Both losses are taken in one step, each by its own optimizer, where the paper takes them in turn: a prototype.
`python examples/moment_matching.py` distils a teacher of three Gaussians in the plane into k = 2 steps, on any backend.
"""

import keras
import numpy as np
from keras import ops

from keras_sid2 import AdamRecipe, SiD2Model, threefry
from keras_sid2.conditions import call_network
from keras_sid2.config import settings
from keras_sid2.diffusion import CosineSchedule, DiffusionObjective, SigmoidWeighting, diffuse, posterior, to_x

MEANS = np.array([[0.7, 0.0], [-0.5, 0.6], [-0.3, -0.7]])


@keras.saving.register_keras_serializable(package="examples")
class PlaneNetwork(keras.Model):
    """x_hat of points in the plane, images of 1 x 1 x 2."""

    sample_shape, conditions = (1, 1, 2), {}

    def __init__(self, width: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = [keras.layers.Dense(width, activation="silu") for _ in range(3)]
        self.out = keras.layers.Dense(2)

    def call(self, inputs, training=None):
        angles = ops.reshape(inputs["logsnr"], (-1, 1, 1, 1)) * ops.convert_to_tensor([0.1, 0.2, 0.4, 0.8], "float32")
        h = ops.concatenate([inputs["z_t"], ops.sin(angles), ops.cos(angles)], axis=-1)
        for layer in self.hidden:
            h = layer(h)
        return self.out(h)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@settings
class MomentMatching(DiffusionObjective):
    """What of a batch the losses need; steps is k, the steps that the student draws in."""

    steps: int = 2

    def corrupt(self, x, t, eps):
        logsnr = self.schedule.logsnr(t)
        return {"x": x, "eps": eps, "s": t, "logsnr": logsnr, "weight": self.weighting(logsnr)}


@keras.saving.register_keras_serializable(package="examples")
class MomentMatchingModel(SiD2Model):
    """`network` is the student, which is averaged and drawn from; `teacher` is frozen, `auxiliary` is trained too."""

    PARTS = (*SiD2Model.PARTS, "teacher", "auxiliary")

    def __init__(self, network, *, teacher, auxiliary, name="matching", **kwargs):
        super().__init__(network, name=name, **kwargs)
        teacher.trainable = False
        self.teacher, self.auxiliary = teacher, auxiliary

    def new_optimizer(self):
        of_auxiliary = {f"(?:.*/)?{self.auxiliary.name}/.*": self.recipe.build()}
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(self.recipe.build(), of_auxiliary))

    def variables_of_step(self):
        return [v for part in (self.network, self.teacher, self.auxiliary) for v in part.variables]

    def _x_hat(self, network, z_t, logsnr, inputs, training):
        given = {**inputs, "z_t": z_t, "logsnr": logsnr}
        output = self._predict(given, training=training) if network is self.network else call_network(network, given)
        return to_x(ops.cast(output, "float32"), self.prediction, z_t=z_t, logsnr=logsnr)

    def step_losses(self, inputs, training):
        s, logsnr_s, order = inputs["s"], inputs["logsnr"], ops.arange(ops.shape(inputs["s"])[0])
        ahead, noise = (threefry.fold_in(inputs["seed"], 1, i) for i in range(2))
        t = ops.minimum(s + threefry.uniform(ahead, index=order) / self.objective.steps, 1.0)
        logsnr_t = self.schedule.logsnr(t)
        z_t = diffuse(x=inputs["x"], eps=inputs["eps"], logsnr=logsnr_t)
        x = self._x_hat(self.network, z_t, logsnr_t, inputs, training)
        held = ops.stop_gradient(x)
        mean, lower, _ = posterior(z_t=z_t, x_hat=held, logsnr_t=logsnr_t, logsnr_s=logsnr_s)
        z_s = mean + ops.sqrt(lower) * threefry.normal(noise, self.sample_shape, index=order)
        a, of_teacher = (self._x_hat(n, z_s, logsnr_s, inputs, training) for n in (self.auxiliary, self.teacher))
        of_teacher = ops.stop_gradient(of_teacher)
        auxiliary = ops.square(held - a) + ops.square(of_teacher - a)  # Eq. (1)
        student = x * ops.stop_gradient(a - of_teacher)  # Eq. (2)
        return inputs["weight"] * ops.mean(auxiliary + student, axis=tuple(range(1, len(x.shape))))


def points(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = MEANS[rng.integers(0, 3, count)] + 0.1 * rng.normal(size=(count, 2))
    return np.clip(found, -1.0, 1.0).astype("float32").reshape(-1, 1, 1, 2)


def copy_of(network, name: str):
    """A network of another name with the same weights."""
    found = type(network).from_config({**network.get_config(), "name": name})
    found({"z_t": ops.zeros((1, *network.sample_shape)), "logsnr": ops.zeros((1,))})
    found.set_weights(network.get_weights())
    return found


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of points [N, ...]; 0 where they are of one distribution."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    apart = [np.linalg.norm(x[:, None] - y[None], axis=-1) for x, y in ((a, b), (a, a), (b, b))]
    return float(2 * apart[0].mean() - sum(d.sum() / (len(d) * (len(d) - 1)) for d in apart[1:]))


def distilled(teacher_steps: int = 1500, student_steps: int = 600, k: int = 2):
    """(the teacher's model, the student's), trained one after the other."""
    keras.utils.set_random_seed(0)
    options = {"schedule": CosineSchedule(), "weighting": SigmoidWeighting(0.0)}
    recipe = AdamRecipe(2e-3, warmup_steps=50, ema_decay=0.99, ema_warmup=True)
    model = SiD2Model(PlaneNetwork(name="teacher"), prediction="x", recipe=recipe, **options)
    model.compile()
    model.fit(points(128 * teacher_steps), batch_size=128, verbose=0)
    with model.averaged_weights():
        copies = {name: copy_of(model.network, name) for name in ("teacher", "auxiliary", "student")}
    recipe = AdamRecipe(5e-4, warmup_steps=50, beta_1=0.0, ema_decay=0.98, ema_warmup=True)
    objective = MomentMatching(**options, prediction="x", steps=k)
    student = MomentMatchingModel(copies.pop("student"), objective=objective, recipe=recipe, **copies)
    student.compile()
    student.fit(points(128 * student_steps, seed=1), batch_size=128, verbose=0)
    return model, student


def main():
    teacher, student = distilled()
    real = points(2000, seed=2)
    for name, model, steps in (("teacher", teacher, 256), ("teacher", teacher, 2), ("student", student, 2)):
        drawn = model.generate(num_images=2000, num_steps=steps, batch_size=2000, dtype="float32")
        print(f"{name}, {steps} steps: energy distance to the data {energy_distance(drawn, real):.4f}")


if __name__ == "__main__":
    main()
