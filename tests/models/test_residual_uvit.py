import functools

import keras
import numpy as np
import pytest
from helpers import (
    BACKEND,
    NETWORKS,
    RES,
    TRANSFORMER,
    network_inputs,
    only_on_jax,
    randomize,
    run,
    tiny_network,
    to_numpy,
)
from keras import ops

from keras_sid2 import ResidualUViT, backend, network_cost, threefry


def predict(network, batch=2, training=False, seed=None):
    """v_hat as numpy; `seed` is an integer."""
    seed = None if seed is None else threefry.key(seed)
    return v_hat(network, *network_inputs(network, batch), training=training, seed=seed)


def v_hat(network, z_t, logsnr, label, training=False, seed=None):
    """The network's output as numpy; compiled once for each network on jax."""
    program = compiled_network(network, label is None, training, seed is None)
    tensors = [ops.convert_to_tensor(x) for x in (z_t, logsnr, label, seed) if x is not None]
    return to_numpy(program([v.value for v in network.variables], *tensors))


@functools.cache
def compiled_network(network, no_label, training, no_seed):
    def call(z_t, logsnr, *others):
        others = list(others)
        label = None if no_label else others.pop(0)
        return network((z_t, logsnr, label), training=training, seed=None if no_seed else others.pop())

    if BACKEND == "jax":
        return backend.compiled(call, network.variables, jit_compile=True)
    return lambda values, *tensors: call(*tensors)


@pytest.fixture(scope="module")
def network():
    return randomize(tiny_network())


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_any_shape_that_can_be_halved(changes):
    new = tiny_network(**changes)
    output = predict(randomize(new))
    assert output.shape == (2, *new.image_shape) and output.dtype == "float32"
    assert np.isfinite(output).all() and output.std() > 0.01


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_new_network_predicts_zero(patch_size):
    assert not predict(tiny_network(image_shape=(8, 8, 3), patch_size=patch_size)).any()


def showing_its_features(levels):
    """A new network whose output is what its last layer sees: that layer an identity, of 1 x 1 patches."""
    network = tiny_network(image_shape=(8, 8, 4), levels=levels)
    network.unpatchify.kernel.assign(np.eye(4, dtype="float32")[None, None])
    return network


def test_a_new_network_is_the_identity_of_its_input_features():
    """up(m - d) + skip reduces to the skip, exactly."""
    network = showing_its_features([RES, {**RES, "channels": 8}, {**RES, "channels": 8}])
    features = to_numpy(network.patchify(ops.convert_to_tensor(network_inputs(network)[0])))
    np.testing.assert_array_equal(predict(network), features)


def test_a_new_network_adds_only_its_position_embeddings():
    """m - d is the lower level's position embedding alone; it comes up through the upsampling layers."""
    network = showing_its_features([RES, TRANSFORMER, {**TRANSFORMER, "channels": 8}])
    features = network.patchify(ops.convert_to_tensor(network_inputs(network)[0]))
    middle, lower = (network.get_layer(f"level{i}_position").embedding.value[None] for i in (1, 2))
    up0, up1 = (network.get_layer(f"level{i}_upsample") for i in (0, 1))
    shifted = features + up0(middle + up1(lower))
    np.testing.assert_allclose(predict(network), to_numpy(shifted), atol=1e-6)
    assert np.abs(to_numpy(shifted - features)).max() > 1e-3


def test_levels_are_wired_as_the_paper_s_equation_says():
    """h = blocks(h); skip = h; d = down(h); m = lower(d); h = up(m - d) + skip; h = blocks(h)."""
    levels = [{**RES, "blocks": 2}, TRANSFORMER, {**RES, "blocks": 2}]
    network = randomize(tiny_network(image_shape=(8, 8, 1), levels=levels))
    z_t, logsnr, label = map(ops.convert_to_tensor, network_inputs(network))
    layer = network.get_layer

    def by_the_equation(z_t, logsnr, label):
        emb = layer("embedding")(logsnr, label)

        def blocks(role, h):
            for name in (n for n in names if role in n):
                h = layer(name)(h, emb)
            return h

        h0 = skip0 = blocks("level0_down_block", layer("patchify")(z_t))
        d0 = layer("level0_downsample")(h0)
        h1 = skip1 = blocks("level1_down_block", layer("level1_position")(d0))
        d1 = layer("level1_downsample")(h1)
        m1 = blocks("level2_middle_block", d1)
        m0 = blocks("level1_up_block", layer("level1_upsample")(m1 - d1) + skip1)
        h = blocks("level0_up_block", layer("level0_upsample")(m0 - d0) + skip0)
        return layer("unpatchify")(h)

    names = sorted(part.name for part in network.layers)
    np.testing.assert_allclose(predict(network), run(by_the_equation, z_t, logsnr, label), atol=1e-5)


def test_no_label_is_the_null_class(network):
    z_t, logsnr, label = network_inputs(network)
    none = v_hat(network, z_t, logsnr, None)
    null = v_hat(network, z_t, logsnr, np.full_like(label, 3))
    np.testing.assert_allclose(none, null, atol=1e-6)
    assert np.abs(none - predict(network)).max() > 1e-3


def test_an_example_does_not_see_its_neighbours(network):
    z_t, logsnr, label = network_inputs(network)
    first, other = predict(network), v_hat(network, z_t[::-1].copy(), logsnr[::-1].copy(), label[::-1].copy())
    np.testing.assert_allclose(other[::-1], first, atol=1e-5)
    other = v_hat(network, np.concatenate([z_t[:1], 2 - z_t[1:]]), logsnr - np.float32([0, 3]), label)
    np.testing.assert_allclose(other[0], first[0], atol=1e-5)
    assert np.abs(other[1] - first[1]).max() > 1e-3


def test_every_backend_computes_the_same_network(network):
    """The numbers of one float32 run, which all backends must reproduce."""
    golden = [4.1673, 8.00397, 3.90302, 1.93354, 4.73158, 10.03159, 6.53091, 3.82902]
    np.testing.assert_allclose(predict(network)[0, :2, :, 0].ravel(), golden, atol=1e-4)


PATHS = """
embedding/dense1/kernel embedding/dense1/bias embedding/dense2/kernel embedding/dense2/bias
embedding/classes/embeddings patchify/kernel patchify/bias unpatchify/kernel unpatchify/bias
level1_position/embedding
{level0_down_block0} {level0_up_block0} {level1_middle_block0}
level0_downsample/conv/kernel level0_downsample/conv/bias
level0_upsample/conv/kernel level0_upsample/conv/bias
"""
RES_PATHS = """
norm1/gamma norm1/beta conv1/kernel conv1/bias modulation/kernel modulation/bias norm2/gamma norm2/beta
conv2/kernel conv2/bias
"""
TRANSFORMER_PATHS = """
mlp_norm/gamma mlp_norm/beta mlp1/kernel mlp1/bias modulation/kernel modulation/bias mlp2/kernel mlp2/bias
attention_norm/gamma attention_norm/beta attention/query/kernel attention/key/kernel attention/value/kernel
attention/query_norm/gamma attention/query_norm/beta attention/key_norm/gamma attention/key_norm/beta
attention/out/kernel attention/out/bias
"""


def test_weight_paths_are_what_files_and_sharding_rules_rely_on(network):
    below = {
        "level0_down_block0": RES_PATHS,
        "level0_up_block0": RES_PATHS,
        "level1_middle_block0": TRANSFORMER_PATHS,
    }
    blocks = {name: " ".join(f"{name}/{path}" for path in paths.split()) for name, paths in below.items()}
    expected = PATHS.format(**blocks).split()
    assert sorted(w.path for w in network.weights) == sorted(f"residual_uvit/{path}" for path in expected)


# Saving.


def test_config_round_trip_gives_the_same_function(network):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network), safe_mode=True)
    assert copy.get_config() == network.get_config()
    copy.set_weights(network.get_weights())
    np.testing.assert_array_equal(predict(copy), predict(network))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_saved_file_loads_with_nothing_unsafe(tmp_path, policy):
    network = randomize(tiny_network(dtype=policy, name="saved"))
    network.save(tmp_path / "network.keras")
    copy = keras.saving.load_model(tmp_path / "network.keras", safe_mode=True)
    assert type(copy) is ResidualUViT and copy.name == "saved" and copy.dtype_policy == network.dtype_policy
    assert [w.path for w in copy.weights] == [w.path for w in network.weights]
    np.testing.assert_array_equal(predict(copy), predict(network))


# Precision and dropout.


def test_half_precision_stays_inside():
    full, half = tiny_network(), tiny_network(dtype="mixed_bfloat16")
    half.set_weights(randomize(full).get_weights())
    assert {w.dtype for w in half.weights} == {"float32"}
    assert half.get_layer("level0_down_block0").compute_dtype == "bfloat16"
    exact, rough = predict(full), predict(half)
    assert rough.dtype == "float32"
    assert 0 < np.abs(rough - exact).mean() < 0.05 * np.abs(exact).mean()


def test_two_noise_levels_that_bfloat16_confuses_reach_the_network_apart():
    network = randomize(tiny_network(dtype="mixed_bfloat16"))
    z_t, _, label = network_inputs(network, batch=1)
    z_t, label = np.repeat(z_t, 2, axis=0), np.repeat(label, 2, axis=0)
    first, second = v_hat(network, z_t, np.float32([9.97, 10.02]), label)
    assert np.abs(first - second).max() > 1e-3


@pytest.fixture(scope="module")
def with_dropout():
    levels = [{**RES, "dropout": 0.3, "blocks": 2}, {**TRANSFORMER, "dropout": 0.3}]
    return randomize(tiny_network(levels=levels))


def test_the_call_s_seed_determines_all_dropout(with_dropout):
    first, again, other = (predict(with_dropout, training=True, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_inference_drops_nothing(with_dropout):
    np.testing.assert_array_equal(predict(with_dropout, seed=1), predict(with_dropout))


def test_no_two_blocks_share_their_dropout(with_dropout, monkeypatch):
    monkeypatch.setattr(with_dropout, "run_eagerly", True)  # on torch, what is recorded once is run for all of a kind
    seen = []
    for name in ("level0_down_block0", "level0_down_block1", "level1_middle_block0", "level0_up_block0"):
        block = with_dropout.get_layer(name)
        monkeypatch.setattr(block, "_drop", lambda h, training, seed: seen.append(seed) or h)

    def seeds(seed, *inputs):
        with_dropout(inputs, training=True, seed=seed)
        return ops.stack(seen)

    drawn = run(seeds, threefry.key(1), *network_inputs(with_dropout))
    assert len(np.unique(drawn, axis=0)) == len(drawn) == 4
    assert len(np.unique(drawn.reshape(-1, 2), axis=0)) == drawn.size // 2  # nor two examples


def test_without_a_seed_training_draws_its_own(with_dropout):
    inputs = tuple(map(ops.convert_to_tensor, network_inputs(with_dropout)))
    first, second = (to_numpy(with_dropout(inputs, training=True)) for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


# Cost.


@only_on_jax
def test_counted_multiply_adds_are_xla_s():
    import jax

    levels = [
        {"kind": "res", "channels": 32, "blocks": 2},
        {"kind": "transformer", "channels": 64, "blocks": 2, "head_dim": 32},
    ]
    settings = dict(image_shape=(32, 32, 3), patch_size=2, num_classes=10, embedding_dim=32, levels=levels)
    network = ResidualUViT(**settings)
    inputs = network_inputs(network, batch=1)
    flops = jax.jit(lambda *inputs: network(inputs)).lower(*inputs).cost_analysis()["flops"]
    assert network_cost(**settings).multiply_adds == pytest.approx(flops / 2, rel=0.08)
