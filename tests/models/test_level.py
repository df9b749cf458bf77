import numpy as np
import pytest

from keras_sid2 import Level, ResidualUViT, network_cost
from keras_sid2.layers.blocks import group_norm
from keras_sid2.models import memory_plan, trace
from keras_sid2.models.level import check_image_shape
from keras_sid2.parallel.rules import Mesh

pytestmark = pytest.mark.backend_free


def test_a_dict_of_its_fields_is_a_level():
    fields = {"kind": "transformer", "channels": 512, "blocks": 3, "dropout": 0.1}
    assert Level.of(fields) == Level("transformer", 512, 3, dropout=0.1)
    assert Level.of(Level.of(fields).get_config()) == Level.of(fields)


@pytest.mark.parametrize("channels, head_dim, width", [(512, None, 128), (64, None, 64), (64, 16, 16)])
def test_heads_are_128_wide_or_the_whole_width_unless_told(channels, head_dim, width):
    assert Level("transformer", channels, 1, head_dim=head_dim).attention_head_dim == width


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"kind": "conv"}, r"kind is one of \('res', 'transformer'\), got 'conv'"),
        ({"channels": 0}, "channels must be an integer >= 1, got 0"),
        ({"channels": 8.0}, "channels must be an integer >= 1, got 8.0"),
        ({"blocks": -1}, "blocks must be an integer >= 1, got -1"),
        ({"blocks": None}, "blocks must be an integer >= 1, got None"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": None}, r"dropout must be in \[0, 1\), got None"),
        ({"channels": True}, "channels must be an integer >= 1, got True"),
        ({"head_dim": 3}, "head_dim must divide its channels, got head_dim=3 and channels=8"),
        ({"head_dim": 0}, "head_dim must be an integer >= 1, got 0"),
        ({"head_dim": -4}, "head_dim must be an integer >= 1, got -4"),
        ({"width": 8}, "the fields kind, channels, blocks, dropout, head_dim, remat, attention; got also width"),
        ({"remat": 1}, "remat must be True or False, got 1"),
    ],
)
def test_a_field_outside_its_range_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Level.of({"kind": "transformer", "channels": 8, "blocks": 1, **change})


def test_a_missing_field_is_named():
    with pytest.raises(ValueError, match="A level needs blocks, channels, got only kind"):
        Level.of({"kind": "res"})


@pytest.mark.parametrize("value", [None, "res", 128, ("res", 128, 3)])
def test_what_is_no_level_is_refused(value):
    with pytest.raises(ValueError, match=r"a keras_sid2.Level or a dict of its fields, got"):
        Level.of(value)


RES = {"kind": "res", "channels": 4, "blocks": 1}


@pytest.mark.parametrize("cls", [ResidualUViT, network_cost])
@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"image_shape": (6, 8, 3)},
            r"\(6, 8, 3\) must have a height and a width that 4 divides .patch_size 2 times 2",
        ),
        ({"image_shape": (8, 10, 3)}, "that 4 divides"),
        (
            {"image_shape": (8, 8)},
            r"image_shape must be \(height, width, channels\), three integers >= 1, or .* of clips, got \(8, 8\)",
        ),
        ({"image_shape": (2, 16, 8, 8, 3)}, r"of clips, got \(2, 16, 8, 8, 3\)"),
        ({"image_shape": 8}, "of clips, got 8"),
        ({"image_shape": (8, 8, 0)}, "three integers >= 1"),
        ({"image_shape": (8.0, 8, 3)}, "three integers >= 1"),
        ({"patch_size": 0}, "patch_size must be an integer >= 1, got 0"),
        ({"patch_size": 1.5}, "patch_size must be an integer >= 1, got 1.5"),
        ({"embedding_dim": 0}, "embedding_dim must be an integer >= 1, got 0"),
        ({"num_classes": 0}, "num_classes must be an integer >= 1, got 0"),
        ({"num_classes": -1}, "num_classes must be an integer >= 1, got -1"),
        ({"levels": []}, "levels must name at least one level, got none"),
        ({"levels": RES}, "levels must be a list of levels, highest resolution first, got {'kind'"),
        ({"levels": None}, "levels must be a list of levels, highest resolution first, got None"),
        ({"levels": [RES, {**RES, "channels": 0}]}, "A level's channels must be an integer >= 1, got 0"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused_in_one_sentence(cls, change, sentence):
    settings = dict(image_shape=(8, 8, 3), patch_size=2, num_classes=None, embedding_dim=8, levels=[RES, RES])
    with pytest.raises(ValueError, match=sentence):
        cls(**{**settings, **change})


@pytest.mark.parametrize("shape", [[8, 16, 3], np.array([8, 16, 3]), (np.int64(8), np.uint8(16), 3)])
def test_image_shape_may_be_a_list_as_in_a_file_or_of_numpy(shape):
    height, *_ = found = check_image_shape(shape, np.int32(2), 3)
    assert found == (8, 16, 3) and type(height) is int


def test_numbers_of_numpy_become_python_s():
    level = Level("res", np.int64(8), np.int32(1), dropout=np.float32(0.5))
    assert level == Level("res", 8, 1, dropout=0.5)
    assert {type(level.channels), type(level.blocks)} == {int} and type(level.dropout) is float


def test_every_width_has_groups_that_divide_it_and_those_of_before_where_there_were_any():
    """Before: 32, or a power of 2 in a quarter of the width, which keras took where it divided the width."""
    powers = [2**n for n in range(6)]
    for channels in range(1, 301):
        norm = group_norm(channels, center=False, scale=False)
        norm.build((None, 2, 2, channels))  # keras refuses groups that do not divide
        allowed = [g for g in powers if channels % g == 0 and (channels // g >= 4 or g == 1)]
        before = max(g for g in powers if max(1, channels // 4) % g == 0)
        assert norm.groups in allowed
        assert norm.groups == (before if channels % before == 0 else max(allowed)), channels


def test_the_presets_and_odd_widths_have_these_groups():
    expected = {48: 4, 96: 8, 32: 8, 64: 16, 128: 32, 256: 32, 17: 1, 18: 2, 20: 1, 36: 1}
    assert {channels: group_norm(channels).groups for channels in expected} == expected


@pytest.mark.parametrize("channels", [17, 18])
def test_a_network_of_an_odd_width_is_counted_as_it_is_built(channels):
    level = {"kind": "res", "channels": channels, "blocks": 1}
    settings = dict(image_shape=(4, 4, 1), patch_size=1, num_classes=None, embedding_dim=8, levels=[level, level])
    network = ResidualUViT(**settings)
    assert network_cost(**settings).parameters == network.count_params()
    assert memory_plan(trace(network), batch_size=2, mesh=Mesh.parse("data:2,model:2")).total > 0
