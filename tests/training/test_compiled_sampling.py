"""On torch with CUDA sampling runs compiled blocks, one program a kind; here on a CPU, by a compiler that is quick."""

import copy
import functools

import numpy as np
import pytest
from helpers import images, only_on_torch, randomize, tiny_network
from training_helpers import tiny_model, with_averages

from keras_sid2 import Guidance, backend, threefry
from keras_sid2.backend import recorded_blocks
from keras_sid2.conditions import Frames, TextEmbedding

pytestmark = only_on_torch

RES = {"kind": "res", "channels": 4, "blocks": 2}
DEEP = (RES, {"kind": "transformer", "channels": 8, "blocks": 3, "head_dim": 4})  # 4 and 3 blocks, of two kinds
TEXT = np.linspace(-1.0, 1.0, 3 * 5 * 6, dtype="float32").reshape(3, 5, 6)
CLIP = (3, 4, 4, 1)

# Of the network and the model, and what is drawn.
CASES = {
    "labels": ({}, {}, {}),
    "guidance": ({}, {}, {"guidance": Guidance(2.0)}),
    "guidance in an interval": ({}, {}, {"guidance": Guidance(2.0, (-2.0, 2.0))}),
    "guidance in turn": ({}, {}, {"guidance": Guidance(2.0, one_batch=False)}),
    "a text": ({"conditions": {"text": TextEmbedding(5, 6)}}, {}, {"conditions": {"text": TEXT}}),
    "given frames": (
        {"image_shape": CLIP, "num_classes": None, "conditions": {"given": Frames(CLIP, 1)}},
        {},
        {"labels": None, "conditions": {"given": np.tanh(images(3, 1, *CLIP[1:]))}},
    ),
    "a student": ({}, {"student_steps": 2}, {"num_steps": None}),
    "mixed_bfloat16": ({"dtype": "mixed_bfloat16"}, {}, {"guidance": Guidance(2.0)}),
}


def model_of(network, model):
    made = tiny_model(network=randomize(tiny_network(**{"levels": DEEP, **network})), **model)
    with_averages(made)
    return made


def draw(model, **options):
    options = {"labels": [0, 1, 2], "num_steps": 3, "dtype": "float32", **options}
    return model.generate(**{name: value for name, value in options.items() if value is not None})


@pytest.fixture
def by_torch_compile(monkeypatch):
    """From when it is called on blocks are compiled as on CUDA, by the compiler that it returns, which counts."""
    import torch
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    monkeypatch.setattr(recorded_blocks, "_GRAPHS", {})
    monkeypatch.setattr(backend, "fused", lambda function, *given: function(*given))  # a second each

    def begin(compiler=None):
        compiler = compiler or CompileCounterWithBackend("aot_eager")
        monkeypatch.setattr(recorded_blocks, "_compiles", lambda device: True)
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler, fullgraph=True))
        return compiler

    return begin


@pytest.mark.parametrize(("network", "model", "options"), CASES.values(), ids=CASES)
def test_images_are_those_without_and_a_kind_is_compiled_once_a_shape(by_torch_compile, network, model, options):
    expected = draw(model_of(network, model), **options)
    compiler, compiled = by_torch_compile(), model_of(network, model)
    for _ in range(2):  # when it is compiled, and then
        np.testing.assert_allclose(draw(compiled, **options), expected, atol=1e-5)
    graphs = list(compiled.sampling_programs["network"]._graphs.values())
    interval = "guidance" in options and options["guidance"].interval is not None
    assert compiler.frame_count == 2 * len(graphs) and len(graphs) == (2 if interval else 1)
    for graph in graphs:
        assert sum(isinstance(node.target, recorded_blocks._Kind) for node in graph.graph.nodes) == 7


def test_weights_averages_and_shapes_that_change_are_used(by_torch_compile):
    model, plain = model_of({}, {}), model_of({}, {})
    plain.network.run_eagerly = True
    compiler = by_torch_compile()
    for count, options in ((2, {}), (2, {"use_ema": False}), (4, {"labels": [0, 1, 2, 0], "batch_size": 4}), (4, {})):
        np.testing.assert_allclose(draw(model, **options), draw(plain, **options), atol=1e-5)
        assert compiler.frame_count == count
        for each in (model, plain):
            for weight in each.network.weights:
                weight.assign(1.01 * weight.value)
    model.network.traced_blocks()[0].trainable = False
    np.testing.assert_allclose(draw(model, use_ema=False), draw(plain, use_ema=False), atol=1e-5)
    assert compiler.frame_count == 4
    assert not plain.sampling_programs.get("network")
    again = copy.deepcopy(model)
    np.testing.assert_array_equal(draw(again), draw(model))


def test_without_a_compiler_the_record_runs_and_it_is_told_once_a_kind(by_torch_compile):
    def no_compiler(*_):
        raise RuntimeError("no g++ here")

    expected = draw(model_of({}, {}))
    by_torch_compile(no_compiler)
    model = model_of({}, {})
    with pytest.warns(UserWarning, match="Sampling is slower than it could be: .* cannot be compiled") as told:
        for _ in range(2):
            np.testing.assert_allclose(draw(model), expected, atol=1e-5)
    assert sum("Sampling is slower" in str(warning.message) for warning in told) == 2


def test_evaluation_runs_the_compiled_blocks_too(by_torch_compile):
    data = {"image": np.tanh(images(4, 4, 4, 1)), "label": np.int32([0, 1, 2, 0])}
    expected = model_of({}, {}).evaluate(data, verbose=0, return_dict=True)["loss"]
    compiler = by_torch_compile()
    found = model_of({}, {}).evaluate(data, verbose=0, return_dict=True)["loss"]
    assert found == pytest.approx(expected, rel=1e-5) and compiler.frame_count == 2


def test_random_numbers_are_compiled_once_for_such_arguments_and_are_the_same(by_torch_compile, monkeypatch):
    import torch

    def numbers(seed):
        keys = threefry.fold_in(threefry.key(seed), torch.arange(4), 2)
        return [threefry.normal(keys, (2, 3), index) for index in (1, 2, torch.arange(4))] + [keys]

    expected = [numbers(seed) for seed in (0, 1)]
    fused = recorded_blocks.fused
    compiler = by_torch_compile()
    monkeypatch.setattr(backend, "fused", fused)
    for seed in (0, 1):
        for a, b in zip(numbers(seed), expected[seed], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert compiler.frame_count == len(recorded_blocks._GRAPHS) == 3
    assert threefry.fold_in(threefry.key(0), torch.arange(4), 3).shape == (4, 2) and compiler.frame_count == 3


def test_on_a_cpu_sampling_compiles_nothing(monkeypatch):
    monkeypatch.setattr(recorded_blocks, "_GRAPHS", graphs := {})
    draw(model_of({}, {}))
    assert not graphs and backend.device_kind() == "cpu"
