"""Networks that read a text: nothing changes at first, padding says nothing, and every way to run does the same."""

import keras
import numpy as np
import pytest
from helpers import BACKEND, RES, TRANSFORMER, images, only_on_torch, randomize, run, tiny_network, to_numpy
from keras import ops

from keras_sid2 import ResidualUViT, backend, network_cost, threefry
from keras_sid2.backend import recorded_blocks
from keras_sid2.conditions import TextEmbedding
from keras_sid2.models import abstract_variables
from keras_sid2.parallel.rules import Mesh, table

L, D = 3, 5
TEXT = {"text": TextEmbedding(L, D)}
WAYS = {
    "images": {},
    "clips in turn": {"image_shape": (2, 4, 4, 1), "levels": [{**TRANSFORMER, "blocks": 2, "attention": "alternate"}]},
    "periodic": {"periodic": ("width",)},
    "levels of both kinds": {"image_shape": (8, 8, 1), "levels": [TRANSFORMER, RES, TRANSFORMER]},
    "half precision": {"dtype": "mixed_bfloat16"},
}


# What differs between them is Keras's alone; where each network is compiled, two of them are enough.
TRIED = WAYS if BACKEND == "torch" else {name: WAYS[name] for name in ("images", "clips in turn")}


def texts(count: int = 2, length: int = L) -> np.ndarray:
    values = images(count, length, D, seed=3)
    values[-1, 1] = 0.0  # padding in the middle
    return values


def inputs(network, text, count: int = 2) -> dict:
    given = {"z_t": images(count, *network.sample_shape), "logsnr": np.linspace(-3.0, 3.0, count, dtype="float32")}
    return given | {"label": np.arange(count, dtype="int32")} | ({} if text is None else {"text": text})


def output(network, text=None) -> np.ndarray:
    given = inputs(network, text)
    return run(lambda *values: network(dict(zip(given, values, strict=True))), *given.values())


def name_in(weight) -> str:
    """Its path, without the network's own name."""
    return weight.path.partition("/")[2]


def with_text(network, **changes):
    """One of the same weights, and a text's as when new."""
    given = {"image_shape": network.sample_shape, "levels": network.levels, "periodic": network.periodic, **changes}
    new, old = tiny_network(conditions=TEXT, **given), {name_in(w): w for w in network.weights}
    for weight in new.weights:
        if name_in(weight) in old:
            weight.assign(old.pop(name_in(weight)))
    assert not old
    return new


@pytest.mark.parametrize("changes", TRIED.values(), ids=TRIED)
def test_a_new_text_changes_nothing_to_the_bit_and_a_trained_one_does(changes):
    plain = randomize(tiny_network(**changes))
    network = with_text(plain, **{k: v for k, v in changes.items() if k == "dtype"})
    expected = output(plain)
    np.testing.assert_array_equal(output(network, texts()), expected)
    randomize(network)
    assert np.abs(output(network, texts()) - output(network, texts() * 0)).max() > 1e-3


def check_padding(network):
    """More rows of zeros, and others, change nothing."""
    long = ResidualUViT.from_config({**network.get_config(), "conditions": {"text": _serialized(TextEmbedding(6, D))}})
    for weight, value in zip(long.weights, network.weights, strict=True):
        weight.assign(value)
    text, more = texts(), np.zeros((2, 6, D), "float32")
    more[0, [5, 0, 2]], more[1, [4, 1]] = text[0], text[1, [0, 2]]
    np.testing.assert_allclose(output(long, more), output(network, text), atol=2e-5)


def _serialized(condition):
    return keras.saving.serialize_keras_object(condition)


def test_padding_says_nothing_wherever_it_is_and_how_much_there_is():
    check_padding(randomize(tiny_network(conditions=TEXT)))


def test_a_network_that_reads_padding_is_found(monkeypatch):
    from keras_sid2.layers import cross_attention

    monkeypatch.setattr(cross_attention, "present", lambda text: ops.ones_like(text[..., 0], dtype="bool"))
    with pytest.raises(AssertionError):
        check_padding(randomize(tiny_network(conditions=TEXT)))


def loss_and_gradients(network, text):
    given = {name: ops.convert_to_tensor(value) for name, value in inputs(network, text).items()}

    def losses(_):
        found = network(given, training=True, seed=threefry.key(3))
        return ops.mean(ops.square(found), axis=tuple(range(1, len(found.shape))))

    values, gradients = backend.accumulated(losses, network.variables, network.trainable_variables, 1)
    return to_numpy(values), {name_in(w): to_numpy(g) for w, g in zip(network.trainable_variables, gradients)}  # noqa: B905


def test_a_text_is_what_trains_its_keys_and_without_one_the_learned_token_alone():
    network = randomize(tiny_network(conditions=TEXT))
    _, some = loss_and_gradients(network, texts())
    _, none = loss_and_gradients(network, 0 * texts())
    of_text = [name for name in some if "cross_attention" in name and "key_norm/beta" not in name]
    assert len(of_text) == 10 and all(np.abs(some[name]).max() > 1e-7 for name in of_text)
    still = [name for name in of_text if np.abs(none[name]).max() < 1e-12]
    told = {name.partition("cross_attention/")[2] for name in still}
    assert {"key/kernel", "value/kernel"} <= told and not {"null_value", "out/kernel", "out/bias"} & told
    assert np.abs(none["embedding/text/kernel"]).max() == 0.0 < np.abs(some["embedding/text/kernel"]).max()


@only_on_torch
def test_padding_gets_no_gradient():
    import torch

    network = randomize(tiny_network(conditions=TEXT))
    text = torch.tensor(texts(), requires_grad=True)
    given = {name: ops.convert_to_tensor(value) for name, value in inputs(network, None).items()}
    ops.sum(ops.square(network({**given, "text": text}))).backward()
    assert text.grad[-1, 1].abs().max() == 0.0 < text.grad[-1, 0].abs().min()


def test_recomputed_blocks_give_the_same():
    levels = [{**TRANSFORMER, "dropout": 0.1}]
    options = {"levels": levels, "conditions": TEXT}
    plain, remat = (randomize(tiny_network(remat=remat, **options)) for remat in (False, True))
    (values, expected), (again, found) = (loss_and_gradients(each, texts()) for each in (plain, remat))
    np.testing.assert_allclose(again, values, rtol=1e-5)
    largest = max(np.abs(g).max() for g in expected.values())
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-5, atol=1e-5 * largest, err_msg=name)


@only_on_torch
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_recorded_blocks_give_the_same_to_the_bit_and_are_of_other_kinds_with_a_text(dtype, monkeypatch):
    monkeypatch.setattr(recorded_blocks, "_GRAPHS", graphs := {})
    levels = [{**TRANSFORMER, "blocks": 2, "dropout": 0.1}]
    eager, recorded = (randomize(tiny_network(conditions=TEXT, levels=levels, dtype=dtype)) for _ in range(2))
    eager.run_eagerly = True
    for text in (texts(), -texts()):
        (values, expected), (again, found) = (loss_and_gradients(each, text) for each in (eager, recorded))
        np.testing.assert_array_equal(again, values)
        for name, gradient in expected.items():
            np.testing.assert_array_equal(found[name], gradient, err_msg=name)
    assert len(graphs) == 1
    loss_and_gradients(randomize(tiny_network(levels=levels, dtype=dtype)), None)
    assert len(graphs) == 2 and recorded_blocks._NONE not in graphs.values()


def test_its_cost_is_counted():
    """Hand arithmetic: a block of C = 8 channels at N positions, on top of one without a text."""
    level = {**TRANSFORMER, "blocks": 1}
    options = {"image_shape": (4, 4, 1), "patch_size": 1, "num_classes": None, "embedding_dim": 8, "levels": [level]}
    plain, read = network_cost(**options), network_cost(conditions=TEXT, **options)
    c, n, embedding = 8, 16, D * 8
    parameters = 2 * c * c + c + 2 * D * c + 2 * c + 4 * 4 + 2 * c + embedding
    assert read.parameters - plain.parameters == parameters
    blocks = 2 * n * c * c + 2 * L * D * c + 2 * n * (L + 1) * c
    assert read.block_multiply_adds - plain.block_multiply_adds == blocks
    assert read.multiply_adds - plain.multiply_adds == blocks + embedding


@pytest.mark.backend_free
def test_a_mesh_splits_its_kernels_by_heads():
    levels = [{"kind": "transformer", "channels": 128, "blocks": 1, "head_dim": 32}]
    with abstract_variables():
        network = tiny_network(levels=levels, embedding_dim=64, conditions={"text": TextEmbedding(4, 256)})
    rows = {row.path.partition("cross_attention/")[2]: row.axes for row in table(network, Mesh(1, 2, 2)).rows}
    assert rows["query/kernel"] == rows["key/kernel"] == rows["value/kernel"] == ("fsdp", "model")
    assert rows["out/kernel"] == ("model", "fsdp") and rows["null_key"] == rows["null_value"] == ("model",)


def test_a_file_keeps_the_text_and_its_encoder(tmp_path):
    network = randomize(tiny_network(conditions={"text": TextEmbedding(L, D, encoder="words#1f")}))
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    assert again.conditions["text"] == TextEmbedding(L, D, "words#1f") != TextEmbedding(L, D)
    np.testing.assert_array_equal(output(again, texts()), output(network, texts()))
