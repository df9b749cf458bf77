"""The FID Inception-v3 against torch-fidelity's with the same weights, its resize against the definition."""

import contextlib
import re

import keras
import numpy as np
import pytest
import torch_fidelity_parts
from helpers import run
from inception_parts import random_weights, write_pth

from keras_sid2 import backend
from keras_sid2.evaluation import inception, inception_weights
from keras_sid2.evaluation.inception_tables import LAYERS, NETWORK, channels_after, weight_shapes

SIZES = {"square": (32, 32), "not resized": (299, 299), "wide": (64, 96)}
BATCH = 2


@pytest.fixture(scope="module")
def network():
    return inception.Inception(random_weights())


def pictures(height, width, channels=3, count=BATCH):
    """Smooth shapes and noise on all 256 levels; uint8."""
    rng = np.random.default_rng(height)
    coarse = rng.uniform(0, 255, (count, 4, 4, channels)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    noisy = coarse[:, :height, :width] + rng.normal(0.0, 40.0, (count, height, width, channels))
    return np.clip(np.round(noisy), 0, 255).astype("uint8")


# The network.


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """torch-fidelity's network with `random_weights`: it takes them only if it knows every name and shape."""
    if torch_fidelity_parts.MISSING:
        pytest.skip(torch_fidelity_parts.REASON)
    torch = pytest.importorskip("torch", reason="torch-fidelity needs torch")
    pth = write_pth(tmp_path_factory.mktemp("weights") / "inception.pth")
    module = torch_fidelity_parts.load("feature_extractor_inceptionv3")
    theirs = module.FeatureExtractorInceptionV3("inception", list(LAYERS), pth)

    def features(images):
        results = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        return {name: result.numpy() for name, result in zip(LAYERS, results, strict=True)}

    return features


@pytest.mark.parametrize("size", SIZES)
def test_every_layer_is_torch_fidelity_s(network, reference, size):
    images = pictures(*SIZES[size])
    ours, theirs = network(images), reference(images)
    assert tuple(ours) == LAYERS
    for layer in LAYERS:
        scale = theirs[layer].std()
        assert scale > 0.01
        assert ours[layer].dtype == np.float32
        np.testing.assert_allclose(ours[layer], theirs[layer], rtol=0, atol=1e-4 * scale, err_msg=layer)


def test_grey_images_are_their_three_equal_channels_and_a_rest_is_filled_up(network):
    grey = pictures(32, 32, channels=1)
    both = network(grey)
    colour = network(grey.repeat(3, axis=-1)[:1])
    for layer in LAYERS:
        np.testing.assert_allclose(colour[layer], both[layer][:1], rtol=1e-5, atol=1e-5)


def test_more_images_than_fit_at_once_keep_their_order(monkeypatch):
    """And the network sees a new number of them only when more come at once than ever before, up to what fits."""
    monkeypatch.setattr(inception, "inception_network", lambda weights: keras.Sequential())
    monkeypatch.setattr(inception, "_AT_ONCE", 4)
    network, seen = inception.Inception({}), []
    network._resize = lambda values, images: images
    network._network = lambda values, images: seen.append(len(images)) or dict.fromkeys(LAYERS, images[:, 0, 0])
    for count in (2, 9, 1, 4):
        images = np.arange(count, dtype="uint8").reshape(-1, 1, 1, 1).repeat(3, axis=-1)
        for result in network(images).values():
            np.testing.assert_array_equal(result, images[:, 0, 0])
    assert seen == [2, 3, 3, 3, 3, 4]


def test_it_is_float32_and_channels_last_whatever_keras_is_set_to():
    policy, layout = keras.config.dtype_policy(), keras.config.image_data_format()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.config.set_image_data_format("channels_first")
        network = inception.inception_network(random_weights())
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(layout)
    assert {tensor.dtype for layer in network.layers for tensor in layer._inbound_nodes[0].outputs} == {"float32"}
    assert {layer.compute_dtype for layer in network.layers[1:]} == {"float32"}  # the first is the input
    assert {layer.data_format for layer in network.layers if hasattr(layer, "data_format")} == {"channels_last"}


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), "float32"),
        np.zeros((2, 8, 8, 4), "uint8"),
        np.zeros((2, 3, 8, 8, 3), "uint8"),
        np.zeros((0, 8, 8, 3), "uint8"),
    ],
)
def test_other_images_are_refused(network, images):
    with pytest.raises(ValueError, match=re.escape(f"got {images.dtype} {list(images.shape)}")):
        network(images)


# The resize and the pools.


def resized_by_definition(image, size):
    """float64 [size, size, C]: result pixel (y, x) lies at (y H / size, x W / size) of `image`, between four of it."""
    height, width, channels = image.shape
    result = np.empty((size, size, channels))
    for y, x in np.ndindex(size, size):
        v, u = y * height / size, x * width / size
        top, left = int(v), int(u)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = image[top, left] * (1 - (u - left)) + image[top, right] * (u - left)
        lower = image[bottom, left] * (1 - (u - left)) + image[bottom, right] * (u - left)
        result[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return result


@pytest.mark.parametrize("shape", [(8, 8, 3), (7, 50, 1), (33, 20, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_resize_is_its_definition(shape, dtype):
    images = pictures(*shape).astype(dtype)
    result = run(lambda x: inception.resize_like_tensorflow_1(x, 21), images)
    assert result.dtype == np.float32 and result.shape == (BATCH, 21, 21, shape[-1])
    for image, expected in zip(result, images.astype("float64"), strict=True):
        np.testing.assert_allclose(image, resized_by_definition(expected, 21), atol=1e-3)


def test_an_image_of_the_right_size_is_not_touched():
    images = pictures(21, 21)
    result = run(lambda x: inception.resize_like_tensorflow_1(x, 21), images)
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize("kind, of", [("mean", np.mean), ("max", np.max)])
def test_pools_look_at_no_padding(kind, of):
    x = np.random.default_rng(0).normal(-3.0, 1.0, (1, 5, 4, 2)).astype("float32")
    expected = np.empty_like(x)
    for i, j in np.ndindex(5, 4):
        expected[0, i, j] = of(x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2], axis=(0, 1))
    pool = inception._pool(inception.Pool(kind))
    np.testing.assert_allclose(run(pool, x), expected, rtol=1e-5)


# The table.


@pytest.mark.backend_free
def test_numbers_of_weights():
    """keras.applications.InceptionV3 has 23,851,784 numbers (its documentation: 23.9M): the same convolutions, no
    gains, 1000 classes. The FID network has a gain for each of its 17,216 channels and 8 classes of 2049 numbers more.

    The published file is 95,628,359 bytes: these numbers as float32, and 87 kB of names and padding.
    """
    sizes = {name: int(np.prod(shape)) for name, shape in weight_shapes().items()}
    assert sum(size for name, size in sizes.items() if name.endswith("bn.weight")) == 17_216
    assert sum(sizes.values()) == 23_851_784 + 17_216 + 8 * 2049 == 23_885_392
    assert len([name for name in sizes if name.endswith("conv.weight")]) == 94


@pytest.mark.backend_free
def test_channels_after_each_block_are_those_of_the_paper():
    """Szegedy et al. 1512.00567, table 1, where 35 x 35 x 288, 17 x 17 x 768, 8 x 8 x 1280 and 2048 are named."""
    blocks = [i for i, step in enumerate(NETWORK) if isinstance(step, list)]
    after = [channels_after(NETWORK[: i + 1], 3) for i in blocks]
    assert after == [256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]


@pytest.mark.backend_free
def test_a_block_s_weights_counted_by_hand():
    sizes = {name: np.prod(shape) for name, shape in weight_shapes().items() if name.endswith("conv.weight")}
    hand = {
        "Mixed_5b": 192 * (64 + 48 + 64 + 32) + 25 * 48 * 64 + 9 * (64 * 96 + 96 * 96),
        "Mixed_6a": 288 * (9 * 384 + 64) + 9 * (64 * 96 + 96 * 96),
        "Mixed_6c": 768 * (192 + 160 + 160 + 192) + 7 * (160 * 160 + 160 * 192) + 7 * (3 * 160 * 160 + 160 * 192),
        "Mixed_7a": 768 * (192 + 192) + 9 * 192 * 320 + 2 * 7 * 192 * 192 + 9 * 192 * 192,
        "Mixed_7c": 2048 * (320 + 384 + 448 + 192) + 9 * 448 * 384 + 4 * 3 * 384 * 384,
    }
    assert {b: sum(size for name, size in sizes.items() if name.startswith(b)) for b in hand} == hand


# Features.


def test_features_are_of_the_layer_asked_for_beside_the_logits_without_bias(network, monkeypatch, tmp_path):
    inception_weights.write_weights(tmp_path / "inception.npz", random_weights())
    monkeypatch.setattr(inception, "Inception", lambda arrays: network)
    images = pictures(32, 32)
    expected = network(images)
    digest = inception_weights.weights_digest(random_weights())
    for layer, suffix in (("2048", ""), ("192", "-192")):
        features = inception.inception_features(tmp_path / "inception.npz", layer=layer)
        result, logits = features(images)
        assert features.identity == (f"inception-v3-custom-{digest[:8]}{suffix}", digest, features.rule)
        assert "299 x 299" in features.rule and result.shape == (BATCH, int(layer))
        np.testing.assert_array_equal(result, expected[layer])
        np.testing.assert_array_equal(logits, expected["logits_unbiased"])
    bias = (expected["logits"] - expected["logits_unbiased"])[0]
    np.testing.assert_allclose(bias, random_weights()["fc.bias"], atol=1e-5)


@pytest.mark.backend_free
def test_only_published_weights_have_the_published_name(monkeypatch):
    monkeypatch.setattr(inception, "Inception", lambda arrays: None)
    weights = inception_weights.Weights(random_weights(), published=True)
    monkeypatch.setattr(inception, "read_weights", lambda path: weights)
    names = [inception.inception_features("published.npz", layer=layer).name for layer in ("2048", "192")]
    assert names == ["inception-v3-fid", "inception-v3-fid-192"]


def test_the_rule_says_how_accelerators_round(monkeypatch):
    """On CPUs nothing does, so that backends compare."""
    assert inception._where() == "on cpu"
    monkeypatch.setattr(backend, "device_kind", lambda: "some GPU")
    before = inception._where()
    assert before.startswith(f"on some GPU, by {backend.name()} with convolutions at precision ")
    with other_precision():
        assert inception._where() != before
    assert inception._where() == before


@contextlib.contextmanager
def other_precision():
    """As a user of each backend asks for float32 that stays float32."""
    if backend.name() == "jax":
        import jax

        with jax.default_matmul_precision("highest"):
            yield
        return
    if backend.name() == "torch":
        import torch

        def switch(on):
            torch.backends.cudnn.allow_tf32 = on
    else:
        import tensorflow as tf

        switch = tf.config.experimental.enable_tensor_float_32_execution
    switch(False)
    try:
        yield
    finally:
        switch(True)


@pytest.mark.backend_free
def test_an_unknown_layer_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="one of the layers 64, 192, 768, 2048, logits_unbiased, logits, got '1024'"):
        inception.inception_features(tmp_path / "none.npz", layer="1024")


@pytest.mark.backend_free
def test_weights_that_are_not_given_are_downloaded_to_the_cache(tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(inception, "download_weights", lambda folder: folders.append(str(folder)) or tmp_path / "n.npz")
    for cache in (None, tmp_path):
        with pytest.raises(FileNotFoundError):
            inception.inception_features(cache=cache)
    assert [f.replace("\\", "/") for f in folders] == ["~/.cache/keras_sid2", str(tmp_path)]
