"""Under mixed_bfloat16 the training step has float32 maps only where they are wanted, by the program that jax makes of
it for a GPU, before XLA optimises it; nothing is compiled and nothing runs."""

import math
import re

import pytest
from helpers import only_on_jax

from keras_sid2 import ResidualUViT, SiD2Model
from keras_sid2.backend.platform import jax
from keras_sid2.parallel import ahead
from keras_sid2.training import find_preset

pytestmark = only_on_jax

BATCH = 5  # which no weight begins with
MAP = BATCH * 16 * 64  # numbers of the smallest feature map, above those of the images
LEVELS = (  # the kinds of blocks of the ImageNet presets
    {"kind": "res", "channels": 32, "blocks": 1},
    {"kind": "transformer", "channels": 64, "blocks": 1, "head_dim": 32, "dropout": 0.1},
)
# What computes in float32, by the names that jax gives operations. XLA computes norms and dropout's scaling within
# the operations before and behind; logits are summed in float32, and a fused attention keeps none.
WANTED = {
    "layer norms": r"/(mlp|attention|query|key)_norm/",
    "group norms": r"/norm[12]/",
    "logits and softmax": r"/attention/vmap",
    "dropout's scaling": r"/level1_\w+/(mul|convert_element_type)$",
    "the border": r"/unpatchify/|\(residual_uvit\)+/convert_element_type$",
}
OPERATION = re.compile(
    r'^\s+%\S+ = "?(?:stablehlo\.|chlo\.)?(call @\w+|\w+).*(?:->|:) tensor<([\dx]+)x(\w+)>.*loc\((#loc\d+)\)$'
)


@pytest.fixture(scope="module")
def text():
    full = find_preset("sid2_imagenet256_uvit2")
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ahead.shapes_alone(one):
        network = ResidualUViT((16, 16, 3), 2, 10, 64, LEVELS, dtype="mixed_bfloat16")
        parts = {name: getattr(full, name) for name in ("schedule", "weighting", "label_dropout", "recipe")}
        model = SiD2Model(network, **parts)
        model.compile()
        return ahead.lowered_train_step(model, ahead.Shapes("gpu", one), BATCH).as_text(debug_info=True)


def operations(text):
    """(operation, shape, dtype, places) of each result that is one tensor; within a function of the program, which
    knows nothing of layers, the places are those of its callers."""
    names = dict(re.findall(r'^(#loc\d+) = loc\("([^"]*)"', text, re.MULTILINE))
    found, callers, function = [], {}, ""
    for line in text.splitlines():
        if begins := re.search(r"func\.func \w+ @(\w+)", line):
            function = begins[1]
        if called := re.search(r"call @(\w+)\(.*loc\((#loc\d+)\)", line):
            callers.setdefault(called[1], set()).add((function, names.get(called[2], "")))
        if operation := OPERATION.match(line):
            opcode, shape, dtype, place = operation.groups()
            found.append((function, opcode, tuple(map(int, shape.split("x"))), dtype, names.get(place, "")))

    def places(function, name):
        if function == "main":
            return {name}
        return {place for caller, at in callers[function] for place in places(caller, at)}

    return [(opcode, shape, dtype, places(function, name)) for function, opcode, shape, dtype, name in found]


def test_no_convolution_is_in_float32(text):
    found = [(shape, dtype) for opcode, shape, dtype, _ in operations(text) if opcode == "convolution"]
    assert len(found) == text.count("stablehlo.convolution") > 12
    assert {dtype for _, dtype in found} == {"bf16"}


def test_maps_in_float32_are_those_of_norms_softmax_scaling_and_the_border(text):
    seen, others = set(), []
    for opcode, shape, dtype, places in operations(text):
        if dtype == "f32" and shape[0] == BATCH and math.prod(shape) >= MAP:
            kinds = {kind for kind, pattern in WANTED.items() if all(re.search(pattern, place) for place in places)}
            seen |= kinds
            others += [] if kinds else [(opcode, shape, sorted(places))]
    assert others == [] and seen == set(WANTED)


def test_group_norms_have_no_map_in_the_shape_of_groups(text):
    """To XLA that is a copy: of rank 5 there are logits alone, [B, heads, positions, ...]."""
    ranks = {shape for _, shape, dtype, places in operations(text) if len(shape) == 5 and "norm" in str(places)}
    assert ranks == set()
