"""sid2-train --init_from: a run that begins with the weights of another model, and goes on without it."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from bin.run_helpers import run_in
from helpers import to_numpy
from training_helpers import with_averages

import pipelines
from keras_sid2 import SiD2Model
from keras_sid2.bin.model_files import InitialWeights
from keras_sid2.checkpoints import load_model, save_checkpoint
from keras_sid2.training import AdamRecipe
from keras_sid2.training.preset_folder import REMOTE
from keras_sid2.training.proposal import config_text

pytestmark = [pytest.mark.backend_free, pytest.mark.usefixtures("tiny_digits")]
FEW = {"preset": None, "batch_size": 8, "steps": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def finer(tmp_path_factory):
    """The folder of a data set of 16 x 16 grey images of 12 classes."""
    folder, rng = tmp_path_factory.mktemp("finer"), np.random.default_rng(0)
    grey = rng.integers(0, 255, (48, 16, 16, 1)).astype("uint8")
    np.savez(folder / "finer.npz", images=grey, labels=np.arange(48) % 12)
    return str(pipelines.prepare("npz", source=str(folder / "finer.npz"), channels=1, data_dir=str(folder)))


@pytest.fixture(scope="module")
def source(data, tmp_path_factory):
    """The work directory of a run of tiny_digits, as if it had been trained."""
    run = run_in(data, tmp_path_factory.mktemp("source"))
    model = run.load_or_make_model(None)
    with_averages(model)
    save_checkpoint(model, run.checkpoint_dir, keep=1)
    return run.workdir


@pytest.fixture(scope="module")
def begun(finer, source, tmp_path_factory):
    """A run on finer data with more classes, and a copy of its source, which is gone."""
    kept = shutil.copytree(source, tmp_path_factory.mktemp("kept") / "source")
    run = run_in(finer, tmp_path_factory.mktemp("begun"), init_from=str(kept), **FEW)
    run.model = run.train()
    shutil.rmtree(kept)
    return run


def told(run):
    return run.console.export_text(clear=False)


def newest(workdir):
    return load_model(sorted((workdir / "checkpoints").iterdir())[-1])


def test_the_network_is_the_source_s_for_the_data_s_shape_and_classes(begun):
    network = begun.model.network
    assert (network.sample_shape, network.patch_size, network.num_classes) == ((16, 16, 1), 2, 12)
    assert "Adapted for images (16, 16, 1) of 12 classes, patches of 2, blocks 1 res 8 wide" in told(begun)
    assert "From the averages of step 4." in told(begun) and "10 classes kept, 2 begin as the row of" in told(begun)
    assert json.loads((begun.workdir / "run.json").read_text())["init_from"] == begun.settings.init_from


def test_it_goes_on_from_its_checkpoint_without_the_source(begun, finer):
    again = run_in(finer, begun.workdir, **{**FEW, "init_from": begun.settings.init_from})
    assert int(again.train().step.numpy()) == 2 and "2 steps are done, nothing to train" in told(again)
    assert "From the averages" not in told(again)
    with pytest.raises(ValueError, match="holds a run with other settings: .*--init_from=None .there: "):
        run_in(finer, begun.workdir, **FEW, size="tiny", set=("network.embedding_dim=16",))


def test_weights_are_given_as_they_are_where_all_fits(data, source, tmp_path):
    """Averages or weights, of a run, a checkpoint, a file and a preset's folder."""
    model = newest(source)
    model.save(tmp_path / "model.keras")
    model.save_preset(tmp_path / "preset")
    averages = [to_numpy(v.value) for v in model.averages()]
    weights = [to_numpy(v) for v in model.network.trainable_variables]
    checkpoint = sorted((source / "checkpoints").iterdir())[-1]
    for where in (source, checkpoint, tmp_path / "model.keras", tmp_path / "preset"):
        for use_ema, wanted in ((True, averages), (False, weights)):
            run = run_in(data, tmp_path / "run", init_from=str(where), init_ema=use_ema)
            found = [to_numpy(v) for v in run.load_or_make_model(None).network.trainable_variables]
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_what_was_adapted_is_a_file_that_may_begin_with_it(finer, source, tmp_path):
    file = tmp_path / "exp.py"
    text = run_in(finer, tmp_path / "run", init_from=str(source), **FEW).experiment
    file.write_text(config_text(text))
    run = run_in(finer, tmp_path / "run", config=str(file), init_from=str(source), **FEW)
    assert run.experiment == text


def test_a_rate_that_fell_to_0_at_the_end_of_the_source_is_constant(finer, source, tmp_path):
    model = newest(source)
    model.recipe = dataclasses.replace(model.recipe, warmup_steps=1, decay="cosine", decay_steps=4)
    model.save(tmp_path / "model.keras")
    recipe = run_in(
        finer, tmp_path / "run", init_from=str(tmp_path / "model.keras"), **{**FEW, "steps": 8}
    ).preset.recipe
    assert (recipe.decay, recipe.decay_steps, recipe.warmup_steps) == ("constant", None, 1)


def test_a_schedule_of_keras_is_no_rate_of_a_run(finer, source, tmp_path):
    model = newest(source)
    model.recipe = AdamRecipe(learning_rate=keras.optimizers.schedules.CosineDecay(1e-3, 100))
    model.save(tmp_path / "model.keras")
    run = run_in(finer, tmp_path / "run", init_from=str(tmp_path / "model.keras"), **FEW)
    assert run.settings.learning_rate == AdamRecipe.learning_rate
    with pytest.raises(ValueError, match="has a CosineDecay as learning_rate: give --learning_rate, a number, instead"):
        run.asked.resolved(dataclasses.replace(run.experiment, recipe=model.recipe))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"init_from": "/nowhere"}, "--init_from=/nowhere is no file."),
        ({"init_from": "sid2_digits"}, "--init_from=sid2_digits is a preset, without trained weights; these have "),
        ({"init_from": "{data}"}, "must be a .keras file, or the folder of a checkpoint, a run or a preset."),
        ({"init_from": "{text}"}, "holds no configuration of a SiD2Model."),
        ({"init_from": f"{REMOTE}me"}, "A preset at Hugging Face is hf://user/name"),
        (
            {"init_from": "{source}", "size": "tiny"},
            "cannot be adapted: embedding/kernel has the shape [256, 16] there",
        ),
        (
            {"init_from": "{source}", "set": ("network.levels.0.channels=16",)},
            "/kernel has the shape [3, 3, 8, 8] there, and [3",
        ),
        (
            {"init_from": "{source}", "set": ("network.levels.1.blocks=2",)},
            "level1_middle_blocks/1/attention/key has kernel here, and",
        ),
        ({"init_ema": False}, "--init_ema does nothing without --init_from."),
    ],
)
def test_what_is_wrong_gets_one_sentence_before_anything_is_written(finer, source, tmp_path, changes, sentence):
    (tmp_path / "a.keras").write_text("no zip")
    places = {"source": source, "data": finer, "text": tmp_path / "a.keras"}
    asked = {k: v.format(**places) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run_in(finer, tmp_path / "run", **FEW, **asked)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_channel_count_is_refused_by_its_configuration_alone(finer, source, tmp_path):
    found = InitialWeights(str(source))
    with pytest.raises(ValueError, match="cannot be adapted: A network for 1 channels cannot be adapted to 3: patch"):
        found.check(found.preset((8, 8, 3), 10))
    assert not isinstance(found._described, SiD2Model)  # no weight was read
