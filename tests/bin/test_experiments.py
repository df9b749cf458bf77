"""Experiments that no preset is for: a user's own pictures, her own file, and a network of another family."""

import colorsys
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from run_helpers import run_in
from sample_helpers import draw

import pipelines
from keras_sid2.bin.preset_flags import read_config

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "patch_transformer.py"
CLASSES = 102


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The folder of a data set that was prepared of 300 plain pictures of 102 colours, 48 x 64."""
    source = tmp_path_factory.mktemp("pictures")
    for i in range(300):
        colour = [round(255 * part) for part in colorsys.hsv_to_rgb(i % CLASSES / CLASSES, 0.8, 0.9)]
        path = source / f"colour{i % CLASSES:03d}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((48, 64, 3), colour, "uint8")).save(path)
    return str(pipelines.prepare("image_folder", source=str(source), data_dir=str(source.parent / "data")))


SMALL = ("network.levels.0.channels=32", "network.levels.1.channels=32", "network.levels.1.blocks=1")
CHANGED = (*SMALL, "network.embedding_dim=16", "objective.weighting.bias=1")
FEW = {"preset": None, "batch_size": 2, "steps": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def proposed(pictures, tmp_path_factory):
    """A run of what was proposed for the pictures, with changes."""
    run = run_in(pictures, tmp_path_factory.mktemp("run"), set=CHANGED, **FEW)
    run.model = run.train()
    return run


@pytest.mark.backend_free
def test_own_pictures_train_and_are_drawn_without_a_preset(proposed):
    told = proposed.console.export_text(clear=False)
    assert "Proposed for images (48, 64, 3) of 102 classes: tiny (--size: tiny, small, base, large)" in told
    assert proposed.model.sample_shape == (48, 64, 3) and proposed.model.num_classes == CLASSES
    assert (proposed.model.network.embedding_dim, proposed.model.weighting.bias) == (16, 1.0)
    code, said = draw(f"--workdir={proposed.workdir}", f"--out={proposed.workdir / 'drawn'}", "--num_steps=2")
    assert code == 0 and "16 images" in said
    assert np.load(proposed.workdir / "drawn.npz")["arr_0"].shape == (16, 48, 64, 3)


@pytest.mark.backend_free
def test_its_file_is_the_same_experiment_and_the_run_goes_on_with_it(proposed, pictures, tmp_path):
    config = proposed.workdir / "config.py"
    assert read_config(str(config)) == proposed.experiment
    run_in(pictures, proposed.workdir, config=str(config), **{**FEW, "steps": 6})  # is not refused
    changed = (*CHANGED[:-1], "objective.weighting.bias=2")
    with pytest.raises(
        ValueError, match=r"other settings: objective.weighting.bias=2.0 \(there: 1.0\)\. Give the same"
    ):
        run_in(pictures, proposed.workdir, set=changed, **FEW)
    one = "network.levels=[{'kind': 'transformer', 'channels': 32, 'blocks': 1}]"
    with pytest.raises(ValueError, match=r"network.levels.length=1 \(there: 2\)"):
        run_in(pictures, proposed.workdir, set=(*CHANGED[3:], one), **FEW)
    before = shutil.copytree(proposed.workdir, tmp_path / "run")
    (before / "preset.json").unlink()  # as the version before left it
    run_in(pictures, before, set=changed, **FEW)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"size": "tinny"}, "--size must be one of tiny, small, base, large, got 'tinny'"),
        ({"image_size": "48*64"}, "--image_size must be a side or two, as 64 or 48x64, got '48*64'"),
        ({"image_size": "32"}, "The proposed network is for images (32, 32, 3) of 102 classes, and --data="),
        ({"image_size": "37x53", "crop": "center"}, "which patches and halving do not divide: give --crop=center --im"),
        ({"preset": "sid2_digits", "size": "tiny"}, "--size is of a proposed network: leave it out, or --preset and"),
        ({"preset": "sid2_digits"}, "--preset=sid2_digits is for images (8, 8, 1) of 10 classes, and --data="),
        ({"preset": "sid2_digits", "config": str(EXAMPLE)}, "Give --preset, the name of one, or --config"),
        ({"preset": "sid2_digits", "smoke": True}, "--preset=sid2_digits is for images (8, 8, 1) of 10 classes, and"),
        ({"preset": "hf://me/mine"}, "--preset=hf://me/mine is no name: a folder of save_preset says nothing"),
        ({"config": str(EXAMPLE)}, "patch_transformer.py is for images (8, 8, 1) of 10 classes, and --data="),
        ({"config": "/nowhere/exp.py"}, "--config=/nowhere/exp.py is no file"),
        ({"crop": "middle"}, "--crop must be center or random, got 'middle'"),
        ({"set": ("network.embeding_dim=32",)}, "nothing at network.embeding_dim to set: did you mean network.embedd"),
        ({"set": ("network.patch_size=5",)}, "must have a height and a width that 10 divides"),
        ({"set": ("network.num_classes=10",)}, "is for images (48, 64, 3) of 10 classes, and --data="),
    ],
)
def test_what_is_wrong_gets_one_sentence_before_anything_is_written(pictures, tmp_path, changes, sentence):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run_in(pictures, tmp_path / "run", **{**FEW, **changes})
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.backend_free
def test_pictures_of_several_sizes_are_cut_to_one_or_refused(tmp_path):
    for i, size in enumerate([(20, 16), (16, 24), (18, 18)]):
        (tmp_path / "source" / f"class{i}").mkdir(parents=True)
        Image.new("RGB", size, (40 * i, 90, 200)).save(tmp_path / "source" / f"class{i}" / "a.png")
    data = str(pipelines.prepare("image_folder", source=str(tmp_path / "source"), data_dir=str(tmp_path / "data")))
    with pytest.raises(ValueError, match="has images of several sizes .*: cut them to one by --crop=center --image_s"):
        run_in(data, tmp_path / "run", **FEW)
    assert not (tmp_path / "run").exists()
    run = run_in(data, tmp_path / "run", crop="center", image_size="16", **FEW)
    assert run.experiment.network["image_shape"] == (16, 16, 3)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "text, sentence",
    [
        ("x = 3", "exp.py has no variable `preset`: it must define preset = keras_sid2.training.Preset(...)"),
        ("preset = 3", "exp.py has a `preset` of type int"),
        ("a = 1\nb = (\n", "exp.py, line 2: SyntaxError: '(' was never closed"),
        ("def f():\n    return 1 / 0\n\n\nf()\n", "exp.py, line 2: ZeroDivisionError: division by zero"),
        ("\nimport sys\nsys.exit(3)\n", "exp.py, line 3: SystemExit: 3"),
        ("from keras_sid2.training import Preset\npreset = Preset(nam='a')", "line 2: A preset has no 'nam': did you"),
    ],
)
def test_a_file_that_defines_no_preset_gets_one_sentence(tmp_path, text, sentence):
    (tmp_path / "exp.py").write_text(text)
    with pytest.raises(ValueError) as error:
        read_config(str(tmp_path / "exp.py"))
    assert sentence in str(error.value) and "\n" not in str(error.value)


# -- a network of another family, outside the library ----------------------------------------------------------------

FLAGS = (f"--config={EXAMPLE}", "--num_images=4", "--num_steps=2")


@pytest.fixture(scope="module")
def patches(data, tmp_path_factory):
    """A run of examples/patch_transformer.py, made smaller."""
    few = ("network.width=24", "network.depth=1", "recipe.warmup_steps=2")
    run = run_in(data, tmp_path_factory.mktemp("patches"), config=str(EXAMPLE), set=few, **FEW)
    run.model = run.train()
    return run


def test_the_example_trains_and_is_drawn(patches):
    assert int(patches.model.step.numpy()) == 4 and type(patches.model.network).__name__ == "PatchTransformer"
    out = patches.workdir / "drawn"
    code, _ = draw(f"--workdir={patches.workdir}", f"--out={out}", *FLAGS)
    found = np.load(f"{out}.npz")["arr_0"]
    assert code == 0 and np.array_equal(found, patches.model.generate([0, 1, 2, 3], num_steps=2))
    assert np.ptp(found) > 0


@pytest.mark.backend_free
def test_its_preset_and_its_weights_are_drawn_from_alike(patches, tmp_path):
    model = patches.model
    model.save_preset(tmp_path / "preset")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    few = ("--set=network.width=24", "--set=network.depth=1")
    checkpoint = sorted((patches.workdir / "checkpoints").iterdir())[-1]
    wanted = model.generate([0, 1, 2, 3], num_steps=2)
    sources = (
        (f"--preset={tmp_path / 'preset'}",),
        (f"--weights={tmp_path / 'preset'}",),
        (f"--weights={tmp_path / 'model.keras'}",),
        (f"--weights={checkpoint}",),
        (f"--weights={tmp_path / 'model.weights.h5'}", *few),
    )
    for i, source in enumerate(sources):
        draw(f"--out={tmp_path / str(i)}", *source, *FLAGS)
        assert np.array_equal(np.load(tmp_path / f"{i}.npz")["arr_0"], wanted), source


@pytest.mark.backend_free
def test_the_example_goes_on(patches, data, tmp_path):
    workdir = shutil.copytree(patches.workdir, tmp_path / "run")
    asked = {**FEW, "steps": 6, "set": patches.asked.set, "config": str(EXAMPLE)}
    assert int(run_in(data, workdir, **asked).train().step.numpy()) == 6


@pytest.mark.backend_free
def test_a_class_that_is_not_imported_is_told(patches, tmp_path, monkeypatch):
    patches.model.save_preset(tmp_path / "preset")
    for name in ("examples>PatchTransformer", "examples>Block"):
        monkeypatch.delitem(keras.saving.get_custom_objects(), name)
    for source in (f"--workdir={patches.workdir}", f"--preset={tmp_path / 'preset'}"):
        with pytest.raises(ValueError, match="holds a PatchTransformer, a class that is not imported: .*--config=FILE"):
            draw(source, f"--out={tmp_path / 'a'}")


@pytest.mark.backend_free
def test_a_run_is_refused_when_the_code_of_its_network_has_changed(patches, data, tmp_path):
    shutil.copytree(patches.workdir, tmp_path / "run")
    (tmp_path / "patch_transformer.py").write_text(EXAMPLE.read_text() + "\n# changed\n")
    asked = {**FEW, "steps": 8, "set": patches.asked.set, "config": str(tmp_path / "patch_transformer.py")}
    with pytest.raises(ValueError, match="patch_transformer.py, whose code has changed .there: .*run/config.py"):
        run_in(data, tmp_path / "run", **asked)
