"""The optimizer of SiD2's lineage: Adam, a clipped gradient norm, an exponential moving average of the weights.

The gradient may be accumulated over parts of a batch. Keras's own way takes k small batches, and the counter, the
average of the weights and our noise move at each. Here a step is one batch whatever k is: it is noised as a whole, then
the network runs forward and backward over k parts of it, which gives the gradient g of the mean loss L, and the step
goes on with

    (1) L + <g, w - stop_gradient(w)>

whose value is L and whose gradient is g. So every trainer of keras, the clipping, the average and the schedule of the
learning rate see one batch and one gradient.
"""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sid2 import backend, random, replicas
from keras_sid2.serialization import register, settings

# On torch keras swaps in a class that updates all variables in one kernel. No optimizer is made to find it: that would
# start the backend, and several processes have to find one another first.
_Adam = type(keras.optimizers.Adam.__new__(keras.optimizers.Adam))


@register
class EmaAdam(_Adam):
    """Adam, global norm clipping, EMA, and the norm of the latest gradient in `gradient_norm`.

    It differs from `Adam(use_ema=True, global_clipnorm=...)` in that fit keeps the raw weights (keras would replace
    them by the average at the end of each fit, and on jax die in the next one), and in that a gradient that is not
    finite counts as zero: it shows in `gradient_norm`, and the weights stay sound.

    Under a registered name of ours a file saved on torch loads on jax and tensorflow too.
    """

    averages_over_copies = True

    def __init__(self, learning_rate=1e-4, *, global_clipnorm=1.0, ema_momentum=0.9999, name="ema_adam", **kwargs):
        options = {"beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-12, **kwargs, "use_ema": True, "name": name}
        super().__init__(learning_rate, global_clipnorm=global_clipnorm, ema_momentum=ema_momentum, **options)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.gradient_norm = self.add_variable(shape=(), dtype="float32", name="gradient_norm")

    @property
    def averages(self) -> list:
        """The averaged weights, variables in the order of the model's trainable variables."""
        return self._model_variables_moving_average

    def _clip_gradients(self, grads):
        grads = replicas.averaged_gradients(grads)
        norm = backend.global_norm(grads)
        replicas.update([self.gradient_norm], [norm])
        finite = ops.isfinite(norm)
        scale = ops.minimum(1.0, self.global_clipnorm / ops.maximum(norm, 1e-12)) if self.global_clipnorm else 1.0
        return [ops.where(finite, g * ops.cast(scale, g.dtype), ops.zeros_like(g)) for g in grads]

    def _update_model_variables_moving_average(self, trainable_variables):
        momentum = self.ema_momentum * ops.cast(self.iterations > 0, "float32")  # the first step copies
        backend.update_averages(self.averages, trainable_variables, momentum)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        """On tensorflow: they are summed over the copies already, since their norm had to be known."""
        return grads_and_vars

    def finalize_variable_values(self, var_list):
        """Keeps the raw weights at the end of fit."""


def steps_done(model) -> int:
    """Training steps that a compiled model has done; its noise and its data go by this count."""
    return int(model.optimizer._iterations.numpy())


def accumulated_losses(losses_of: Callable, inputs: dict, variables: Sequence, trainable: Sequence, parts: int):
    """losses_of(inputs) -> float32 [B] with the gradient of their mean, Eq. (1), computed in `parts` parts.

    Each part takes every `parts`-th example, so that on several devices each computes with its own examples; inputs'
    seed, which belongs to no example, is another in each part. Raises ValueError where B is no multiple of `parts`.
    """
    batch = inputs["z_t"].shape[0]
    if batch is not None and batch % parts:
        raise ValueError(
            f"accumulation_steps must divide the batch, got accumulation_steps={parts}, a batch of {batch}."
        )
    apart = {k: ops.reshape(v, (-1, parts, *v.shape[1:])) for k, v in inputs.items() if k != "seed"}

    def losses_of_part(i):
        part = {k: ops.take(v, i, axis=1) for k, v in apart.items()}
        return losses_of({**part, "seed": random.fold_in(inputs["seed"], i)})

    losses, gradients = backend.accumulated(losses_of_part, variables, trainable, parts)
    losses = ops.reshape(ops.transpose(losses), (-1,))
    pairs = zip(gradients, trainable, strict=True)
    return losses + sum(ops.sum(g * (v.value - ops.stop_gradient(v.value))) for g, v in pairs) / ops.cast(
        ops.size(losses), "float32"
    )


@settings
class AdamRecipe:
    """Settings of `EmaAdam` and its warm-up; the defaults are the lineage's (grade L), as SiD2's are not printed.

    Args:
        learning_rate: reached linearly after warmup_steps, then constant.
        warmup_steps: >= 0.
        ema_decay: of the averaged weights, in [0, 1).
        clip_norm: bound of the gradient's norm; 0 is none.
        accumulation_steps: parts into which a batch is cut, each in the memory of the one before; it divides the batch.
            The result is that of the batch in one piece, but for other dropout masks.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 10_000
    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-12
    clip_norm: float = 1.0
    ema_decay: float = 0.9999
    accumulation_steps: int = 1

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate!r}.")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be >= 0, got {self.warmup_steps!r}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay!r}.")
        if not isinstance(self.accumulation_steps, int) or self.accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be an integer >= 1, got {self.accumulation_steps!r}.")

    def build(self) -> EmaAdam:
        """A new optimizer."""
        rate = self.learning_rate
        if self.warmup_steps:
            first = rate / self.warmup_steps
            rate = keras.optimizers.schedules.PolynomialDecay(first, self.warmup_steps, end_learning_rate=rate)
        return EmaAdam(
            rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            global_clipnorm=self.clip_norm or None,
            ema_momentum=self.ema_decay,
        )
