"""Each large variable has one rule, and the table is the arithmetic of the rules."""

import dataclasses
import math

import pytest
from helpers import tiny_network

import keras_sid2
from keras_sid2 import ResidualUViT
from keras_sid2.conditions import TextEmbedding, Vector
from keras_sid2.models import abstract_variables
from keras_sid2.parallel.rules import LARGE, Mesh, Rule, place, table
from keras_sid2.training.preset import find_preset

pytestmark = pytest.mark.backend_free


@dataclasses.dataclass(frozen=True)
class Variable:
    """What the rules look at."""

    path: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    trainable: bool = True


RULES = ResidualUViT.sharding_rules
BLOCK = "sid2/residual_uvit/level1_middle_block0"


@dataclasses.dataclass(frozen=True)
class Network:
    """A network as far as a table needs it, with the rules of ours."""

    trainable_variables: tuple[Variable, ...]
    non_trainable_variables: tuple[Variable, ...] = ()
    sharding_rules = RULES


@dataclasses.dataclass(frozen=True)
class Foreign:
    """One without rules."""

    trainable_variables: tuple[Variable, ...]
    non_trainable_variables: tuple[Variable, ...] = ()


def shapes_of(**network) -> ResidualUViT:
    """A network without values: the 400 M numbers of a preset's are not made."""
    with abstract_variables():
        return tiny_network(**network)


@pytest.mark.parametrize("preset", keras_sid2.list_presets())
def test_every_large_variable_of_every_preset_has_one_rule_and_divides(preset):
    preset = find_preset(preset)
    heads = {level["channels"] // level["head_dim"] for level in preset.network["levels"] if "head_dim" in level}
    mesh = Mesh(fsdp=8, model=4 if min(heads) % 4 == 0 else 1)
    rows = table(shapes_of(**preset.network), mesh).rows
    assert sum(math.prod(row.shape) for row in rows if row.trainable) == preset.cost.parameters
    for row in filter(lambda row: row.trainable, rows):
        assert sum(rule.matches(row.path) for rule in RULES) <= 1
        if row.large:
            assert row.rule and not row.dropped
            assert row.bytes_per_device * mesh.fsdp <= row.bytes_whole


def test_a_large_preset_is_split_almost_wholly():
    preset = find_preset("sid2_imagenet512_uvit4")
    for mesh in (Mesh(fsdp=32), Mesh(fsdp=8, model=4)):
        found = table(shapes_of(**preset.network), mesh)
        assert found.bytes_whole - found.rows[-1].bytes_whole == 16 * preset.cost.parameters  # the last: seeds
        assert found.bytes_per_device < found.bytes_whole / 32 * 1.05


def test_every_rule_is_used():
    conditions = {"pose": Vector(3), "text": TextEmbedding(2, 3, whitened=True)}
    clips = {"image_shape": (2, 4, 4, 1), "conditions": conditions}
    paths = [row.path for network in (shapes_of(), shapes_of(**clips)) for row in table(network, Mesh()).rows]
    assert [rule for rule in RULES if not any(rule.matches(path) for path in paths)] == []


@pytest.mark.parametrize(
    "path, shape, axes",
    [
        ("attention/query/kernel", (64, 64), ("fsdp", "model")),
        ("attention/out/kernel", (64, 64), ("model", "fsdp")),
        ("mlp1/kernel", (64, 256), ("fsdp", "model")),
        ("mlp2/kernel", (256, 64), ("model", "fsdp")),
        ("conv1/kernel", (3, 3, 64, 64), (None, None, "fsdp", "model")),
        ("conv2/kernel", (3, 3, 64, 64), (None, None, "model", "fsdp")),
        ("mlp1/bias", (256,), ("model",)),
        ("mlp2/bias", (64,), (None,)),
    ],
)
def test_pairs_of_layers_are_split_by_outputs_then_inputs(path, shape, axes):
    placement = place(Variable(f"{BLOCK}/{path}", shape), Mesh(data=3, fsdp=2, model=4), RULES)
    assert placement.axes == axes
    parts = math.prod({"fsdp": 2, "model": 4, None: 1}[axis] for axis in axes)
    assert placement.bytes_whole == 16 * math.prod(shape) == parts * placement.bytes_per_device


def test_an_axis_that_cannot_divide_is_dropped_and_shown():
    placement = place(Variable(f"{BLOCK}/mlp1/kernel", (64, 250)), Mesh(fsdp=8, model=4), RULES)
    assert (placement.axes, placement.dropped) == (("fsdp", None), ("model",))
    odd = Network((Variable(f"{BLOCK}/mlp1/kernel", (64, 250)),))
    assert "(model cannot divide it)" in str(table(odd, Mesh(fsdp=8, model=4)))


def test_other_copies_and_types_are_counted():
    assert place(Variable("counter", (), "int32", trainable=False), Mesh(fsdp=8), RULES).bytes_per_device == 4
    assert place(Variable("mask", (3,), "bool", trainable=False), Mesh(fsdp=8), RULES).bytes_per_device == 3
    assert place(Variable("bias", (3,), "bfloat16"), Mesh(fsdp=8), RULES).bytes_per_device == 24


RENAMED = Network((Variable(f"{BLOCK}/dense1/kernel", (128, 128)), Variable(f"{BLOCK}/mlp1/kernel", (128, 512))))


def test_a_renamed_layer_is_named():
    message = rf"No sharding rule matches the variable {BLOCK}/dense1/kernel \[128, 128\].* {LARGE} .* 1 have none\.$"
    for mesh in (Mesh(fsdp=2), Mesh(model=2), Mesh(data=4, fsdp=2)):
        with pytest.raises(ValueError, match=message):
            table(RENAMED, mesh)
    table(RENAMED, Mesh(data=8))  # where nothing is split nothing can be missed
    table(RENAMED, Mesh(fsdp=2), rules=(*RULES, Rule("dense1/kernel", ("fsdp", None))))


def test_two_rules_for_one_variable_and_a_rule_of_another_rank_are_refused():
    variable = Variable(f"{BLOCK}/mlp1/kernel", (64, 256))
    with pytest.raises(ValueError, match="must be matched by exactly one sharding rule, got .*mlp1/kernel' and '"):
        place(variable, Mesh(), (*RULES, Rule(".*kernel", (None, "fsdp"))))
    with pytest.raises(ValueError, match="is for 2 dimensions, and .*mlp1/kernel has 4"):
        place(dataclasses.replace(variable, shape=(1, 1, 64, 256)), Mesh(), RULES)


def test_heads_must_be_divisible():
    with pytest.raises(ValueError, match="attention heads of every level, got model:4 and 2 heads at level 1"):
        table(shapes_of(), Mesh(model=4))


def test_without_rules_fsdp_splits_the_largest_dimension_that_it_divides():
    shapes = {"a": (3, 3, 64, 130), "b": (128, 512), "c": (512,), "d": (130, 129)}
    network = Foreign(tuple(Variable(f"net/{name}/kernel", shape) for name, shape in shapes.items()))
    split = [row.axes for row in table(network, Mesh(data=2, fsdp=4)).rows]
    whole = (None,)
    assert split == [(*whole * 2, "fsdp", None), (None, "fsdp"), whole, whole * 2]  # small, and not divisible
    with pytest.raises(ValueError, match="model axis needs sharding rules, got model:2 and Foreign without: give its"):
        table(network, Mesh(model=2))


def test_the_text_has_a_line_for_all_that_lie_alike_and_the_sum():
    network = shapes_of(levels=[{"kind": "res", "channels": 64, "blocks": 3}])
    found = table(network, Mesh(data=2, fsdp=2))
    _, *lines, replicated, total = str(found).splitlines()
    assert [line.split()[0] for line in lines if "/conv*/kernel" in line] == ["3", "3"]
    assert sum(int(line.split()[-1].replace(",", "")) for line in [*lines, replicated[:-16]]) == found.bytes_per_device
    assert total == (
        f"On data:2,fsdp:2,model:1 each device holds {found.bytes_per_device:,} of {found.bytes_whole:,} bytes of "
        "weights, optimizer state and averages."
    )
