"""Attention to a text against loops of numpy; wrong versions of it are found."""

import numpy as np
import pytest
from helpers import images, randomize, run, to_numpy

from keras_sid2 import backend, layers
from keras_sid2.layers import cross_attention

HEAD = 2


def made():
    layer = layers.CrossAttention(HEAD)
    layer.build((None, 2, 1, 4), (None, 3, 5))
    return randomize(layer)


def texts() -> np.ndarray:
    """float32 [4, 3, 5]: three tokens; two with padding between and behind; none."""
    values = images(4, 3, 5, seed=1)
    values[1, 1] = values[2, 1:] = values[3] = 0.0
    return values


def layer_norm(x, norm):
    gamma, beta = map(to_numpy, norm.weights)
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6) * gamma + beta


def expected(layer, h, text) -> np.ndarray:
    """Softmax over the learned token and those that are not zeros, head by head, as the definition says."""
    weights = {w.path.split("/", 1)[1]: to_numpy(w).astype("float64") for w in layer.weights}
    found = np.zeros(h.shape)
    for b, y in np.ndindex(*h.shape[:2]):
        tokens = [token for token in text[b] if token.any()]
        keys = [weights["null_key"], *(token @ weights["key/kernel"] for token in tokens)]
        values = [weights["null_value"], *(token @ weights["value/kernel"] for token in tokens)]
        query, seen = h[b, y, 0] @ weights["query/kernel"], []
        for head in (slice(0, 2), slice(2, 4)):
            q = layer_norm(query[head], layer.query_norm)
            logits = np.array([q @ layer_norm(k[head], layer.key_norm) for k in keys]) / np.sqrt(HEAD)
            share = np.exp(logits) / np.exp(logits).sum()
            seen += list(sum(s * v[head] for s, v in zip(share, values, strict=True)))
        found[b, y, 0] = np.array(seen) @ weights["out/kernel"] + weights["out/bias"]
    return found


def check_equation():
    layer, h, text = made(), images(4, 2, 1, 4), texts()
    np.testing.assert_allclose(run(layer, h, text), expected(layer, h, text), atol=1e-5)


def check_mean():
    text = texts()
    means = [rows[rows.any(-1)].mean(0) if rows.any() else np.zeros(5) for rows in text]
    np.testing.assert_allclose(run(cross_attention.pooled, text), means, atol=1e-6)


def test_it_is_what_its_definition_says():
    check_equation()


def test_the_mean_is_of_the_tokens_and_not_of_padding():
    check_mean()


def test_tokens_are_scaled_to_one_size_and_padding_stays_zeros():
    values = texts() * np.array([1e-3, 1.0, 30.0])[:, None].astype("float32")
    found, present = run(cross_attention.unit_tokens, values), values.any(-1)
    np.testing.assert_allclose((found**2).mean(-1), present, atol=1e-4)
    np.testing.assert_allclose(
        found * np.abs(values).max(-1, keepdims=True),
        values * np.abs(found).max(-1, keepdims=True),
        rtol=1e-4,
        atol=1e-6,
    )


def without_null(attention):
    def mutant(q, k, v, mask):
        return attention(q, k[:, 1:], v[:, 1:], mask[:, 1:])

    return mutant


MUTANTS = {
    "mask ignored": (cross_attention, "present", lambda f: lambda text: f(text + 1.0), check_equation),
    "mean over padding": (cross_attention, "present", lambda f: lambda text: f(text + 1.0), check_mean),
    "no learned token": (backend, "attention", without_null, check_equation),
    "mask dropped": (backend, "attention", lambda f: lambda q, k, v, mask: f(q, k, v), check_equation),
}


@pytest.mark.parametrize("where, name, change, check", MUTANTS.values(), ids=MUTANTS)
def test_a_wrong_one_is_found(where, name, change, check, monkeypatch):
    monkeypatch.setattr(where, name, change(getattr(where, name)))
    with pytest.raises(AssertionError):
        check()
