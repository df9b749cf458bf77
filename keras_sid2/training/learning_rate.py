"""How a learning rate changes: Keras's schedules, a warm-up before any of them, and three decays behind it."""

import math

import keras
from keras import ops

from keras_sid2.config import register

Schedule = keras.optimizers.schedules.LearningRateSchedule
DECAYS = ("constant", "linear", "cosine", "inverse_sqrt")


@register
class WarmedUp(Schedule):
    """`schedule`'s rate at each step, times a factor that rises from 1 / steps to 1 in the first `steps`."""

    def __init__(self, schedule: Schedule, steps: int):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        done = ops.minimum(ops.cast(step, "float32"), self.steps) / self.steps
        first = 1.0 / self.steps
        return self.schedule(step) * (first + (1.0 - first) * done)

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["steps"])


@register
class Decayed(Schedule):
    """`rate` to step `start`, then "linear" or "cosine" to 0 at `stop`, or "inverse_sqrt": rate sqrt(start / step)."""

    def __init__(self, rate: float, decay: str, start: int, stop: int | None = None):
        self.rate, self.decay, self.start, self.stop = rate, decay, start, stop

    def __call__(self, step):
        step = ops.cast(step, "float32")
        if self.decay == "inverse_sqrt":
            start = float(max(self.start, 1))
            return self.rate * ops.sqrt(start / ops.maximum(step, start))
        left = 1.0 - ops.clip((step - self.start) / (self.stop - self.start), 0.0, 1.0)
        return self.rate * (left if self.decay == "linear" else 0.5 - 0.5 * ops.cos(math.pi * left))

    def get_config(self):
        return {"rate": self.rate, "decay": self.decay, "start": self.start, "stop": self.stop}
