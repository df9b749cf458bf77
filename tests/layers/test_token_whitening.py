"""Texts whose tokens are whitened: by statistics of the data, held in the network, and the same wherever it goes."""

import warnings

import keras
import numpy as np
import pytest
from helpers import is_adapted, tiny_network
from keras import ops
from training_helpers import tiny_model

from keras_sid2.conditions import TextEmbedding
from keras_sid2.layers import TokenWhitening
from keras_sid2.training import MomentMatchingModel

LENGTH, WIDTH = 5, 8


def _texts(count: int, seed: int = 0) -> np.ndarray:
    """float32 [count, LENGTH, WIDTH]: alike in most, told apart by little, with padding behind."""
    rng = np.random.default_rng(seed)
    spread = np.geomspace(1.0, 0.02, WIDTH)
    texts = 2.0 + rng.normal(size=(count, LENGTH, WIDTH)) * spread
    there = np.arange(LENGTH) < rng.integers(1, LENGTH + 1, size=(count, 1))
    return (texts * there[..., None]).astype("float32")


def _network(whitened: bool = True):
    conditions = {"text": TextEmbedding(LENGTH, WIDTH, whitened=whitened)}
    return tiny_network(image_shape=(4, 4, 3), num_classes=None, conditions=conditions)


def _called(network, texts: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(3)
    z_t = rng.normal(size=(len(texts), 4, 4, 3)).astype("float32")
    inputs = {"z_t": z_t, "logsnr": np.zeros(len(texts), "float32"), "text": texts}
    return ops.convert_to_numpy(network({k: ops.convert_to_tensor(v) for k, v in inputs.items()}))


def test_tokens_become_uncorrelated_and_padding_stays():
    texts, layer = _texts(2000), TokenWhitening()
    layer.build((None, LENGTH, WIDTH))
    assert not is_adapted(layer)
    layer.adapt(texts)
    assert is_adapted(layer) and not layer.trainable_weights
    scale = np.sqrt(np.mean(np.square(texts), axis=-1, keepdims=True) + 1e-12)
    found = ops.convert_to_numpy(layer(ops.convert_to_tensor(texts / scale)))
    there = (texts != 0).any(-1)
    assert not found[~there].any()
    np.testing.assert_allclose(np.mean(np.square(found[there]), axis=-1), 1.0, atol=1e-4)
    eigenvalues = [np.linalg.eigvalsh(np.cov(tokens[there].T)) for tokens in (texts / scale, found)]
    most, least = (values[-1] / values[1] for values in eigenvalues)  # unit tokens lie on a sphere: one axis has little
    assert most > 300 and least < 15
    assert np.abs(found[there].mean(0)).max() < 0.2


def test_until_it_has_seen_texts_nothing_is_changed():
    plain, whitened = _network(False), _network()
    names = {v.path.partition("/")[2]: v for v in plain.variables}
    for variable in whitened.variables:
        if "whitening" not in variable.path:
            variable.assign(keras.random.normal(variable.shape, seed=7) * 0.1 if variable.trainable else variable)
            names[variable.path.partition("/")[2]].assign(variable.value)
    texts = _texts(3)
    np.testing.assert_allclose(_called(plain, texts), _called(whitened, texts), atol=1e-6)
    whitened.adapt_text(_texts(100))
    assert np.abs(_called(plain, texts) - _called(whitened, texts)).max() > 1e-4


def test_files_students_and_other_processes_get_the_statistics_with_the_weights(tmp_path):
    model = tiny_model(network=_network())
    model.network.adapt_text(_texts(100))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert is_adapted(loaded.network.whitening)
    texts = _texts(2)
    np.testing.assert_array_equal(_called(loaded.network, texts), _called(model.network, texts))
    other = _network()
    other.set_weights(model.network.get_weights())
    student = MomentMatchingModel.of_teacher(model, 2)
    networks = (other, student.network, student.teacher, student.auxiliary, student.student().network)
    for network in networks:
        np.testing.assert_array_equal(_called(network, texts), _called(model.network, texts))


def test_training_leaves_the_statistics_alone():
    model = tiny_model(network=_network())
    model.network.adapt_text(_texts(100))
    before = [ops.convert_to_numpy(v) for v in model.network.whitening.weights]
    images = np.random.default_rng(0).integers(0, 255, (4, 4, 4, 3)).astype("uint8")
    model.fit({"image": images, "text": _texts(4)}, batch_size=4, epochs=2, verbose=0)
    for was, now in zip(before, model.network.whitening.weights, strict=True):
        np.testing.assert_array_equal(was, ops.convert_to_numpy(now))


def test_training_says_once_that_no_texts_have_told_how_to_whiten(monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (4, 4, 4, 3)).astype("uint8")
    data = {"image": images, "text": _texts(4)}
    model = tiny_model(network=_network())
    with pytest.warns(UserWarning, match=r"Tokens are not whitened.* call model.network.adapt_text\(values\) first"):
        model.train_on_batch(data)
    model.train_on_batch(data)  # the rate of the first step is 0
    taught, adapted, plain = (tiny_model(network=_network(whitened)) for whitened in (True, True, False))
    taught.network.set_weights(model.network.get_weights())  # it has learnt to read tokens as they are
    adapted.network.adapt_text(_texts(100))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for other in (taught, adapted, plain):
            other.fit(data, batch_size=4, verbose=0)
        monkeypatch.setattr(type(model.network), "waits_for_texts", lambda self: pytest.fail("weights are read again"))
        model.fit(data, batch_size=4, verbose=0)


def test_directions_without_differences_say_nothing_and_equal_texts_change_nothing():
    layer, texts = TokenWhitening(), _texts(50)
    layer.build((None, LENGTH, WIDTH))
    layer.adapt(np.tile(texts[:1, :1], (3, 2, 1)))
    assert not is_adapted(layer)
    layer.adapt(np.tile(texts[:1], (3, 1, 1)))
    strength = np.linalg.eigvalsh(ops.convert_to_numpy(layer.matrix))
    tokens = int((texts[0] != 0).any(-1).sum())
    assert np.sum(np.abs(strength) > 1e-4) == tokens - 1


def test_what_cannot_be_whitened_is_refused():
    with pytest.raises(ValueError, match="adapt_text is for networks with a TextEmbedding.*whitened=True"):
        _network(False).adapt_text(_texts(2))
    with pytest.raises(ValueError, match=r"text must be numbers of shape \['batch', 5, 8\]"):
        _network().adapt_text(np.zeros((2, 4, 8), "float32"))
    with pytest.raises(ValueError, match="Texts without a single token"):
        _network().adapt_text(np.zeros((2, LENGTH, WIDTH), "float32"))
    with pytest.raises(ValueError, match="whitened must be True or False, got 1"):
        TextEmbedding(LENGTH, WIDTH, whitened=1)
