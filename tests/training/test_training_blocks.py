"""On torch each kind of block is recorded once for training, and what a step computes stays what Keras's layers do."""

import copy
import functools
import warnings
import zipfile

import keras
import numpy as np
import pytest
from helpers import BACKEND, network_inputs, only_on_torch, randomize, tiny_network, to_numpy
from keras import ops
from training_helpers import DROPOUT_LEVELS, fit_steps, same_weights, tiny_model

from keras_sid2 import AdamRecipe, backend, threefry
from keras_sid2.backend import recorded_blocks

RES, TRANSFORMER = DROPOUT_LEVELS
DEEP = (RES, {**TRANSFORMER, "blocks": 2})  # 2 and 2 blocks, of two kinds


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The graphs of the test alone, by kind."""
    monkeypatch.setattr(recorded_blocks, "_GRAPHS", found := {})
    return found


def network(eagerly: bool = False, **options):
    made = randomize(tiny_network(**{"levels": DEEP, **options}))
    made.run_eagerly = eagerly
    return made


def loss_and_gradients(network, batch: int = 2) -> list[np.ndarray]:
    """Of the mean square of the output in training, with dropout; a network that has other values may be given."""
    import torch

    inputs = tuple(map(ops.convert_to_tensor, network_inputs(network, batch)))
    loss = ops.mean(ops.square(network(inputs, training=True, seed=threefry.key(3))))
    weights = [v.value for v in network.trainable_variables]
    return [to_numpy(v) for v in (loss, *torch.autograd.grad(loss, weights, materialize_grads=True))]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_close(found, expected):
    """To 1e-6 of the largest number: of gradients that are zero but for rounding, nothing else can be said."""
    largest = max(np.abs(b).max() for b in expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * largest)


ONE_LEVEL = {"res": [{**RES, "blocks": 2}], "transformer": [{**TRANSFORMER, "blocks": 2}]}
CHANGES = {
    "float32": {},
    "mixed_bfloat16": {"dtype": "mixed_bfloat16"},
    "remat": {"remat": True},
    "clips": {"image_shape": (2, 4, 4, 1)},
}


@only_on_torch
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("levels", ONE_LEVEL.values(), ids=ONE_LEVEL)
def test_loss_and_gradients_are_those_of_the_layers_to_the_bit(graphs, levels, changes):
    expected = loss_and_gradients(network(True, levels=levels, **changes))
    assert not graphs
    recorded = network(levels=levels, **changes)
    for _ in range(2):  # when it is recorded, and from the record
        assert_equal(loss_and_gradients(recorded), expected)
    assert len(graphs) == 1


@only_on_torch
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_of_several_levels_they_are_but_for_the_order_of_sums(graphs, dropout):
    """Downsampled features lie channels first in memory; the record has them channels last, as all others."""
    levels = [{**level, "dropout": dropout} for level in DEEP]
    expected, found = (loss_and_gradients(network(eagerly, levels=levels)) for eagerly in (True, False))
    assert_close(found, expected)
    assert len(graphs) == 2


@only_on_torch
def test_a_kind_is_recorded_once_for_all_blocks_and_networks_and_the_latest_are_kept(graphs, monkeypatch):
    monkeypatch.setattr(recorded_blocks, "_MOST_GRAPHS", 2)
    calls, block = [], type(network(levels=ONE_LEVEL["res"]).traced_blocks()[0])
    call = block.call
    monkeypatch.setattr(block, "call", lambda *a, **k: calls.append(1) or call(*a, **k))
    for batch, recordings, kept in ((2, 1, 1), (2, 1, 1), (3, 2, 2), (2, 2, 2), (4, 3, 2), (2, 3, 2), (3, 4, 2)):
        loss_and_gradients(network(levels=ONE_LEVEL["res"]), batch)
        assert (len(calls), len(graphs)) == (recordings, kept)


@only_on_torch
def test_a_record_follows_settings_weights_and_what_is_frozen(graphs):
    recorded, plain = network(), network(True)
    loss_and_gradients(recorded)
    for each in (recorded, plain):  # other values, in place and in a scope
        for weight in each.weights:
            weight.assign(1.5 * weight.value)
    assert_close(loss_and_gradients(recorded), loss_and_gradients(plain))
    halves = [[(v, 0.5 * v.value) for v in each.variables] for each in (recorded, plain)]
    inputs = tuple(map(ops.convert_to_tensor, network_inputs(plain)))
    outputs = []
    for each, half in zip((recorded, plain), halves, strict=True):
        with keras.StatelessScope(half):
            outputs.append(to_numpy(each(inputs, training=True, seed=threefry.key(3))))
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    for each in (recorded, plain):
        each.traced_blocks()[0].conv1.trainable = False
        each.traced_blocks()[2].trainable = False
        each.traced_blocks()[-1].dropout = 0.5
    assert len(recorded.trainable_variables) < len(recorded.variables) - 1
    assert_close(loss_and_gradients(recorded), loss_and_gradients(plain))


@only_on_torch
def test_a_record_keeps_what_depends_on_no_input_but_draws_anew(graphs, monkeypatch):
    import torch

    block = type(network(levels=ONE_LEVEL["res"]).traced_blocks()[0])
    call = block.call
    monkeypatch.setattr(block, "call", lambda self, h, *a, **k: call(self, h + torch.rand(2).sum(), *a, **k))
    recorded = network(levels=ONE_LEVEL["res"])
    inputs = tuple(map(ops.convert_to_tensor, network_inputs(recorded)))
    first, second = (to_numpy(recorded(inputs, training=True, seed=threefry.key(3))) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3
    for graph in graphs.values():  # dropout's counter is none of its operations
        nodes = graph._graph.graph.nodes
        assert not [n for n in nodes if "arange" in str(n.target)]
        assert {*dict(graph._graph.named_buffers())} <= {n.target for n in nodes}  # nor what it was made of is kept


@only_on_torch
def test_layers_of_other_lora_factors_are_of_another_kind(graphs):
    networks = [network(eagerly, levels=ONE_LEVEL["transformer"]) for eagerly in (True, False)]
    for each in networks:
        for alpha, block in zip((2.0, 64.0), each.traced_blocks(), strict=True):
            block.mlp1.enable_lora(2, lora_alpha=alpha)
        randomize(each)
    expected, found = map(loss_and_gradients, networks)
    assert_close(found, expected)
    assert len(graphs) == 2


def count(told) -> int:
    """Warnings of ours: torch has others while it is imported."""
    return sum("Training is slower" in str(warning.message) for warning in told)


@only_on_torch
def test_what_cannot_be_recorded_runs_as_it_is_and_is_told_once(graphs, monkeypatch):
    block = type(network().traced_blocks()[0])
    call = block.call
    monkeypatch.setattr(block, "call", lambda self, h, *a, **k: call(self, h * (1.0 + 0.0 * h.sum().item()), *a, **k))
    expected, recorded = loss_and_gradients(network(True)), network()
    with pytest.warns(UserWarning, match="Training is slower than it could be: .* cannot be recorded") as told:
        for _ in range(2):
            assert_close(loss_and_gradients(recorded), expected)
    assert count(told) == 1


def by_torch_compile(monkeypatch, compiler):
    """All kinds compiled as on CUDA, by another compiler than inductor, which takes half a minute a kind."""
    import torch

    torch._dynamo.reset()
    monkeypatch.setattr(recorded_blocks, "_compiles", lambda device: True)
    monkeypatch.setattr(backend, "fused", lambda function, *given: function(*given))  # of random numbers
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=compiler))


@only_on_torch
@pytest.mark.parametrize("remat", [False, True])
def test_a_kind_is_compiled_once_as_one_graph(monkeypatch, remat):
    from torch._dynamo.testing import CompileCounterWithBackend

    by_torch_compile(monkeypatch, compiler := CompileCounterWithBackend("aot_eager"))
    expected, compiled = loss_and_gradients(network(True)), network(remat=remat)
    for _ in range(2):
        assert_close(loss_and_gradients(compiled), expected)
    assert compiler.frame_count == 2


@only_on_torch
def test_without_a_compiler_the_record_runs(monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("no g++ here")

    by_torch_compile(monkeypatch, no_compiler)
    expected, compiled = loss_and_gradients(network(True)), network()
    with pytest.warns(UserWarning, match="cannot be compiled") as told:
        for _ in range(2):
            assert_close(loss_and_gradients(compiled), expected)
    assert count(told) == 2  # kinds


@only_on_torch
def test_training_in_parts_is_the_same_to_the_bit_also_of_copies_and_files(graphs, tmp_path):
    options = {"recipe": AdamRecipe(1e-3, accumulation_steps=4), "compiled": False}
    models = [tiny_model(network=network(levels=ONE_LEVEL["transformer"]), **options) for _ in range(2)]
    for model, eagerly in zip(models, (True, False), strict=True):
        model.compile(run_eagerly=eagerly)
        fit_steps(model)
        assert len(graphs) == (0 if eagerly else 1)
    assert same_weights(*models)
    models[1].save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as file:
        assert sorted(file.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]
        assert b"run_eagerly" not in file.read("config.json")
    others = [copy.deepcopy(models[1]), keras.saving.load_model(tmp_path / "model.keras")]
    for model in (*models, *others):
        fit_steps(model)
        assert same_weights(model, models[0])
    assert len(graphs) == 1


def test_elsewhere_a_block_is_called():
    if BACKEND == "torch":
        pytest.skip("torch records it")
    run = backend.recorded_block(len, "h", "emb", training=True)
    assert run.func is len and run.keywords == {"training": True}


@only_on_torch
def test_evaluation_and_symbolic_calls_record_nothing(graphs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network()(tuple(map(ops.convert_to_tensor, network_inputs(network()))))
        shapes = [
            keras.KerasTensor((2, *network().image_shape)),
            keras.KerasTensor((2,)),
            keras.KerasTensor((2,), "int32"),
        ]
        network()(dict(zip(("z_t", "logsnr", "label"), shapes, strict=True)), training=True, seed=threefry.key(3))
    assert not graphs
