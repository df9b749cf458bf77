"""Variables inside and outside of a step, and tensors on their way to the devices and back."""

import contextlib
import os
import pickle
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_sid2.backend.platform import batch_shards, name


def step_value(variable, variables: Sequence, values: Sequence | None):
    """`variable`'s value inside a train or test step: on jax among `values`, the state of `variables`; elsewhere these
    are None and it holds its value itself."""
    if values is None:
        return ops.copy(variable.value)  # torch's would change under the reader, tensorflow's cannot leave a step
    return values[next(i for i, v in enumerate(variables) if v is variable)]


def sync_variables(model: keras.Model):
    """Makes the model's variables hold their present values, also in the midst of jax's fit."""
    if name() == "jax":
        model.jax_state_sync()


@contextlib.contextmanager
def variables_survive(model: keras.Model):
    """Puts the weights back if jax's fit dies before its first step is done. keras empties the variables when it hands
    their values to the first step, and an error there (bad data, an interrupt while compiling) would leave them None.
    No memory is held: once a step ran, the values are donated."""
    if name() != "jax":
        yield
        return
    variables = [*model.variables, *(model.optimizer.variables if model.optimizer else ())]
    values = [v.value for v in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            if variable._value is None and not value.is_deleted():
                variable._value = value


@contextlib.contextmanager
def replaced(owner, **attributes):
    """Other attributes of a class or a module of keras's within the block, where keras has no hook of its own."""
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def on_batch_shards(values):
    """An array [B, ...], B divisible by `batch_shards()`, as a tensor whose examples are spread over the devices."""
    tensor = ops.convert_to_tensor(values)
    if batch_shards() == 1:
        return tensor
    return keras.distribution.distribute_tensor(tensor, keras.distribution.distribution().get_data_layout(tensor.shape))


def gathered(tensor):
    """A tensor as numpy, whole, also where processes hold parts of it; then all of them must ask for it."""
    if name() == "jax" and not tensor.is_fully_addressable:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tensor, tiled=True)
    return ops.convert_to_numpy(tensor)


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors by name from a file of torch.save, as numpy arrays, on any backend. ValueError where it holds anything
    else, which is not unpickled; ImportError without PyTorch."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"Reading {str(path)!r} needs PyTorch: pip install torch.") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    except (AttributeError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{str(path)!r} is no PyTorch file of tensors by name, or it is damaged.") from error


def steps_done(model) -> int:
    """Training steps that a model has done; its noise and its data go by this count."""
    return int(model.step.numpy())
