"""Losses and gradients of microbatches, one after another in the memory of one."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_sid2.backend.platform import jax, name, tf, torch


def accumulated(function: Callable, variables: Sequence, trainable: Sequence, count: int):
    """(values, gradients) of function(i) -> [b] for 0 <= i < count, without a gradient of their own.

    values [count, b] are all that it returned; gradients, in the order of `trainable`, are those of the sum of values.
    `variables` are all that function reads and changes; what it changes, such as a running mean or the state of a seed
    generator, one call hands to the next.
    """
    if name() == "torch":
        return _accumulated_on_torch(function, trainable, count)
    if name() == "tensorflow":
        return _accumulated_on_tensorflow(function, trainable, count)
    return _accumulated_on_jax(function, variables, trainable, count)


def _accumulated_on_jax(function, variables, trainable, count):
    trained = {id(v) for v in trainable}
    others = [v for v in variables if id(v) not in trained]

    def total(weights, state, i):
        # A scope within a scope sees nothing of the outer one.
        values = [*zip(trainable, weights, strict=True), *zip(others, state, strict=True)]
        with keras.StatelessScope(values) as scope:
            losses = function(i)
        return ops.sum(losses), (losses, [scope.get_current_value(v) for v in others])

    def body(carry, i):
        sums, state = carry
        gradients, (losses, state) = jax.grad(total, has_aux=True)(weights, state, i)
        return ([a + b for a, b in zip(sums, gradients, strict=True)], state), losses

    weights, state = ([jax.lax.stop_gradient(v.value) for v in group] for group in (trainable, others))
    zeros = [ops.zeros_like(w) for w in weights]
    (gradients, after), losses = jax.lax.scan(body, (zeros, state), ops.arange(count))
    for variable, value in zip(others, after, strict=True):
        variable.assign(value)
    return losses, gradients


def _accumulated_on_tensorflow(function, trainable, count):
    weights = [v.value for v in trainable]

    def body(i, values, sums):
        with tf.GradientTape() as tape:
            found = function(i)
            total = tf.reduce_sum(found)
        gradients = tape.gradient(total, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return i + 1, values.write(i, found), [a + b for a, b in zip(sums, gradients, strict=True)]

    start = (0, tf.TensorArray("float32", count), [tf.zeros_like(w) for w in weights])
    _, values, gradients = tf.while_loop(lambda i, *_: i < count, body, start, parallel_iterations=1)
    return tf.stop_gradient(values.stack()), [tf.stop_gradient(g) for g in gradients]


def _accumulated_on_torch(function, trainable, count):
    weights, values, sums = [v.value for v in trainable], [], None
    for i in range(count):
        found = function(i)
        gradients = torch.autograd.grad(found.sum(), weights, materialize_grads=True)
        sums = gradients if sums is None else torch._foreach_add(sums, gradients)
        values.append(found.detach())
    return torch.stack(values), list(sums)


def gradients_at(function: Callable, variables: Sequence, weights: Sequence) -> list:
    """The gradients of the scalar function() by `weights`, trainable or frozen, as constants.

    `variables` are all that function reads, `weights` among them.
    """
    by = {id(v) for v in weights}
    others = [(v, v.value) for v in variables if id(v) not in by]

    def at(values):
        with keras.StatelessScope([*zip(weights, values, strict=True), *others]):
            return function()

    values = [ops.stop_gradient(v.value) for v in weights]
    if name() == "jax":
        return [jax.lax.stop_gradient(g) for g in jax.grad(at)(values)]
    if name() == "tensorflow":
        values = [tf.identity(v) for v in values]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            total = at(values)
        gradients = tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.stop_gradient(g) for g in gradients]
    values = [v.detach().requires_grad_() for v in values]
    with torch.enable_grad():  # whoever asks may compute without
        total = at(values)
    return list(torch.autograd.grad(total, values, materialize_grads=True))
