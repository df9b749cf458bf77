"""A student of two steps by moment matching, of a teacher of three Gaussians in the plane, on any backend in a minute.

    python examples/moment_matching.py

The points are images of 1 x 1 x 2, the network a few dense layers: what MomentMatchingModel asks of a network is what
keras_sid2.conditions says. docs/guides/distillation.md is the guide.
"""

import keras
import numpy as np
from keras import ops

from keras_sid2 import AdamRecipe, MomentMatchingModel, SiD2Model
from keras_sid2.diffusion import CosineSchedule, SigmoidWeighting

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


def points(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = MEANS[rng.integers(0, 3, count)] + 0.1 * rng.normal(size=(count, 2))
    return np.clip(found, -1.0, 1.0).astype("float32").reshape(-1, 1, 1, 2)


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of points [N, ...]; 0 where they are of one distribution."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    apart = [np.linalg.norm(x[:, None] - y[None], axis=-1) for x, y in ((a, b), (a, a), (b, b))]
    return float(2 * apart[0].mean() - sum(d.sum() / (len(d) * (len(d) - 1)) for d in apart[1:]))


def distilled(teacher_steps: int = 1500, student_steps: int = 1200, k: int = 2):
    """(the teacher's model, the student's), trained one after the other."""
    keras.utils.set_random_seed(0)
    recipe = AdamRecipe(2e-3, warmup_steps=50, ema_decay=0.99, ema_warmup=True)
    model = SiD2Model(
        PlaneNetwork(name="plane"), CosineSchedule(), SigmoidWeighting(0.0), recipe=recipe, prediction="x"
    )
    model.compile()
    model.fit(points(128 * teacher_steps), batch_size=128, verbose=0)
    recipe = AdamRecipe(5e-4, warmup_steps=50, beta_1=0.0, ema_decay=0.98, ema_warmup=True)
    student = MomentMatchingModel.of_teacher(model, steps=k, recipe=recipe)
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
