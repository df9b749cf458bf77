"""The writers of the four formats: write(step, folder, about), on the backend that each needs.

On torch and jax weights are arguments of what is exported, so that no file has them twice, none comes near the two
gigabytes of protobuf or flatbuffers, and tracing needs their shapes alone.
"""

import contextlib
import logging
import pathlib
import warnings

import keras
import numpy as np

from keras_sid2.exporting.step import DenoisingStep

WEIGHTS = "weights.bin"
_OPSET = 20  # of ONNX; what torch.onnx writes without conversion
_EXAMPLES = 3  # of the batch that torch traces: 0 and 1 would be taken for constants
_PLATFORMS = ("cpu", "cuda", "tpu")


def write_savedmodel(step: DenoisingStep, folder: pathlib.Path, about: dict):
    """savedmodel/1, where TensorFlow Serving looks for it: signatures plain, guided, and serving_default, which is
    guided where there is anything to be guided by."""
    import tensorflow as tf

    module, signatures = tf.Module(), {}
    module.weights = [
        tf.Variable(values, trainable=False, name=f"weight_{i}") for i, (_, values) in enumerate(step.weights)
    ]
    for name in step.functions:
        specs = {n: tf.TensorSpec((None, *shape), dtype, name=n) for n, (shape, dtype) in step.inputs(name).items()}
        run = _of_tensors(step.functions[name], module.weights, list(specs))
        signatures[name] = tf.function(run, input_signature=list(specs.values()), autograph=False)
    module.functions = signatures
    signatures = {"serving_default": signatures.get("guided", signatures["plain"]), **signatures}
    tf.saved_model.save(module, str(folder / "savedmodel" / "1"), signatures=signatures)


def _of_tensors(function, variables: list, names: list[str]):
    """`function` of tensors in the order of the names, without weights: what tensorflow calls signatures."""

    def run(*tensors):
        return function([v.value() for v in variables], dict(zip(names, tensors, strict=True)))

    return run


def write_jax(step: DenoisingStep, folder: pathlib.Path, about: dict):
    """plain.stablehlo and guided.stablehlo, as jax.export serializes them, lowered for CPU, CUDA and TPU."""
    import jax

    weights = [jax.ShapeDtypeStruct(values.shape, "float32") for _, values in step.weights]
    (batch,) = jax.export.symbolic_shape("batch")
    for name, function in step.functions.items():
        kinds = step.inputs(name).items()
        inputs = {n: jax.ShapeDtypeStruct((batch, *shape), dtype) for n, (shape, dtype) in kinds}
        exported = jax.export.export(jax.jit(function), platforms=_PLATFORMS)(weights, inputs)
        (folder / f"{name}.stablehlo").write_bytes(exported.serialize())


def write_torch(step: DenoisingStep, folder: pathlib.Path, about: dict):
    """plain.pt2 and guided.pt2 of torch.export, on the CPU."""
    import torch

    for name in step.functions:
        program = _torch_program(step, name)
        program._example_inputs = None  # the weights would be written with it
        torch.export.save(program, str(folder / f"{name}.pt2"))


def write_onnx(step: DenoisingStep, folder: pathlib.Path, about: dict):
    """plain.onnx and guided.onnx, whose weights are both times those of weights.bin, as external data."""
    import onnx
    import torch

    names = [f"network_weight_{i}" for i in range(len(step.weights))]
    for name in step.functions:
        inputs = [*names, *step.inputs(name)]
        with _quiet("torch.onnx"):
            program = torch.onnx.export(
                _torch_program(step, name),
                dynamo=True,
                verbose=False,
                input_names=inputs,
                output_names=["x_hat", "z_s"],
                opset_version=_OPSET,
            )
        proto = program.model_proto
        _take_weights_from_file(proto.graph, dict(zip(names, about["weights"], strict=True)))
        onnx.save_model(proto, str(folder / f"{name}.onnx"))
        onnx.checker.check_model(str(folder / f"{name}.onnx"))


def _take_weights_from_file(graph, where: dict):
    """Inputs with the names of weights become initializers whose values lie in weights.bin."""
    from onnx import TensorProto

    del graph.value_info[:]  # it names the batch otherwise
    inputs = [given for given in graph.input if given.name not in where]
    for name, at in where.items():
        tensor = graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=at["shape"])
        tensor.data_location = TensorProto.EXTERNAL
        length = 4 * int(np.prod(at["shape"], dtype="int64"))
        for key, value in (("location", WEIGHTS), ("offset", at["offset"]), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
    del graph.input[:]
    graph.input.extend(inputs)
    for tensor in (*graph.input, *graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"


def _torch_program(step: DenoisingStep, name: str):
    """torch.export's program of a function, called (weights, inputs), for any number of examples."""
    import torch

    class Function(torch.nn.Module):
        def forward(self, weights, inputs):
            return step.functions[name](weights, inputs)

    weights = [torch.from_numpy(values) for _, values in step.weights]
    kinds = step.inputs(name).items()
    inputs = {n: torch.zeros((_EXAMPLES, *shape), dtype=getattr(torch, dtype)) for n, (shape, dtype) in kinds}
    batch = torch.export.Dim("batch")
    dynamic = [None] * len(weights), {n: {0: batch} for n in inputs}
    with keras.device("cpu"), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of deprecations within it
        return torch.export.export(Function(), (weights, inputs), dynamic_shapes=dynamic, strict=False)


@contextlib.contextmanager
def _quiet(name: str):
    """Without the warnings of a logger and its children, such as those of packages that it could register."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


WRITERS = {"savedmodel": write_savedmodel, "onnx": write_onnx, "torch": write_torch, "jax": write_jax}
