"""Functions compiled (jax, tensorflow) or recorded (torch)."""

import warnings
from collections.abc import Callable, Sequence

import keras

from keras_sid2.backend.platform import jax, name, tf, torch


def compiled(function: Callable, variables: Sequence, *, jit_compile: bool) -> Callable:
    """`call(values, *tensors)`: function(*tensors) with `variables` set to `values`, others at each call. jax and
    tensorflow compile the whole function (tensorflow through XLA if `jit_compile`); torch runs it as it is, without
    gradients."""
    run = with_values(function, variables)
    if name() == "jax":
        return jax.jit(run)
    if name() == "tensorflow":
        return tf.function(run, jit_compile=jit_compile, autograph=False)
    return torch.no_grad()(run)


def with_values(function: Callable, variables: Sequence) -> Callable:
    """`run(values, *tensors)`: function(*tensors) with `variables` set to `values`."""
    variables = list(variables)

    def run(values, *tensors):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*tensors)

    return run


def recorded(function: Callable, variables: Sequence) -> Callable:
    """`function(*tensors)`, without what keras's layers cost in Python each time; for use within `compiled`.

    jax and tensorflow compile it anyway. On torch its operations are recorded at the first call with tensors of a
    shape, and only they are run from then on, with the present values of `variables`, all that function reads. A
    function that cannot be recorded, because it looks at values, runs as it is. Blocks that `recorded_block` compiles
    are one operation each.
    """
    return _Recorded(function, variables) if name() == "torch" else function


def tensors_stay_tensors():
    """A context of torch in which numpy gets no tensor: what it made of one would be recorded as a constant."""
    leaving = {torch.Tensor.__array__, torch.Tensor.numpy, torch.Tensor.tolist}

    class Refusing(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in leaving:
                raise RuntimeError("it hands a tensor to numpy or to Python.")
            return function(*args, **(kwargs or {}))

    return Refusing()


_MOST_GRAPHS = 8


class _Recorded:
    """Graphs of a function on torch, one for each of the latest shapes, types and devices of its arguments."""

    def __init__(self, function: Callable, variables: Sequence):
        self._function, self._variables, self._graphs = function, list(variables), {}
        self._run = with_values(function, variables)

    def __call__(self, *tensors):
        values = [v.value.detach() for v in self._variables]
        tensors = tuple(t.contiguous() for t in tensors)  # as when they were recorded: views are of a layout
        kind = tuple((t.shape, t.dtype, t.device) for t in tensors)
        graph = self._graphs.pop(kind, None) or self._record(values, tensors)
        self._graphs[kind] = graph  # the newest last
        if len(self._graphs) > _MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]
        return graph(values, *tensors)

    def _record(self, values: list, tensors: tuple) -> Callable:
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            with tensors_stay_tensors():
                return make_fx(self._run)(values, *tensors)
        except RuntimeError as error:  # what fails for another reason fails again, and is told
            reason = f"{self._function} cannot be recorded: {str(error).strip().splitlines()[0]}"
            warnings.warn(f"Sampling is slower than it could be: {reason}", stacklevel=2)
            return self._run
