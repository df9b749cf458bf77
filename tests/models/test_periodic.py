"""Networks whose edges meet: what they do commutes with rolls; others are what they were."""

import keras
import numpy as np
import pytest
from helpers import LEVELS, RES, TRANSFORMER, images, only_on_torch, randomize, run, tiny_network, to_numpy
from keras import ops

from keras_sid2 import ResidualUViT, SiD2Model, SigmoidWeighting, layers, network_cost, threefry
from keras_sid2.conditions import Image
from keras_sid2.diffusion import CosineSchedule
from keras_sid2.layers.attention import _turned

BOTH = ("height", "width")
THREE = [RES, {**TRANSFORMER, "blocks": 2}, {**TRANSFORMER, "head_dim": 8}]


def output(network, z_t, **options):
    given = {"logsnr": np.linspace(-2.0, 2.0, len(z_t), dtype="float32"), "label": np.arange(len(z_t), dtype="int32")}
    names = ("z_t", *given)
    return run(lambda *values: network(dict(zip(names, values, strict=True)), **options), z_t, *given.values())


def error_of_roll(network, shift: int, axis: int) -> float:
    """How far rolling before and after are apart, as a share of the output's deviation."""
    z_t = images(2, *network.sample_shape)
    before, after = output(network, np.roll(z_t, shift, axis)), np.roll(output(network, z_t), shift, axis)
    return np.abs(before - after).max() / after.std()


@pytest.mark.parametrize(
    "periodic, axes, not_axes", [(BOTH, (-3, -2), ()), (("width",), (-2,), (-3,)), ("height", (-3,), (-2,))]
)
def test_rolls_commute_along_periodic_axes_and_only_there(periodic, axes, not_axes):
    network = randomize(tiny_network(image_shape=(16, 24, 2), patch_size=2, levels=THREE, periodic=periodic))
    assert all(error_of_roll(network, 8, axis) < 2e-5 for axis in axes)
    assert all(error_of_roll(network, 8, axis) > 0.01 for axis in not_axes)
    assert error_of_roll(network, 4, axes[0]) > 0.001  # of patches and pooling, steps of 8 pixels alone


@pytest.mark.parametrize("attention", ["all", "alternate"])
def test_clips_roll_in_space_and_not_in_time(attention):
    levels = [RES, {**TRANSFORMER, "blocks": 2, "attention": attention}]
    network = randomize(tiny_network(image_shape=(3, 4, 8, 1), levels=levels, periodic=BOTH))
    assert error_of_roll(network, 2, 2) < 2e-5 and error_of_roll(network, -4, 3) < 2e-5
    assert error_of_roll(network, 1, 1) > 0.01


def test_an_axis_of_one_row_is_periodic():
    network = randomize(tiny_network(image_shape=(2, 8, 1), periodic=BOTH))  # one row in the lower level
    assert error_of_roll(network, 2, 2) < 2e-5


@pytest.mark.parametrize("periodic", [BOTH, ("height",), ("width",)])
def test_a_periodic_convolution_is_one_of_the_image_laid_side_by_side(periodic):
    made = layers.Convolution(3, (3, 5), padding="same", periodic=periodic)
    plain = layers.Convolution(3, (3, 5), padding="same")
    for layer in (made, plain):
        layer.build((None, 4, 6, 2))
        randomize(layer)
    x = images(2, 4, 6, 2)
    tiled = np.tile(x, (1, 3 if "height" in periodic else 1, 3 if "width" in periodic else 1, 1))
    rows, columns = ((n if n < size else 0) for n, size in zip((4, 6), tiled.shape[1:3], strict=True))
    expected = run(plain, tiled)[:, rows : rows + 4, columns : columns + 6]
    np.testing.assert_allclose(run(made, x), expected, atol=1e-5)


def test_attention_turns_pairs_as_complex_numbers_by_whole_turns_of_the_axis():
    """The product of a query at one place and a key at another, in numpy's complex numbers."""
    q, k = (images(1, 15, 1, 8, seed=seed).astype("float64") for seed in (1, 2))
    got = [to_numpy(_turned(ops.convert_to_tensor(x.astype("float32")), 3, 5, BOTH)) for x in (q, k)]
    products = np.einsum("bnhd,bmhd->nm", *got)
    pairs = [(x[0, :, 0, :4] + 1j * x[0, :, 0, 4:]).reshape(3, 5, 4) for x in (q, k)]
    y, x = np.mgrid[:3, :5]
    angles = np.stack([y / 3, y / 3, x / 5, 2 * x / 5], axis=-1)  # k = 1 and 1 of three rows, 1 and 2 of five columns
    a, b = ((part * np.exp(2j * np.pi * angles)).reshape(15, 4) for part in pairs)
    np.testing.assert_allclose(products, np.real(a @ b.conj().T), atol=1e-5)


def test_configuration_and_files(tmp_path):
    network = randomize(tiny_network(periodic=["width", "height"]))
    assert network.periodic == BOTH
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    assert again.periodic == BOTH and again.get_config() == network.get_config()
    x = images(2, 4, 4, 1)
    np.testing.assert_array_equal(output(again, x), output(network, x))


def test_networks_without_are_what_they_were():
    network = tiny_network()
    assert network.periodic == () and "periodic" not in str(network.get_config())
    for layer in network._flatten_layers():
        assert "periodic" not in layer.get_config()


def test_positions_tell_nothing_along_periodic_axes():
    shapes = {p: tiny_network(image_shape=(4, 8, 1), periodic=p).level1_position.embedding.shape for p in ((), *BOTH)}
    assert shapes == {(): (2, 4, 8), "height": (1, 4, 8), "width": (2, 1, 8)}


def test_multiply_adds_are_the_same():
    settings = dict(image_shape=(8, 8, 3), patch_size=2, num_classes=None, embedding_dim=8, levels=LEVELS)
    plain, periodic = (network_cost(**settings, periodic=p) for p in ((), BOTH))
    assert plain.multiply_adds == periodic.multiply_adds
    assert plain.parameters - periodic.parameters == (4 - 1) * 8  # positions of the middle


def test_conditions_roll_with_the_sample():
    network = randomize(tiny_network(num_classes=None, conditions={"low": Image((4, 4, 2))}, periodic=BOTH))
    z_t, low, logsnr = images(2, 4, 4, 1), images(2, 4, 4, 2, seed=1), np.zeros(2, "float32")
    call = lambda z, low: network({"z_t": z, "low": low, "logsnr": ops.convert_to_tensor(logsnr)})  # noqa: E731
    rolled = run(call, np.roll(z_t, 2, 1), np.roll(low, 2, 1))
    np.testing.assert_allclose(rolled, np.roll(run(call, z_t, low), 2, 1), atol=1e-5)


def test_an_adapted_network_is_periodic_too():
    network = randomize(tiny_network(image_shape=(8, 8, 1), patch_size=2, periodic=BOTH))
    model = SiD2Model(network, schedule=CosineSchedule(), weighting=SigmoidWeighting(0.0))
    finer = model.adapt((16, 16, 1)).network
    assert finer.periodic == BOTH and error_of_roll(finer, 8, 1) < 2e-5


@only_on_torch
def test_recorded_blocks_are_those_of_periodic_edges_too():
    import torch

    found = []
    for periodic, eagerly in ((BOTH, True), (BOTH, False), ((), False), (BOTH, False)):
        network = randomize(tiny_network(levels=THREE, image_shape=(8, 8, 1), periodic=periodic))
        network.run_eagerly = eagerly
        x = ops.convert_to_tensor(images(2, 8, 8, 1))
        logsnr = ops.convert_to_tensor(np.zeros(2, "float32"))
        loss = ops.mean(ops.square(network((x, logsnr, None), training=True, seed=threefry.key(3))))
        weights = [v.value for v in network.trainable_variables if "position" not in v.path]
        found.append([to_numpy(g) for g in (loss, *torch.autograd.grad(loss, weights, materialize_grads=True))])
    eager, recorded, plain, again = found
    for a, b, c in zip(eager, recorded, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(b, c)
    assert abs(plain[0] - recorded[0]) > 1e-4


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(periodic=("depth",)), "periodic names axes, of"),
        (dict(periodic=True), "periodic names axes, of"),
        (dict(periodic=("width", "width")), "each axis once"),
        (dict(periodic="width", levels=[RES, {**TRANSFORMER, "head_dim": 2}]), "head_dims that 4 divides"),
    ],
)
def test_wrong_axes(changes, message):
    with pytest.raises(ValueError, match=message):
        ResidualUViT(
            **{**dict(image_shape=(4, 4, 1), patch_size=1, num_classes=3, embedding_dim=8, levels=LEVELS), **changes}
        )
