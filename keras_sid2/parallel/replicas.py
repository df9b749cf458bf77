"""Replicas of a model that each train on a part of every batch: tensorflow's strategies, torch's processes.

A step is the step of the whole batch: noise goes by the number of an example in it, losses are gathered, gradients are
averaged before they are clipped. On jax a batch is one array over all devices: there is one replica, and nothing here
does anything.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence

import keras
from keras import ops

from keras_sid2 import backend, threefry
from keras_sid2.backend.platform import tf, torch
from keras_sid2.parallel import processes
from keras_sid2.parallel.rules import Mesh


@dataclasses.dataclass(frozen=True)
class Replicas:
    """A model on each device of `mesh`, which is along data alone; `strategy` is tensorflow's."""

    mesh: Mesh
    num_processes: int
    strategy: object = None


present: Replicas | None = None  # set by mesh.py alone; a process group by itself may be for other things


def count() -> int:
    """Replicas; 1 outside a strategy, or where processes train models of their own."""
    if backend.name() == "tensorflow":
        return tf.distribute.get_strategy().num_replicas_in_sync
    return present.num_processes if present and backend.name() == "torch" else 1


def index():
    """The number of this replica, an integer or a scalar tensor; within a step."""
    return _context().replica_id_in_sync_group if backend.name() == "tensorflow" else processes.index()


def _context():
    return tf.distribute.get_replica_context()


def rows(batch):
    """(numbers, size): of this replica's `batch` examples in the whole batch, int32 [batch]; of that, a scalar."""
    order = ops.arange(batch, dtype="int32")
    if count() > 1:
        order = order + ops.cast(index(), "int32") * ops.cast(batch, "int32")
    return order, ops.cast(batch, "int32") * count()


def key_of_replica(key):
    """`key` for what is drawn for a replica's part as a whole, such as dropout masks: another in each."""
    return threefry.fold_in(key, index()) if count() > 1 else key


def gathered(values):
    """float32 [b] of each replica as [b * count()], in the order of `rows`, without a gradient."""
    values = ops.stop_gradient(values)
    if count() == 1:
        return values
    if backend.name() == "tensorflow":
        return _context().all_gather(values, axis=0)
    parts = [torch.empty_like(values) for _ in range(count())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def mean_loss(losses):
    """The mean loss of the whole batch from this replica's `losses` [b]; its gradient is that of this part. The parts'
    gradients are to be averaged: `averaged_gradients`. tensorflow's trainer takes losses divided by the number of
    replicas, and its sum of gradients is their mean then."""
    loss = ops.mean(losses)
    if count() == 1:
        return loss
    loss = loss + ops.stop_gradient(ops.mean(gathered(losses)) - loss)
    return loss / count() if backend.name() == "tensorflow" else loss


def averaged_gradients(gradients: Sequence) -> list:
    """Gradients of the mean loss of the whole batch, from those that `mean_loss` gave each replica."""
    gradients = backend.dense(gradients)
    if count() == 1:
        return gradients
    if backend.name() == "tensorflow":
        return _context().all_reduce("SUM", gradients)
    flat = torch.cat([g.reshape(-1) for g in gradients])  # one message, not one for each of a thousand
    torch.distributed.all_reduce(flat)
    parts = flat.div_(count()).split([g.numel() for g in gradients])
    return [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]


def step_logs(logs: dict) -> dict:
    """What a step returns, the same for every replica. Between workers of tensorflow keras takes means over the first
    axis of each value, and scalars have none."""
    if backend.name() != "tensorflow" or processes.count() == 1:
        return logs
    return {name: ops.reshape(value, (1,)) for name, value in logs.items()}


def check_optimizer(optimizer):
    """ValueError for an optimizer that several replicas cannot share: one that scales the loss, which each would do for
    itself, and on torch one that does not average their gradients, as keras's own."""
    if count() == 1:
        return
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            f"A LossScaleOptimizer, which float16 needs, would scale the loss of each of the {count()} replicas of the "
            "model by itself: train in mixed_bfloat16."
        )
    if backend.name() == "torch" and not getattr(optimizer, "averages_over_copies", False):
        raise ValueError(
            f"On torch the gradients of several processes are averaged by EmaAdam, got {type(optimizer).__name__}: "
            "compile() without an optimizer takes the recipe's."
        )


def broadcast(variables: Sequence):
    """Gives the variables of every process of torch the values of the first one; elsewhere they have them."""
    if backend.name() == "torch" and count() > 1:
        for variable in variables:
            torch.distributed.broadcast(variable.value.data, 0)


def update(variables: Sequence, values: Sequence):
    """variable <- value for each pair, within a step in which every replica has computed the same values."""
    if backend.name() != "tensorflow" or count() == 1:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return

    def assign_all(strategy, values):
        for variable, value in zip(variables, values, strict=True):
            strategy.extended.update(variable.value, lambda v, new: v.assign(new), args=(value,), group=False)

    tf.__internal__.distribute.interim.maybe_merge_call(assign_all, tf.distribute.get_strategy(), list(values))


def save(model: keras.Model, path: str | os.PathLike):
    """model.save(path), by one process alone where there are several. keras makes variables on the way, which processes
    make together under a distribution or a strategy. Both belong to a thread, so another one saves."""
    if processes.count() == 1:
        model.save(path)
        return
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(model.save, path).result()
