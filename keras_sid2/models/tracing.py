"""What a network costs, found by calling it once without values: any Keras network, on every backend.

    multiply-adds    of a layer with a kernel, from the sizes of its input, its output and the kernel, and
                     2 N M C of attention of N queries over M keys (keras.ops.dot_product_attention)
    tensors          each one that goes into or comes out of a layer: what training keeps is made of these

Products made by hand, as ops.matmul, are not seen: a class that has them says its own count, of one example, by a
method `multiply_adds()`. By two more a network may say which layers it consists of, `traced_blocks()`, and which of
them training computes again in the backward pass, `recomputed_blocks()`.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import keras
from keras import ops

from keras_sid2 import backend
from keras_sid2.conditions import call_network, conditions_of, in_data, sample_shape_of
from keras_sid2.parallel.rules import itemsize

_STRIDED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)


@dataclasses.dataclass(frozen=True)
class NetworkCost:
    """Numbers in the weights, and multiply-adds for one example of the blocks alone and of the whole forward pass.
    Those of the blocks are the figure that papers citing SiD2 call "Gflops" (137 and 653 for the ImageNet models)."""

    parameters: int
    block_multiply_adds: int
    multiply_adds: int


@dataclasses.dataclass
class Part:
    """A block, or all that is in none: bytes of its input and of all tensors, numbers in attention's matrices."""

    is_block: bool = False
    recomputed: bool = False
    input: int = 0
    tensors: int = 0
    matrices: int = 0
    multiply_adds: int = 0


@dataclasses.dataclass(frozen=True)
class Trace:
    """A network and what one example costs in each of its parts."""

    network: keras.Model
    parts: tuple[Part, ...]

    @property
    def cost(self) -> NetworkCost:
        blocks = sum(part.multiply_adds for part in self.parts if part.is_block)
        told = getattr(self.network, "multiply_adds", None)
        total = sum(part.multiply_adds for part in self.parts) if told is None else told()
        return NetworkCost(sum(map(_size, self.network.trainable_variables)), blocks, total)

    @property
    def half(self) -> bool:
        """Whether it computes in half precision."""
        return self.network.compute_dtype != "float32"

    @property
    def example_bytes(self) -> int:
        """Of an example in a batch: uint8 pixels, and the conditions that data hold."""
        inputs, held = _inputs(self.network), in_data(conditions_of(self.network))
        return _size(inputs["z_t"]) + sum(_bytes(inputs[name]) for name in held)


@contextlib.contextmanager
def abstract_variables() -> Iterator[None]:
    """Variables that are made within it have shapes and no values: a network of any size takes no memory."""
    state, name = keras.src.backend.common.global_state, "uninitialized_variables"
    before = state.get_global_attribute(name) or []
    state.set_global_attribute(name, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:  # keras would give those in its list values at the end of the next scope
        state.set_global_attribute(name, before)


def trace(network) -> Trace:
    """Calls `network`, made or abstract, on the shapes of one example; one that has no weights yet gets them."""
    recorder, inputs = _Recorder(network), _inputs(network)

    def run(*values):
        recorder.begin()
        with keras.StatelessScope([(v, ops.zeros(v.shape, v.dtype)) for v in network.variables]):
            return call_network(network, dict(zip(inputs, values, strict=True)), training=False)

    with abstract_variables(), recorder.looking():
        for _ in range(1 if network.built else 2):  # to make weights keras calls layers once more
            keras.src.backend.compute_output_spec(run, *inputs.values())
    return Trace(network, tuple(recorder.parts))


def _inputs(network) -> dict[str, keras.KerasTensor]:
    """What `network` is called with, for one example."""
    given = {name: keras.KerasTensor((1, *c.shape), c.dtype) for name, c in conditions_of(network).items()}
    z_t = keras.KerasTensor((1, *sample_shape_of(network)))
    return {"z_t": z_t, "logsnr": keras.KerasTensor((1,)), **given}


def _size(tensor) -> int:
    return math.prod(tensor.shape)


def _bytes(tensor) -> int:
    return _size(tensor) * itemsize(keras.backend.standardize_dtype(tensor.dtype))


def _multiply_adds(layer, given, made) -> int:
    kernel = layer.kernel
    if isinstance(layer, (*_STRIDED, *_TRANSPOSED)):
        return _size(given if isinstance(layer, _TRANSPOSED) else made) * _size(kernel) // kernel.shape[-1]
    return math.isqrt(_size(given) * _size(made) * _size(kernel))  # each axis of a product is in two of the three


class _Recorder:
    """Looks at every call of a layer, and of attention, within `looking`."""

    def __init__(self, network):
        recomputed = {id(block) for block in getattr(network, "recomputed_blocks", list)()}
        self._blocks = {id(block): id(block) in recomputed for block in getattr(network, "traced_blocks", list)()}

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        layer, nn = keras.layers.Layer, keras.src.backend.nn
        call, attention = layer.__call__, nn.dot_product_attention

        def attention_seen(query, key, *args, **kwargs):
            matrix = _size(query) // query.shape[-1] * key.shape[1]
            self._part.matrices += matrix
            self._part.multiply_adds += 2 * matrix * query.shape[-1]
            return attention(query, key, *args, **kwargs)

        layers_seen = backend.replaced(layer, __call__=lambda *args, **kwargs: self._of_layer(call, args, kwargs))
        with layers_seen, backend.replaced(nn, dot_product_attention=attention_seen):
            yield

    def begin(self):
        """Forgets what there was: keras may try twice."""
        self.parts, self._seen, self._calls = [Part()], {}, 0
        self._part = self.parts[0]

    def _of_layer(self, call, args, kwargs):
        layer, tensors = args[0], [value for value in keras.tree.flatten((args[1:], kwargs)) if ops.is_tensor(value)]
        outer, before = self._part, self._calls
        self._calls += 1
        if id(layer) in self._blocks:
            self._part = Part(True, self._blocks[id(layer)], input=_bytes(tensors[0]))
            self.parts.append(self._part)
        made = _run(call, tensors, args, kwargs)
        if self._calls == before + 1:  # it has no layers inside
            for tensor in keras.tree.flatten((tensors, made)):
                if ops.is_tensor(tensor) and id(tensor) not in self._seen:
                    self._seen[id(tensor)] = tensor  # kept, for ids of others are used again
                    self._part.tensors += _bytes(tensor)
            if getattr(layer, "kernel", None) is not None:
                of_example = len(tensors[0].shape) == 2  # conditioning, one vector an example, is not a block's
                part = self.parts[0] if of_example else self._part
                part.multiply_adds += _multiply_adds(layer, tensors[0], made)
        self._part = outer
        return made


def _run(call, tensors, args, kwargs):
    try:
        return call(*args, **kwargs)
    except Exception:
        if backend.name() != "torch" or len(tensors) != 1:
            raise
        # torch lacks some operations on tensors without values; most of keras's layers know their shape.
        return ops.zeros(args[0].compute_output_shape(tuple(tensors[0].shape)), args[0].compute_dtype)
