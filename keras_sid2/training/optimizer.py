"""The optimizer of SiD2's lineage: Adam, a clipped gradient norm, a learning rate that is warmed up and may decay.

A batch may be split into microbatches, whose gradients are accumulated within one step of Keras (its own way counts a
step each). The batch is noised as a whole, passes over its parts give the gradient g of the mean loss L, and the step
goes on with

    (1) L + <g, w - stop_gradient(w)>

whose value is L and whose gradient is g: counter, clipping, averages and learning rate see one batch and one gradient.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sid2 import backend, shapes, threefry
from keras_sid2.config import register, settings
from keras_sid2.parallel import replicas
from keras_sid2.training.power_averages import as_widths

Schedule = keras.optimizers.schedules.LearningRateSchedule
DECAYS = ("constant", "linear", "cosine", "inverse_sqrt")

# On torch keras swaps in a class that updates all variables in one kernel. No optimizer is made to find it: that would
# start the backend, and several processes have to find one another first.
_Adam = type(keras.optimizers.Adam.__new__(keras.optimizers.Adam))


@register
class EmaAdam(_Adam):
    """Adam, global norm clipping, and the norm of the latest gradient in `gradient_norm`.

    A gradient that is not finite counts as zero: it shows in `gradient_norm`, and the weights stay finite.
    `ema_momentum` is the decay of the averages that the model keeps (averaged_model.py).
    """

    averages_over_copies = True

    def __init__(self, learning_rate=1e-4, *, global_clipnorm=1.0, ema_momentum=0.9999, name="ema_adam", **kwargs):
        options = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-12, **kwargs, "use_ema": False, "name": name}
        super().__init__(learning_rate, global_clipnorm=global_clipnorm, ema_momentum=ema_momentum, **options)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.gradient_norm = self.add_variable(shape=(), dtype="float32", name="gradient_norm")

    def _clip_gradients(self, grads):
        grads = replicas.averaged_gradients(grads)
        norm = backend.global_norm(grads)
        replicas.update([self.gradient_norm], [norm])
        return backend.clipped(grads, norm, self.global_clipnorm)

    def _parallel_update_step(self, grads, variables, learning_rate):
        """keras's hook of torch: the same step in one operation that reads and writes each number once, and not in ten
        that do; equal but for rounding."""
        places = [self._get_variable_index(v) for v in variables]
        parts = variables, (self._momentums[i] for i in places), (self._velocities[i] for i in places)
        weights, momentums, velocities = ([v.value for v in part] for part in parts)
        constants = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon")}
        done = not self.amsgrad and backend.adam_on_torch(
            weights,
            grads,
            momentums,
            velocities,
            rate=ops.cast(learning_rate, "float32"),
            step=self.iterations.value,
            **constants,
        )
        if not done:
            super()._parallel_update_step(grads, variables, learning_rate)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """On tensorflow: they are summed over the replicas already, since their norm had to be known."""
        return grads_and_vars

    def load_own_variables(self, store):
        """keras's hook; before version 0.2 the averages lay between the counter and the moments."""
        count = len(self._trainable_variables)
        extra = len(store.keys()) - len(self.variables)
        if extra not in (0, count):
            sizes = f"of {len(store.keys())} variables, and this one has {len(self.variables)}"
            cause = "other layers are frozen, or another optimizer was saved; weights and averages are not touched"
            warnings.warn(f"The file's optimizer is {sizes}: its moments begin anew ({cause}).", stacklevel=2)
            return
        first = len(self.variables) - 2 * count - 1  # of the moments
        for i, variable in enumerate(self.variables):
            variable.assign(store[str(i if i < first else i + extra)])


def accumulated_losses(losses_of: Callable, inputs: dict, variables: Sequence, trainable: Sequence, parts: int):
    """losses_of(inputs) -> float32 [B] with the gradient of their mean, Eq. (1), computed in `parts` microbatches.

    Each takes every `parts`-th example, so that on several devices each computes with its own examples; inputs' `seed`,
    which belongs to no example, is another in each, and `example_seeds` go with their examples. Raises ValueError where
    B is no multiple of `parts`.
    """
    batch = inputs["weight"].shape[0]
    if batch is not None and batch % parts:
        sizes = f"accumulation_steps={parts}, a batch of {batch}"
        raise ValueError(f"accumulation_steps must divide the batch, got {sizes}.")
    apart = {k: ops.reshape(v, (-1, parts, *v.shape[1:])) for k, v in inputs.items() if k != "seed"}

    def losses_of_part(i):
        part = {k: ops.take(v, i, axis=1) for k, v in apart.items()}
        return losses_of({**part, "seed": threefry.fold_in(inputs["seed"], i)})

    losses, gradients = backend.accumulated(losses_of_part, variables, trainable, parts)
    losses = ops.reshape(ops.transpose(losses), (-1,))
    pairs = zip(gradients, trainable, strict=True)
    zero = sum(ops.sum(g * (v.value - ops.stop_gradient(v.value))) for g, v in pairs)  # with the gradient of all losses
    return losses + zero / ops.cast(ops.size(losses), "float32")


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
        return {name: getattr(self, name) for name in ("rate", "decay", "start", "stop")}


@settings
class AdamRecipe:
    """Settings of `EmaAdam`, its learning rate and the averages; the defaults are the lineage's (grade L), as SiD2's
    are not printed. `decay` and `ema_warmup` are ours.

    Args:
        learning_rate: > 0, reached linearly after warmup_steps; or a `keras.optimizers.schedules.LearningRateSchedule`
            of the steps since compile(), which the warm-up multiplies.
        warmup_steps: >= 0.
        decay: of the rate behind the warm-up: "constant"; "linear" or "cosine", to 0 at step decay_steps; or
            "inverse_sqrt", rate * sqrt(w / step) from step w = max(warmup_steps, 1) on.
        decay_steps: > warmup_steps, all steps of the run, the warm-up counted in; for "linear" and "cosine".
        ema_decay: of the averaged weights, in [0, 1).
        ema_warmup: average over fewer steps at first, min(ema_decay, (1 + n) / (10 + n)) behind n steps; else the first
            weights count ema_decay^n. All presets have it: sid2_digits had a Frechet distance of 0.20 with it and 4.06
            without after 500 steps, 0.16 and 0.34 after 1500.
        ema_widths: of power-function averages that are kept beside that one, such as (0.05, 0.1), each as large as the
            weights; snapshots of two make one of any width afterwards (training/snapshots.py).
        clip_norm: bound of the gradient's norm; 0 is none.
        accumulation_steps: microbatches of a batch, which it divides, each in the memory of the one before. The result
            is that of the batch in one piece, dropout masks too.

    Raises ValueError, naming the field, for anything else.
    """

    learning_rate: float | Schedule = 1e-4
    warmup_steps: int = 10_000
    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-12
    clip_norm: float = 1.0
    ema_decay: float = 0.9999
    accumulation_steps: int = 1
    decay: str = "constant"
    decay_steps: int | None = None
    ema_warmup: bool = False
    ema_widths: tuple[float, ...] = ()

    def __post_init__(self):
        scheduled = isinstance(self.learning_rate, Schedule)
        if not scheduled and not (shapes.is_number(self.learning_rate) and 0 < self.learning_rate < math.inf):
            kinds = "positive and finite, or a keras.optimizers.schedules.LearningRateSchedule"
            raise ValueError(f"learning_rate must be {kinds}, got {self.learning_rate!r}.")
        for field, least in (("warmup_steps", 0), ("accumulation_steps", 1)):
            object.__setattr__(self, field, shapes.whole_number(field, getattr(self, field), least))
        shapes.rate("ema_decay", self.ema_decay)
        object.__setattr__(self, "ema_widths", as_widths(self.ema_widths))
        if not shapes.is_number(self.clip_norm) or not 0 <= self.clip_norm < math.inf:
            raise ValueError(f"clip_norm must be a number >= 0, 0 for none, got {self.clip_norm!r}.")
        if self.decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}, got {self.decay!r}.")
        if self.decay != "constant" and scheduled:
            raise ValueError(f"learning_rate is a schedule already, so decay must be constant, got {self.decay!r}.")
        ends = self.decay in ("linear", "cosine")
        if ends and (not isinstance(self.decay_steps, int) or self.decay_steps <= self.warmup_steps):
            needed = f"an integer above warmup_steps ({self.warmup_steps})"
            raise ValueError(f"decay={self.decay!r} needs decay_steps, {needed}, got {self.decay_steps!r}.")
        if not ends and self.decay_steps is not None:
            raise ValueError(f"decay_steps is for decay='linear' or 'cosine', got decay={self.decay!r}.")

    def rate(self) -> float | Schedule:
        """The learning rate, a number where it never changes."""
        rate, warm_up = self.learning_rate, self.warmup_steps
        if self.decay != "constant":
            rate = Decayed(rate, self.decay, warm_up, self.decay_steps)
        if not warm_up:
            return rate
        if isinstance(rate, Schedule):
            return WarmedUp(rate, warm_up)
        return keras.optimizers.schedules.PolynomialDecay(rate / warm_up, warm_up, end_learning_rate=rate)

    def build(self, kind: type = EmaAdam, **options) -> EmaAdam:
        """A new optimizer, of a subclass with options of its own if that is asked for."""
        same = {name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon")}
        return kind(self.rate(), global_clipnorm=self.clip_norm or None, ema_momentum=self.ema_decay, **same, **options)


def _parts(optimizer) -> list:
    """An optimizer and those that it wraps."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return [optimizer, *([] if inner is None else _parts(inner)), *getattr(optimizer, "optimizers", ())]


def usable(optimizer, *, float16: bool):
    """`optimizer` as compile() takes it, in a LossScaleOptimizer for float16; ValueError for one that averages or
    accumulates by itself."""
    optimizer = keras.optimizers.get(optimizer)
    for part in _parts(optimizer):
        name, steps = type(part).__name__, part.gradient_accumulation_steps
        if part.use_ema:
            advice = "a SiD2Model keeps averages itself; take EmaAdam, or AdamRecipe(ema_decay=...)"
            raise ValueError(f"{name}(use_ema=True) would put averages in the place of weights: {advice}.")
        if steps:
            advice = "counts each part of a batch as a step: AdamRecipe(accumulation_steps=...) accumulates within one"
            raise ValueError(f"{name}(gradient_accumulation_steps={steps}) {advice}.")
    decays = {part.ema_momentum for part in _parts(optimizer) if isinstance(part, EmaAdam)}
    if len(decays) > 1:
        raise ValueError(f"All parts of an optimizer must have one ema_momentum, got {sorted(decays)}.")
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or optimizer.loss_scale_factor is not None
    if float16 and not scaled:
        return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")
    return optimizer


def decay_of(optimizer) -> float | None:
    """Of the averages, as an EmaAdam says it; None without one."""
    return next((part.ema_momentum for part in _parts(optimizer) if isinstance(part, EmaAdam)), None)
