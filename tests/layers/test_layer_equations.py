"""Each layer against float64 numpy written from its equation."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
from helpers import images, only_on_jax, randomize, sigmoid, to_numpy
from keras import ops
from keras.backend import standardize_dtype
from layer_cases import CASES, randomized

from keras_sid2 import backend, layers, threefry

EPSILON = 1e-6


class Weights:
    """A layer's weights, float64, by their path below the layer; and what its sublayers do with them."""

    def __init__(self, layer):
        self.values = {w.path.partition("/")[2]: to_numpy(w.value).astype("float64") for w in layer.weights}

    def dense(self, name, h):
        bias = self.values.get(f"{name}/bias", 0.0)
        return h @ self.values[f"{name}/kernel"] + bias

    def conv3x3(self, name, h):
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        kernel, (_, height, width, _) = self.values[f"{name}/kernel"], h.shape
        taps = (padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
        return sum(taps) + self.values[f"{name}/bias"]

    def norm(self, name, h, axes):
        mean, variance = h.mean(axes, keepdims=True), h.var(axes, keepdims=True)
        return (h - mean) / np.sqrt(variance + EPSILON)

    def affine(self, name, h):
        return h * self.values[f"{name}/gamma"] + self.values[f"{name}/beta"]

    def layer_norm(self, name, h):
        return self.affine(name, self.norm(name, h, (-1,)))

    def group_norm(self, name, h, groups):
        grouped = h.reshape(*h.shape[:3], groups, -1)
        return self.affine(name, self.norm(name, grouped, (1, 2, 4)).reshape(h.shape))

    def attention(self, h, head_dim, prefix=""):
        batch, height, width, channels = h.shape
        q, k, v = (
            self.dense(f"{prefix}{role}", h).reshape(batch, height * width, channels // head_dim, head_dim)
            for role in ("query", "key", "value")
        )
        q, k = self.layer_norm(f"{prefix}query_norm", q), self.layer_norm(f"{prefix}key_norm", k)
        return self.dense(f"{prefix}out", softmax_attention(q, k, v).reshape(h.shape))


def silu(x):
    return x * sigmoid(x)


def softmax_attention(q, k, v):
    """[B, N, heads, d], with no mask."""
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


def outputs(name, training=False, **options):
    """(the layer's output, its weights, its inputs in float64)."""
    layer, inputs = randomized(name), CASES[name].inputs()
    output = layer(*map(ops.convert_to_tensor, inputs), **options)
    return to_numpy(output), Weights(layer), *(x.astype("float64") for x in inputs)


def modulated(w, h, emb):
    scale, shift = np.split(w.dense("modulation", emb)[:, None, None, :], 2, axis=-1)
    return h * (1.0 + scale) + shift


def test_res_block():
    output, w, h, emb = outputs("ResBlock")  # 8 channels: 2 groups of 4
    branch = w.conv3x3("conv1", silu(w.group_norm("norm1", h, 2)))
    branch = silu(modulated(w, w.group_norm("norm2", branch, 2), emb))
    np.testing.assert_allclose(output, h + w.conv3x3("conv2", branch), atol=2e-5)


def test_transformer_block():
    output, w, h, emb = outputs("TransformerBlock")
    hidden = modulated(w, silu(w.dense("mlp1", w.layer_norm("mlp_norm", h))), emb)
    middle = h + w.dense("mlp2", hidden)
    expected = middle + w.attention(w.layer_norm("attention_norm", middle), 4, "attention/")
    np.testing.assert_allclose(output, expected, atol=2e-5)


def test_self_attention():
    output, w, h = outputs("SelfAttention")
    np.testing.assert_allclose(output, w.attention(h, 4), atol=1e-5)


def test_attention_is_the_softmax_over_all_positions():
    q, k, v = (images(2, 9, 3, 4, seed=seed) for seed in range(3))
    output = to_numpy(backend.attention(*map(ops.convert_to_tensor, (q, k, v))))
    np.testing.assert_allclose(output, softmax_attention(*(x.astype("float64") for x in (q, k, v))), atol=1e-5)


def test_down_is_the_mean_of_four_and_up_repeats_one():
    output, w, h = outputs("Downsample")
    mean = h.reshape(2, 2, 2, 3, 2, 5).mean((2, 4))
    np.testing.assert_allclose(output, mean @ w.values["conv/kernel"][0, 0] + w.values["conv/bias"], atol=1e-5)
    output, w, h = outputs("Upsample")
    mixed = h @ w.values["conv/kernel"][0, 0] + w.values["conv/bias"]
    np.testing.assert_allclose(output, mixed.repeat(2, axis=1).repeat(2, axis=2), atol=1e-5)


def test_a_patch_is_one_position_and_back():
    output, w, h = outputs("Patchify")
    patches = h.reshape(2, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5)  # [B, H/p, W/p, p, p, C]
    np.testing.assert_allclose(
        output, np.einsum("bhwpqc,pqcf->bhwf", patches, w.values["kernel"]) + w.values["bias"], atol=1e-5
    )
    output, w, h = outputs("Unpatchify")
    pixels = np.einsum("bhwc,pqfc->bhpwqf", h, w.values["kernel"]) + w.values["bias"]
    np.testing.assert_allclose(output, pixels.reshape(2, 4, 6, 3), atol=1e-5)


def test_position_embedding_is_added():
    output, w, h = outputs("PositionEmbedding")
    np.testing.assert_allclose(output, h + w.values["embedding"], atol=1e-6)


def test_position_embedding_starts_with_deviation_one_hundredth():
    layer = layers.PositionEmbedding()
    layer.build((None, 32, 32, 8))
    assert abs(to_numpy(layer.embedding.value).std() / 0.01 - 1) < 0.05  # 8192 draws: a standard error of 0.8 %


@pytest.mark.parametrize("name", ["ResBlock", "TransformerBlock"])
def test_a_new_block_is_the_identity(name):
    case = CASES[name]
    h, emb = case.inputs()
    output = case.build()(ops.convert_to_tensor(h), ops.convert_to_tensor(10 * emb))
    np.testing.assert_array_equal(to_numpy(output), h)


@pytest.mark.parametrize("name", ["SelfAttention", "Unpatchify"])
def test_what_a_branch_ends_with_is_zero_when_new(name):
    case = CASES[name]
    assert not to_numpy(case.build()(*map(ops.convert_to_tensor, case.inputs()))).any()


# Dropout.

with_dropout = pytest.mark.parametrize("name", ["ResBlock", "TransformerBlock"])


def trained(layer, case, seed, training=True):
    seed = None if seed is None else threefry.key(seed)
    return to_numpy(layer(*map(ops.convert_to_tensor, case.inputs()), training=training, seed=seed))


@with_dropout
def test_dropout_is_a_function_of_its_seed(name):
    layer, case = randomized(name), CASES[name]
    first = trained(layer, case, 1)
    np.testing.assert_array_equal(trained(layer, case, 1), first)
    assert np.abs(trained(layer, case, 2) - first).max() > 1e-3


@with_dropout
def test_inference_and_a_rate_of_zero_drop_nothing(name):
    layer, case = randomized(name), CASES[name]
    plain = trained(layer, case, None, training=False)
    np.testing.assert_array_equal(trained(layer, case, 1, training=False), plain)
    never = dataclasses.replace(case, settings={**case.settings, "dropout": 0.0}).build()
    np.testing.assert_array_equal(trained(randomize(never), case, None), plain)
    assert np.abs(trained(layer, case, 1) - plain).max() > 1e-3


@with_dropout
def test_dropout_without_a_seed_is_refused(name):
    with pytest.raises(ValueError, match=r"has dropout 0.25: in training it needs a seed, int32 \[2\]"):
        trained(randomized(name), CASES[name], None)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_dropout_is_a_rate_below_one(rate):
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got"):
        layers.ResBlock(dropout=rate)


def test_head_dim_must_divide_the_channels():
    with pytest.raises(ValueError, match="head_dim must divide the 8 channels of its level, got 3"):
        layers.SelfAttention(head_dim=3).build((None, 2, 2, 8))


@pytest.mark.parametrize("channels, groups", [(4, 1), (8, 2), (128, 32), (256, 32), (96, 8), (20, 1)])
def test_groups_divide_the_channels_and_hold_at_least_four(channels, groups):
    from keras_sid2.layers.blocks import norm_groups

    assert norm_groups(channels) == groups
    assert channels % groups == 0 and channels // groups >= 4


# Conditioning.


@pytest.mark.parametrize("dtype, precision", [("bfloat16", 2.0**-8), ("float16", 2.0**-11)])
@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (-20.0, 0.5), (0.0, 1e-3)])
def test_group_norm_in_half_precision_is_rounded_once(dtype, precision, mean, deviation):
    layer = layers.GroupNorm(groups=4, epsilon=EPSILON, dtype=f"mixed_{dtype}")
    h = ops.cast(mean + deviation * images(2, 6, 4, 8), dtype)
    layer.build(h.shape)
    randomize(layer)
    weights = Weights(layer)
    weights.values = {f"norm/{name}": value for name, value in weights.values.items()}
    expected = weights.group_norm("norm", to_numpy(ops.cast(h, "float32")).astype("float64"), 4)
    found = to_numpy(ops.cast(layer(h), "float32"))
    np.testing.assert_allclose(found, expected, rtol=precision, atol=2e-3 * precision + 2e-5 * abs(mean / deviation))


def test_two_noise_levels_that_bfloat16_confuses_stay_apart():
    close = np.float32([9.97, 10.02])
    assert len(np.unique(to_numpy(ops.cast(ops.cast(close, "bfloat16"), "float32")))) == 1
    layer = randomized("ConditionEmbedding", dtype="mixed_bfloat16")
    embedding = layer(ops.convert_to_tensor(close))
    assert standardize_dtype(embedding.dtype) == "float32"
    first, second = to_numpy(embedding)
    assert np.abs(first - second).max() > 1e-3


def test_no_label_is_the_null_class():
    layer, logsnr = randomized("ConditionEmbedding, classes"), ops.convert_to_tensor(np.float32([-3.0, 2.0]))
    none, null, first = (
        to_numpy(layer(logsnr, label if label is None else ops.full((2,), label, dtype="int32")))
        for label in (None, 3, 0)
    )
    np.testing.assert_array_equal(none, null)
    assert np.abs(none - first).max() > 1e-3


def test_conditioning_is_silu_of_mlp_of_waves_plus_class():
    layer = randomized("ConditionEmbedding, classes")
    w, logsnr, label = Weights(layer), np.float32([-14.0, 0.5, 9.0]), np.int32([2, 3, 0])
    waves = 2 * np.pi / np.geomspace(40.0, 0.25, 128) * logsnr[:, None].astype("float64")
    features = np.concatenate([np.sin(waves), np.cos(waves)], axis=-1)
    expected = silu(w.dense("dense2", silu(w.dense("dense1", features))) + w.values["classes/embeddings"][label])
    output = to_numpy(layer(ops.convert_to_tensor(logsnr), ops.convert_to_tensor(label)))
    np.testing.assert_allclose(output, expected, atol=2e-4)  # the argument of the fastest wave is 350: 2e-5 in float32


# Attention on a TPU.


@pytest.fixture
def faked_tpu(monkeypatch):
    """keras believes that it is on a TPU and runs that platform's kernel, interpreted on the CPU."""
    import jax
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    class Tpu:
        platform = "tpu"

    monkeypatch.setattr(jax, "devices", lambda *args: [Tpu()])
    monkeypatch.setattr(kernel, "make_splash_mha", functools.partial(kernel.make_splash_mha, interpret=True))


@only_on_jax
def test_attention_on_a_tpu_is_scaled_and_sees_every_position(faked_tpu):
    q, k, v = (images(1, 128, 1, 8, seed=seed) for seed in range(3))  # keras's own path takes multiples of 128
    expected = softmax_attention(*(x.astype("float64") for x in (q, k, v)))
    ours = backend.attention(*map(ops.convert_to_tensor, (q, k, v)))
    np.testing.assert_allclose(to_numpy(ours), expected, atol=1e-5)
    keras_s = to_numpy(ops.dot_product_attention(*map(ops.convert_to_tensor, (q, k, v))))
    if np.abs(keras_s - expected).max() < 1e-4:
        pytest.skip("this keras is right on a TPU by itself: backend.attention may let it")
    assert np.abs(keras_s - expected).max() > 0.1


@only_on_jax
def test_attention_with_a_mask_does_not_ask_for_cudnn_on_a_gpu(monkeypatch):
    monkeypatch.setattr(backend.ops, "jax_platform", lambda: "gpu")
    asked = lambda *args: pytest.fail("it is asked for")  # noqa: E731
    monkeypatch.setattr(keras.src.backend.nn, "_can_use_flash_attention", asked)
    q, k, v = (images(1, 4, 1, 8, seed=seed) for seed in range(3))
    ours = backend.attention(*map(ops.convert_to_tensor, (q, k, v)), ops.convert_to_tensor(np.arange(4)[None] < 3))
    expected = softmax_attention(*(x.astype("float64") for x in (q, k[:, :3], v[:, :3])))
    np.testing.assert_allclose(to_numpy(ours), expected, atol=1e-5)
