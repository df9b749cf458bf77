"""Adam for two groups of weights that are trained in turn.

    (1) m <- m + a (1 - beta_1) (g - m);  v <- v + a (1 - beta_2) (g^2 - v);  w <- w - a alpha_n m / (sqrt(v) + epsilon)

a is 0 for a group whose gradient is exactly zero, which then keeps weights and moments to the bit, and else 1; n in the
bias correction of alpha_n counts the steps of the group. A zero gradient given to Adam itself would let v decay, and m
move the weights.
"""

from collections.abc import Sequence

from keras import ops

from keras_sid2 import backend
from keras_sid2.config import register
from keras_sid2.parallel import replicas
from keras_sid2.training.optimizer import EmaAdam


@register
class AlternatingAdam(EmaAdam):
    """EmaAdam of the first `first` trainable variables, and of the others, by Eq. (1).

    Gradients are clipped by their norm as EmaAdam's; where it is not finite, neither group is changed. The learning
    rate goes by all steps. ValueError for weight_decay and amsgrad.
    """

    def __init__(self, *args, first: int, name="alternating_adam", **kwargs):
        super().__init__(*args, name=name, **kwargs)
        if self.weight_decay or self.amsgrad:
            raise ValueError("AlternatingAdam takes no weight_decay, which moves a group that rests, and no amsgrad.")
        self.first = int(first)

    def get_config(self):
        return {**super().get_config(), "first": self.first}

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        numbers = {"shape": (2,), "dtype": "float32"}
        self.acts = self.add_variable(**numbers, name="acts")  # a of both groups, of the latest step
        self.updates = self.add_variable(**numbers, name="updates")  # n

    def _group(self, variable) -> int:
        return int(self._get_variable_index(variable) >= self.first)

    def _backend_apply_gradients(self, grads, trainable_variables):
        self._groups = [self._group(v) for v in trainable_variables]
        super()._backend_apply_gradients(grads, trainable_variables)

    def _clip_gradients(self, grads):
        grads = replicas.averaged_gradients(grads)
        parts = [[g for g, group in zip(grads, self._groups, strict=True) if group == i] for i in range(2)]
        norms = ops.stack([backend.global_norm(part) if part else ops.zeros(()) for part in parts])
        norm = ops.sqrt(ops.sum(ops.square(norms)))
        acts = ops.cast(ops.logical_and(norms > 0, ops.isfinite(norm)), "float32")
        state = [self.gradient_norm, self.acts, self.updates]
        replicas.update(state, [norm, acts, self.updates.value + acts])
        return backend.clipped(grads, norm, self.global_clipnorm)

    def update_step(self, gradient, variable, learning_rate):
        place, group = self._get_variable_index(variable), self._group(variable)
        m, v, acts = self._momentums[place], self._velocities[place], self.acts.value[group]
        count = ops.maximum(self.updates.value[group], 1.0)
        alpha = ops.cast(learning_rate, "float32") * ops.sqrt(1.0 - ops.power(self.beta_2, count))
        alpha = acts * alpha / (1.0 - ops.power(self.beta_1, count))
        new_m = m + acts * (1.0 - self.beta_1) * (gradient - m)
        new_v = v + acts * (1.0 - self.beta_2) * (ops.square(gradient) - v)
        self.assign(m, new_m)
        self.assign(v, new_v)
        self.assign_sub(variable, alpha * new_m / (ops.sqrt(new_v) + self.epsilon))

    def _parallel_update_step(self, grads, variables, learning_rate):
        """keras's hook of torch: an operation a group."""
        for group in range(2):
            pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if self._group(v) == group]
            if pairs and not self._fused(group, *zip(*pairs, strict=True), learning_rate):
                for gradient, variable in pairs:
                    self.update_step(gradient, variable, learning_rate)

    def _fused(self, group: int, grads: Sequence, variables: Sequence, learning_rate) -> bool:
        places = [self._get_variable_index(v) for v in variables]
        slots = ([slot[i].value for i in places] for slot in (self._momentums, self._velocities))
        return backend.adam_on_torch(
            [v.value for v in variables],
            grads,
            *slots,
            rate=ops.cast(learning_rate, "float32"),
            step=ops.maximum(self.updates.value[group] - 1.0, 0.0),
            acts=self.acts.value[group],
            **{name: getattr(self, name) for name in ("beta_1", "beta_2", "epsilon")},
        )
