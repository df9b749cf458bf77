"""Functions compiled (jax, tensorflow) or recorded (torch)."""

import warnings
from collections.abc import Callable, Sequence

import keras

from keras_sid2.backend.platform import name


def compiled(function: Callable, variables: Sequence, *, jit_compile: bool) -> Callable:
    """`call(values, *tensors)`: function(*tensors) with `variables` set to `values`, compiled where the backend can.

    Nothing is swapped or copied, and other values do not compile again. jax and tensorflow compile the whole function
    (tensorflow through XLA if `jit_compile`); torch runs it without gradients.
    """
    variables = list(variables)

    def run(values, *tensors):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*tensors)

    if name() == "jax":
        import jax

        return jax.jit(run)
    if name() == "tensorflow":
        import tensorflow as tf

        return tf.function(run, jit_compile=jit_compile, autograph=False)
    import torch

    return torch.no_grad()(run)


def recorded(function: Callable, variables: Sequence) -> Callable:
    """`function(*tensors)`, without what keras's layers cost in Python each time; for use within `compiled`.

    On jax and tensorflow that is `function` itself, which is compiled. On torch its operations are recorded at the
    first call with tensors of a shape, and only they are run from then on, with the values that `variables`, all that
    function reads, have by then. A function that cannot be recorded, because it looks at values, runs as it is.
    """
    return _Recorded(function, variables) if name() == "torch" else function


def tensors_stay_tensors():
    """A context of torch in which numpy gets no tensor: what it made of one would be recorded as a constant."""
    import torch

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

    def __call__(self, *tensors):
        values = [v.value for v in self._variables]
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
            reason = str(error).strip().splitlines()[0]
            text = f"Sampling is slower than it could be: {self._function} cannot be recorded: {reason}"
            warnings.warn(text, stacklevel=2)
            return self._run

    def _run(self, values: list, *tensors):
        with keras.StatelessScope(list(zip(self._variables, values, strict=True))):
            return self._function(*tensors)
