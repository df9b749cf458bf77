"""The count against a hand calculation, against built networks and against the figures printed for SiD2."""

import pytest
from helpers import NETWORKS, tiny_network

from keras_sid2 import network_cost
from keras_sid2.training import find_preset

pytestmark = pytest.mark.backend_free

PRINTED = {
    "sid2_imagenet256_uvit2": 137.44e9,
    "sid2_imagenet256_uvit1": 652.84e9,
    "sid2_imagenet512_uvit4": 137.44e9,
    "sid2_imagenet512_uvit2": 652.84e9,
}


@pytest.mark.parametrize("preset, multiply_adds", PRINTED.items(), ids=PRINTED)
def test_the_imagenet_presets_cost_what_is_printed(preset, multiply_adds):
    cost = find_preset(preset).cost
    assert cost.block_multiply_adds == pytest.approx(multiply_adds, rel=1e-3)
    assert 395e6 <= cost.parameters <= 401e6  # 395 M, and 1 to 3 M of position embeddings, which grow with the size


def test_a_res_block_is_two_convolutions_at_every_position():
    # 4 x 4 positions, 8 channels, 3 blocks of two 3 x 3 convolutions.
    cost = network_cost((8, 8, 3), 2, None, 16, [{"kind": "res", "channels": 8, "blocks": 3}])
    assert cost.block_multiply_adds == 3 * 2 * (16 * 9 * 8 * 8)
    ends = 2 * 16 * (2 * 2 * 3) * 8  # each output of patchify sees 2 x 2 x 3 numbers; unpatchify is its transpose
    conditioning = 256 * 16 + 16 * 16 + 3 * 16 * (2 * 8)
    assert cost.multiply_adds == cost.block_multiply_adds + ends + conditioning


def test_a_transformer_block_is_its_matrices_and_two_products_over_pairs():
    cost = network_cost((4, 2, 1), 1, 5, 16, [{"kind": "transformer", "channels": 8, "blocks": 1}])
    matrices = 8 * (8 * 32 + 32 * 8 + 4 * 8 * 8)
    pairs = 8 * 8 * (8 + 8)  # queries times keys, and weights times values
    assert cost.block_multiply_adds == matrices + pairs


def test_every_level_but_the_last_is_paid_twice():
    one, two = (
        [{"kind": "res", "channels": 8, "blocks": n}, {"kind": "res", "channels": 8, "blocks": 1}] for n in (1, 2)
    )
    down_and_up = 2 * 2 * (64 * 9 * 8 * 8)
    costs = [network_cost((8, 8, 1), 1, None, 8, levels).block_multiply_adds for levels in (one, two)]
    assert costs[1] - costs[0] == down_and_up


@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_parameters_are_those_of_the_network(changes):
    network = tiny_network(**changes)
    config = {
        k: network.get_config()[k] for k in ("image_shape", "patch_size", "num_classes", "embedding_dim", "levels")
    }
    assert network_cost(**config).parameters == network.count_params()
