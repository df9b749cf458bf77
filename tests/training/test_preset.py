"""Presets: what they hold, how paths change them, and what is proposed for data that none is for."""

import dataclasses

import keras
import pytest

from keras_sid2 import AdamRecipe, Guidance, Level, SigmoidWeighting
from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule, DiffusionObjective
from keras_sid2.models.level import as_levels
from keras_sid2.training import Preset, find_preset
from keras_sid2.training.overrides import overridden
from keras_sid2.training.preset import DATA_OPTIONS
from keras_sid2.training.proposal import SIZES, config_text, proposed_preset
from pipelines.reading.settings import ReadSettings

pytestmark = pytest.mark.backend_free

DIGITS = find_preset("sid2_digits")


def test_schedule_and_weighting_are_short_for_an_objective():
    fields = {"name": "a", "network": DIGITS.network}
    short = Preset(**fields, schedule=CosineSchedule(), weighting=SigmoidWeighting(2.0))
    assert short == Preset(**fields, objective=DiffusionObjective(CosineSchedule(), SigmoidWeighting(2.0)))
    changed = dataclasses.replace(short, weighting=SigmoidWeighting(1.0))
    assert (changed.weighting, changed.schedule) == (SigmoidWeighting(1.0), CosineSchedule())
    assert dataclasses.replace(short, objective=changed.objective, batch_size=3).objective == changed.objective


def test_the_data_s_options_are_those_of_the_reader_with_its_defaults():
    told = {field.name: field.default for field in dataclasses.fields(ReadSettings)}
    assert {name: told[name] for name in DATA_OPTIONS} == DATA_OPTIONS


class Unregistered(keras.Model):
    pass


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"batchsize": 3}, "A preset has no 'batchsize': did you mean batch_size"),
        ({"name": ""}, "A preset needs a name, got ''"),
        ({"objective": 3}, "A preset needs an objective with corrupt, got 3"),
        ({"recipe": 1e-3}, "A preset needs an AdamRecipe as recipe, got 0.001"),
        ({"num_steps": 0}, "A preset's num_steps must be an integer >= 1, got 0"),
        ({"label_dropout": 1.0}, r"A preset's label_dropout must be in \[0, 1\), got 1.0"),
        ({"guidance": 2.0}, "A preset needs a Guidance, or None, as guidance, got 2.0"),
        ({"sampler": "euler"}, "sampler must be one of ddpm"),
        ({"data": {"flipp": True}}, "A preset has the data's options crop, flip, min_crop; got 'flipp'"),
        ({"data": {"crop": "middle"}}, "center, random or None as the data's crop, got 'middle'"),
        ({"network_class": Unregistered}, "A preset needs Unregistered registered at Keras, or its files cannot"),
        ({"weighting": lambda logsnr: 1.0}, "A preset needs <lambda> registered at Keras"),
    ],
)
def test_what_is_no_preset_is_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(DIGITS, **wrong) if set(wrong) <= set(dir(DIGITS)) else Preset(name="a", **wrong)


def test_paths_change_what_they_name_and_nothing_else():
    changes = (
        "objective.weighting.bias=-2",
        "network.levels.0.channels=64",
        "network.embedding_dim = 256",
        "recipe.learning_rate=3e-4",
        "guidance.scale=1.5",
        "data.flip=True",
        "description=5 = five",
        "network.levels.1.channels=128",  # with the next one: neither would do alone
        "network.levels.1.head_dim=64",
    )
    levels = [Level("res", 64, 1), Level("transformer", 128, 2, head_dim=64)]
    expected = dataclasses.replace(
        DIGITS,
        weighting=SigmoidWeighting(-2.0),
        network={**DIGITS.network, "embedding_dim": 256, "levels": tuple(levels)},
        recipe=dataclasses.replace(DIGITS.recipe, learning_rate=3e-4),
        guidance=Guidance(1.5),
        data={"flip": True},
        description="5 = five",
    )
    assert overridden(DIGITS, changes) == expected
    assert overridden(DIGITS, []) == DIGITS and overridden(expected, ["guidance=None"]).guidance is None
    whole = overridden(DIGITS, ["network.levels=[{'kind': 'res', 'channels': 8, 'blocks': 1}]"])
    assert as_levels(whole.network["levels"]) == (Level("res", 8, 1),)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("objective.weighting.bia=3", "There is nothing at objective.weighting.bia to set: did you mean objective.w"),
        ("weighting.bias=2", "did you mean objective.weighting.bias?"),
        ("embedding_dim=3", "did you mean network.embedding_dim?"),
        ("network.levels.7.blocks=3", "nothing at network.levels.7.blocks to set: did you mean network.levels."),
        ("network.embeding_dim=3", "did you mean network.embedding_dim?"),
        ("data.flipp=1", "did you mean data.flip"),
        ("name.x=3", "did you mean name?"),
        ("lr=3", "a preset has name, description, network, objective, label_dropout, recipe, batch_size"),
        ("batch_size", "--set takes path=value, as recipe.learning_rate=3e-4, got 'batch_size'"),
        (".=3", "--set takes path=value"),
        ("batch_size=0", "A preset's batch_size must be an integer >= 1, got 0"),
        ("network.levels.0.channels=-3", "A level's channels must be an integer >= 1, got -3"),
        ("network.levels.0.kind=conv", "A level's kind is one of ('res', 'transformer'), got 'conv'"),
        ("network.image_shape.0=9", "image_shape (9, 8, 1) must have a height and a width that 2 divides"),
        ("network.embedding_dim=0", "embedding_dim must be an integer >= 1, got 0"),
        ("recipe.beta_1=x", "recipe.beta_1 must be a number, got 'x'"),
        ("recipe.ema_warmup=maybe", "recipe.ema_warmup must be True or False, got 'maybe'"),
        ("objective.prediction=w", "prediction must be one of"),
        ("objective.schedule.logsnr_min=a", "CosineSchedule does not take objective.schedule.logsnr_min='a'"),
        ("objective.weighting=5", "objective.weighting is SigmoidWeighting(...): set objective.weighting.bias, or"),
        ("network=5", "needs the network's arguments as a dict, got 5"),
    ],
)
def test_a_wrong_path_or_value_gets_one_sentence(change, sentence):
    with pytest.raises(ValueError) as error:
        overridden(DIGITS, [change])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_what_replaces_and_changes_the_same_is_refused():
    with pytest.raises(ValueError, match="--set network=... replaces network.embedding_dim, too"):
        overridden(DIGITS, ["network.embedding_dim=3", "network={}"])


# -- proposals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, side", [("sid2_imagenet256_uvit2", 256), ("sid2_imagenet512_uvit4", 512)])
def test_large_is_the_paper_s_network_at_its_sizes(name, side):
    proposed, paper = proposed_preset((side, side, 3), 1000, size="large"), find_preset(name)
    assert proposed.network == {**paper.network, "levels": as_levels(paper.network["levels"])}
    assert (proposed.objective, proposed.recipe) == (paper.objective, paper.recipe)


SHAPES = [(8, 8, 1), (28, 28, 1), (5, 7, 3), (48, 64, 3), (100, 100, 4), (224, 224, 3), (720, 1280, 3), (16, 64, 96, 3)]


@pytest.mark.parametrize("size, shape", [*((None, shape) for shape in SHAPES), *((size, SHAPES[3]) for size in SIZES)])
def test_a_network_of_every_size_fits_every_shape(size, shape):
    proposed = proposed_preset(shape, 102, size=size, examples=40)
    assert proposed.sample_shape == shape and proposed.conditions["label"].num_classes == 102
    assert proposed.batch_size == 32
    height, width = (side // proposed.network["patch_size"] for side in shape[-3:-1])
    last = 2 ** (len(proposed.network["levels"]) - 1)
    assert (height // last) * (width // last) <= 1024


def test_what_is_not_square_has_the_schedule_of_its_geometric_mean():
    proposed = proposed_preset((64, 256, 3), None)
    assert proposed.schedule == CosineInterpolatedSchedule(128.0) and proposed.weighting == SigmoidWeighting(0.0)
    assert proposed.label_dropout == 0.0 and proposed_preset((16, 16, 3), None).schedule == CosineSchedule()
    between = proposed_preset((256, 512, 3), 3).weighting.bias  # half way from 256 to 512 in the logarithm
    assert between == pytest.approx(-2.0, abs=0.01)


def test_a_size_that_nothing_divides_gets_a_crop_that_something_divides():
    with pytest.raises(ValueError, match="for 37 x 53, which .* give --crop=center --image_size=36x52"):
        proposed_preset((37, 53, 3), 3)
    assert proposed_preset((36, 52, 3), 3).sample_shape == (36, 52, 3)
    with pytest.raises(ValueError, match="--size must be one of tiny, small, base, large, got 'huge'"):
        proposed_preset((36, 52, 3), 3, size="huge")


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 64, 96, 3)])
def test_a_proposal_as_a_file_is_that_proposal(shape):
    proposed, names = proposed_preset(shape, 10), {}
    exec(config_text(proposed), names)
    assert names["preset"] == proposed and isinstance(names["preset"].recipe, AdamRecipe)
