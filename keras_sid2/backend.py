"""The few places where jax, tensorflow and torch differ. Nothing else in the library branches on the backend."""

import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops


def name() -> str:
    """ "jax", "tensorflow" or "torch"."""
    return keras.backend.backend()


def _jax_platform() -> str | None:
    """ "cpu", "gpu" or "tpu" on jax, None elsewhere."""
    if name() != "jax":
        return None
    import jax

    return jax.devices()[0].platform


def attention(query, key, value):
    """softmax(q k^T / sqrt(d)) v over [B, N, heads, d], not causal, through the backend's fused kernel if any.

    On TPU keras 3.15 takes a Splash path that masks causally and does not scale when no mask is given, for every
    sequence length that 128 divides; there the kernel is switched off and XLA's own attention is used. XLA for CPU has
    no product of float16 that is summed in float32, which jax asks for: there float16 is computed in float32.
    """
    platform, dtype = _jax_platform(), keras.backend.standardize_dtype(query.dtype)
    if platform == "cpu" and dtype == "float16":
        return ops.cast(attention(*(ops.cast(part, "float32") for part in (query, key, value))), dtype)
    return ops.dot_product_attention(query, key, value, flash_attention=False if platform == "tpu" else None)


def convolution(inputs, kernel, *, strides: tuple[int, int], padding: str):
    """[B, H, W, C] by a kernel [h, w, C, F]; padding "valid" or "same". As keras.ops.conv, channels last.

    On torch keras 3.15 copies the images to channels first and back before each convolution; torch takes them as they
    lie, seen from another side.
    """
    if name() != "torch" or (padding == "same" and tuple(strides) != (1, 1)):
        return ops.conv(inputs, kernel, strides=strides, padding=padding, data_format="channels_last")
    import torch

    images, weights = ops.convert_to_tensor(inputs).permute(0, 3, 1, 2), ops.convert_to_tensor(kernel)
    result = torch.nn.functional.conv2d(images, weights.permute(3, 2, 0, 1), stride=strides, padding=padding)
    return result.permute(0, 2, 3, 1)


def fused_group_norm(inputs, scale, offset, *, groups: int, epsilon: float):
    """Group normalisation of [B, H, W, C] in one operation, float32 inside; None where compilers fuse its parts."""
    if name() != "torch":
        return None
    import torch

    inputs, scale, offset = (ops.convert_to_tensor(part) for part in (inputs, scale, offset))
    parts = (groups, scale.float(), offset.float(), epsilon)
    result = torch.nn.functional.group_norm(inputs.permute(0, 3, 1, 2).float(), *parts)
    return result.permute(0, 2, 3, 1).to(inputs.dtype)


class FixedSeed(keras.random.SeedGenerator):
    """Lets `keras.random` draw once from `key`, an int32 tensor [2], with no state to carry or to save.

    keras looks only at isinstance(seed, SeedGenerator) and at `next`; the base class's __init__ would make a variable.
    """

    def __init__(self, key):
        self._key, self._initial_seed, self.backend = key, 0, keras.backend

    def next(self, ordered=True):
        dtype = keras.src.backend.random_seed_dtype()
        return ops.cast(ops.bitwise_and(self._key, 0x7FFFFFFF), dtype)  # torch and tensorflow want them positive


def step_value(variable, variables: Sequence, values: Sequence | None):
    """`variable`'s value inside a train or test step.

    jax hands its steps the state explicitly: `values` are those of `variables`, in order. Elsewhere `values` is None
    and the variable holds its value itself.
    """
    if values is None:
        return ops.copy(variable.value)  # torch's would change under the reader, tensorflow's cannot leave a step
    return values[next(i for i, v in enumerate(variables) if v is variable)]


def sync_variables(model: keras.Model):
    """Makes the model's variables hold their present values, also in the midst of jax's fit."""
    if name() == "jax":
        model.jax_state_sync()


@contextlib.contextmanager
def variables_survive(model: keras.Model):
    """Puts the weights back if jax's fit dies before its first step is done.

    keras empties the variables when it hands their values to the first step; an error there (bad data, an interrupt
    while compiling) leaves them None and the weights are gone. No memory is held: once a step ran, these are donated.
    """
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


def update_averages(averages: Sequence, variables: Sequence, momentum, *, assign: Callable):
    """average <- momentum average + (1 - momentum) variable, for each pair; assign(averages, values) does it."""
    if name() == "torch":
        import torch

        with torch.no_grad():
            values = [a.value for a in averages]
            torch._foreach_mul_(values, momentum)
            torch._foreach_add_(values, torch._foreach_mul([v.value for v in variables], 1.0 - momentum))
        return
    pairs = zip(averages, variables, strict=True)
    assign(averages, [momentum * average + (1.0 - momentum) * variable for average, variable in pairs])


def dense(gradients: Sequence) -> list:
    """Gradients as plain tensors. TensorFlow's of an embedding lists a row for each lookup, the same row many times:
    its squares are not those of their sum."""
    if name() != "tensorflow":
        return list(gradients)
    import tensorflow as tf

    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]


def global_norm(tensors: Sequence):
    """The L2 norm of all `tensors` together, a float32 scalar."""
    if name() == "torch":
        import torch

        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))).float())
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(t, "float32"))) for t in tensors))


def loop(start, stop, body: Callable, carry):
    """carry = body(i, carry) for start <= i < stop: one compiled loop, or a Python loop on torch."""
    if name() != "torch":
        return ops.fori_loop(start, stop, body, carry)
    for i in range(int(start), int(stop)):
        carry = body(i, carry)
    return carry


def batch_shards() -> int:
    """Parts that keras's distribution splits a batch into, on jax; 1 without one."""
    distribution = keras.distribution.distribution() if name() == "jax" else None
    return 1 if distribution is None else distribution.num_model_replicas


def on_batch_shards(values):
    """An array [B, ...], B divisible by `batch_shards()`, as a tensor whose examples are spread over the devices."""
    tensor = ops.convert_to_tensor(values)
    if batch_shards() == 1:
        return tensor
    return keras.distribution.distribute_tensor(tensor, keras.distribution.distribution().get_data_layout(tensor.shape))


def read_torch_file(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Tensors by name from a file of torch.save, as numpy arrays, whichever backend runs.

    ValueError where it holds anything but tensors by name: nothing else is unpickled. ImportError without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"Reading {str(path)!r} needs PyTorch: pip install torch.") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    except (AttributeError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{str(path)!r} is no PyTorch file of tensors by name, or it is damaged.") from error


def accumulated(function: Callable, variables: Sequence, trainable: Sequence, count: int):
    """(values, gradients) of function(i) -> [b] for 0 <= i < count, one after another in the memory of one.

    values [count, b] are all that it returned; gradients, in the order of `trainable`, are those of the sum of values.
    Neither passes a gradient on. `variables` are all that function reads and changes; what it changes, such as a
    running mean or the state of a seed generator, one call hands to the next.
    """
    return _ACCUMULATED[name()](function, variables, trainable, count)


def _accumulated_on_jax(function, variables, trainable, count):
    import jax

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


def _accumulated_on_tensorflow(function, variables, trainable, count):
    import tensorflow as tf

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


def _accumulated_on_torch(function, variables, trainable, count):
    import torch

    weights, values, sums = [v.value for v in trainable], [], None
    for i in range(count):
        found = function(i)
        gradients = torch.autograd.grad(found.sum(), weights, materialize_grads=True)
        sums = gradients if sums is None else torch._foreach_add(sums, gradients)
        values.append(found.detach())
    return torch.stack(values), list(sums)


_ACCUMULATED = {
    "jax": _accumulated_on_jax,
    "tensorflow": _accumulated_on_tensorflow,
    "torch": _accumulated_on_torch,
}


def gathered(tensor):
    """A tensor as numpy, whole, also where processes hold parts of it; then all of them must ask for it."""
    if name() == "jax" and not tensor.is_fully_addressable:
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(tensor, tiled=True)
    return ops.convert_to_numpy(tensor)


def device_kind() -> str:
    """The kind of the devices that training runs on, as the backend names it, "cpu" among others."""
    if name() == "jax":
        import jax

        return jax.devices()[0].device_kind
    if name() == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"


def convolution_precision() -> str:
    """What accelerators may round float32 to in convolutions: "float32", "tf32", or jax's own word for it."""
    if name() == "jax":
        import jax

        return jax.config.jax_default_matmul_precision or "default"
    if name() == "torch":
        import torch

        newer = getattr(torch.backends.cudnn, "conv", None)  # of torch 2.9; it may not be mixed with the older flag
        allowed = torch.backends.cudnn.allow_tf32 if newer is None else newer.fp32_precision == "tf32"
    else:
        import tensorflow as tf

        allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    return "tf32" if allowed else "float32"
