"""Blocks of a network on torch: recorded once a kind for training; compiled, to sample too, where there is a GPU."""

import functools
import itertools
import operator
import warnings
from collections.abc import Callable

import keras

from keras_sid2.backend.compilation import tensors_stay_tensors, with_values
from keras_sid2.backend.platform import name, torch

_MOST_GRAPHS = 64  # a network has four kinds of blocks or so, and as many for a last batch of another size
_GRAPHS = {}  # by kind, the newest last; no model holds any, so that none is copied or saved with it
_NONE = object()  # in the place of the graph of a kind that has none


def recorded_block(block, h, emb, *, training: bool | None, **given) -> Callable:
    """`function(h, emb)` that does what block(h, emb, training=training, **given) does, for these tensors; what is
    `given` may be None.

    On torch a block's operations are recorded when one of its kind is first run: of its class and configuration, with
    tensors of such shapes, dtypes and devices, and weights that are trained or not. All blocks of the kind run the
    record from then on, each with its present values, its gradients being those of the operations, equal to the bit. On
    CUDA the record is compiled (torch.compile), equal up to rounding. What keras.config and torch's own switches say
    counts when a kind is recorded, and not later. A block runs as it is if it cannot be recorded, if its class does not
    say `recorded_by`, the settings that tell it from others of its class, within torch.compile, and outside of training
    where it would not be compiled or gradients are kept; as all do on jax and tensorflow, which compile the whole step.

    Within `recorded` a compiled block is one call of the record, which is not compiled before that runs.
    """
    plain = functools.partial(block, training=training, **given)
    if name() != "torch" or "recorded_by" not in vars(type(block)):
        return plain
    if torch.compiler.is_compiling() or _symbolic(h, emb):
        return plain
    if not training and (torch.is_grad_enabled() or not _compiles(h.device)):
        return plain
    with keras.src.backend.AutocastScope(None):  # as they are: what is cast is in the record
        values = [v.value for v in block.variables]
    if not training:  # else a compiler tells weights from their averages
        values = [v.detach() if isinstance(v, torch.nn.Parameter) else v for v in values]
    beside = {name: t.contiguous() for name, t in given.items() if t is not None}
    rest = tuple(beside.values())
    graph = _graph_of_kind(block, (*values, h, emb, *rest), tuple(beside), bool(training))
    if graph is _NONE:
        return plain
    run = graph if training else _as_one_call(graph)
    return lambda h, emb: run(values, h.contiguous(), emb.contiguous(), *rest)  # views are of a layout


def _graph_of_kind(block, tensors: tuple, beside: tuple[str, ...], training: bool) -> Callable:
    variables = block.variables
    names = tuple(v.name for v in variables)
    kind = (type(block), _settings(block), training, *beside, names, tuple(map(_described, tensors)))
    return _kept(kind, lambda: _graph(block, variables, tensors, beside, training))


def _as_one_call(graph: "_Kind") -> Callable:
    """The same, which make_fx, where it runs, records as one call and not by its operations."""
    from torch.fx.experimental import proxy_tensor
    from torch.utils import _pytree

    def run(*tensors):
        mode = proxy_tensor.get_proxy_mode()
        if mode is None:
            return graph(*tensors)
        with proxy_tensor.disable_proxy_modes_tracing():
            proxies = _pytree.tree_map(mode.tracer.unwrap_proxy, tensors)
            proxy = mode.tracer.create_proxy("call_function", graph, proxies, {})
            found = graph.plainly(*tensors)
            return proxy_tensor.track_tensor_tree(found, proxy, constant=None, tracer=mode.tracer)

    return run


def _symbolic(*tensors) -> bool:
    """Whether these are no values, but keras's or torch's stand-ins for them."""
    return any(type(t) not in (torch.Tensor, torch.nn.Parameter) or t.device.type == "meta" for t in tensors)


def _settings(block) -> tuple:
    """Its own, and the policies and LoRA's factors in it. Not get_config, for which Keras imports TensorFlow wherever
    that is installed."""
    inside = ((layer.dtype_policy.name, getattr(layer, "lora_alpha", None)) for layer in block._flatten_layers())
    return block.recorded_by, tuple(inside)


def _described(tensor) -> tuple:
    return tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad


def _graph(block, variables, tensors, beside: tuple[str, ...], training: bool) -> Callable:
    """The block's operations as a function of all these tensors, the last ones by the names `beside`; _NONE, with a
    warning, if they depend on values."""
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx

    count = len(variables)

    def run(*given):
        h, emb, *rest = given[count:]
        call = functools.partial(block, training=training, **dict(zip(beside, rest, strict=True)))
        return with_values(call, variables)(given[:count], h, emb)

    what = "Training" if training else "Sampling"
    try:
        with tensors_stay_tensors(), torch.set_grad_enabled(training), disable_proxy_modes_tracing():
            # Leaves of their own, and with gradients: attention keeps for the backward pass what it is told to keep.
            leaves = [t.detach().contiguous().requires_grad_(training and t.requires_grad) for t in tensors]
            graph = _simplified(make_fx(run)(*leaves))
    except RuntimeError as error:  # what fails for another reason fails again, and is told
        _warn(what, f"{block.name} cannot be recorded", error)
        return _NONE
    dtype, places = _taken_in(graph, count)
    if _compiles(tensors[count].device):
        return _Kind(graph, dtype, places, _Compiled(graph, what, "A kind of block"))
    return _Kind(_with_constants(graph), dtype, places, graph)


def fused(function: Callable, *given):
    """function(*given), of tensors without gradients, int32 numbers and what can be hashed, for a function of many
    small operations. On torch with CUDA it is recorded and compiled, once for such arguments; elsewhere called."""
    tensors = [each for each in given if name() == "torch" and isinstance(each, torch.Tensor)]
    if not tensors or not _compiles(tensors[0].device) or torch.compiler.is_compiling() or _symbolic(*tensors):
        return function(*given)
    from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

    if get_proxy_mode() is not None:
        return function(*given)
    # Numbers as tensors, so that the steps of a sampler have one program.
    number = functools.partial(torch.full, (), dtype=torch.int32, device=tensors[0].device)
    given = [number(each) if type(each) is int else each for each in given]
    tensors = [each for each in given if isinstance(each, torch.Tensor)]
    are = [isinstance(each, torch.Tensor) for each in given]
    tensors = [t.detach().contiguous() for t in tensors]

    def run(*tensors):
        rest = iter(tensors)
        return function(*(next(rest) if is_tensor else each for each, is_tensor in zip(given, are, strict=True)))

    others = (each for each, is_tensor in zip(given, are, strict=True) if not is_tensor)
    kind = (function, *are, *others, *map(_described, tensors))
    told = "Everything", f"{function.__module__}.{function.__name__}"
    with torch.no_grad():
        return _kept(kind, lambda: _Compiled(_simplified(make_fx(run)(*tensors)), *told))(*tensors)


def _kept(kind: tuple, make: Callable):
    """The graph of a kind, made if it is not there; the newest is the last one, and the oldest goes of many."""
    graph = _GRAPHS.pop(kind, None) or make()
    _GRAPHS[kind] = graph
    if len(_GRAPHS) > _MOST_GRAPHS:
        _GRAPHS.pop(next(iter(_GRAPHS)), None)
    return graph


class _Kind:
    """A graph, and the `places` of those weights that it takes in `dtype`: it casts them in one operation. `compiled`
    does what the graph does."""

    __name__ = "block_of_a_kind"  # in records of a whole network

    def __init__(self, graph: Callable, dtype, places: list[int], compiled: Callable):
        self._graph, self._dtype, self._places, self._compiled = graph, dtype, places, compiled

    def __call__(self, values: list, *tensors):
        return self._compiled(*self._cast(values), *tensors)

    def plainly(self, values: list, *tensors):
        """The same, not compiled."""
        return self._graph(*self._cast(values), *tensors)

    def _cast(self, values: list) -> list:
        if self._places:
            values, cast = list(values), _cast_class().apply(self._dtype, *(values[i] for i in self._places))
            for i, value in zip(self._places, cast, strict=True):
                values[i] = value
        return values


@functools.cache
def _cast_class():
    class Cast(torch.autograd.Function):
        """(dtype, *tensors of one other dtype) -> all in `dtype`, and their gradients back, each in one operation."""

        @staticmethod
        def forward(ctx, dtype, *tensors):
            ctx.dtype = tensors[0].dtype
            ctx.set_materialize_grads(False)
            if tensors[0].device.type != "cpu":  # of one layout, or a GPU copies each by itself
                tensors = [t.contiguous() for t in tensors]
            # Whole in memory, as torch wants gradients: convolutions give others, which it would copy once more.
            found = [torch.empty(t.shape, dtype=dtype, device=t.device) for t in tensors]
            torch._foreach_copy_(found, tensors)
            ctx.mark_non_differentiable(*itertools.compress(found, map(operator.not_, ctx.needs_input_grad[1:])))
            return tuple(found)

        @staticmethod
        def backward(ctx, *gradients):
            there = [g for g in gradients if g is not None]
            cast = iter(Cast.apply(ctx.dtype, *there) if there else ())
            return None, *(None if g is None else next(cast) for g in gradients)

    return Cast


def _taken_in(graph, count: int) -> tuple:
    """(dtype, places) of those of the first `count` inputs that the graph uses in that dtype alone, cast once. The
    graph takes them in it from now on."""
    found, dtype = [], None
    for i, node in enumerate([n for n in graph.graph.nodes if n.op == "placeholder"][:count]):
        cast = next(iter(node.users), None)
        to = cast is not None and len(node.users) == 1 and cast.target is torch.ops.aten._to_copy.default
        if to and set(cast.kwargs) == {"dtype"} and dtype in (None, cast.kwargs["dtype"]):
            dtype = cast.kwargs["dtype"]
            cast.replace_all_uses_with(node)
            graph.graph.erase_node(cast)
            found.append(i)
    graph.recompile()
    return dtype, found


def _compiles(device) -> bool:
    """On CPUs the compiler takes half a minute a kind, for less than the record alone saves of a small network."""
    return device.type == "cuda"


def _simplified(graph):
    """Without copies of constants, which nothing changes, and without results that nothing uses."""
    for node in () if _changes_tensors(graph) else list(graph.graph.nodes):
        if node.target is torch.ops.aten.lift_fresh_copy.default:
            node.replace_all_uses_with(node.args[0])
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _changes_tensors(graph) -> bool:
    return any(node.target._schema.is_mutable for node in graph.graph.nodes if hasattr(node.target, "_schema"))


def _with_constants(graph):
    """What depends on no input is computed now and kept, such as the counter of dropout's masks. A compiler makes it
    anew beside what reads it, which is faster on a GPU than to load it."""
    known = {}
    for node in () if _changes_tensors(graph) else list(graph.graph.nodes):
        if node.op == "get_attr":
            known[node] = getattr(graph, node.target)
        drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        if node.op == "call_function" and not drawn and known.keys() >= {*node.all_input_nodes}:
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for node, value in known.items():  # not what is on the way to another
        if isinstance(value, torch.Tensor) and node.op == "call_function" and not known.keys() >= {*node.users}:
            graph.register_buffer(f"constant_{node.name}", value)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(f"constant_{node.name}"))
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


class _Compiled:
    """A graph by torch.compile; as it is, with a warning, where that fails at its first call."""

    def __init__(self, graph, what: str, name: str):
        self._graph, self._told, self._run = graph, (what, f"{name} cannot be compiled"), None

    def __call__(self, *tensors):
        if self._run is not None:
            return self._run(*tensors)
        try:
            run = torch.compile(self._graph, dynamic=False)
            found = run(*tensors)
        except RuntimeError as error:
            _warn(*self._told, error)
            run, found = self._graph, self._graph(*tensors)
        self._run = run
        return found


def _warn(what: str, why: str, error: Exception):
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    warnings.warn(f"{what} is slower than it could be: {why}: {reason}", stacklevel=3)
