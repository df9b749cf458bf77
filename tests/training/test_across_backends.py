"""The same file on the three backends: outputs, losses, gradients, images; and files go in every direction."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from evaluate_file import results, trained_on
from helpers import BACKEND, randomize, tiny_network, to_numpy
from training_helpers import tiny_model

from keras_sid2.checkpoints import load_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND == "tensorflow", reason="from torch and from jax, each to both others and back, is all"),
]

OTHERS = [name for name in ("jax", "tensorflow", "torch") if name != BACKEND]
ALL_KINDS = (
    {"kind": "res", "channels": 8, "blocks": 1, "dropout": 0.1},
    {"kind": "transformer", "channels": 8, "blocks": 1, "head_dim": 4},
    {"kind": "transformer", "channels": 16, "blocks": 1, "head_dim": 8, "dropout": 0.25},
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with every kind of block and trained one step, saved here."""
    model = tiny_model(network=tiny_network(image_shape=(8, 8, 1), patch_size=2, levels=ALL_KINDS))
    randomize(model.network)
    path = tmp_path_factory.mktemp("across") / f"{BACKEND}.keras"
    model.fit(np.zeros((8, 8, 8, 1), "uint8"), np.zeros(8, "int32"), batch_size=8, verbose=0)
    model.save(path)
    return path


@pytest.fixture(scope="module")
def elsewhere(saved):
    """{backend: (arrays it computed from the file, the file it saved after a step of its own)}."""
    program = pathlib.Path(__file__).with_name("evaluate_file.py")
    running = {}
    for name in OTHERS:
        command = [sys.executable, str(program), *map(str, (saved, *files_of(saved, name)))]
        running[name] = subprocess.Popen(command, env={**os.environ, "KERAS_BACKEND": name}, stdout=subprocess.DEVNULL)
    assert all(process.wait() == 0 for process in running.values())
    return {
        name: (dict(np.load(arrays, allow_pickle=False)), after)
        for name, (arrays, after) in ((name, files_of(saved, name)) for name in OTHERS)
    }


def files_of(saved, name: str):
    """(arrays, model) that the other backend writes."""
    return saved.with_name(f"{name}.npz"), saved.with_name(f"after_{name}.keras")


@pytest.fixture(scope="module")
def here(saved):
    return results(str(saved))


@pytest.mark.parametrize("other", OTHERS)
def test_outputs_agree_to_1e_4_and_losses_to_1e_3(here, elsewhere, other):
    theirs = elsewhere[other][0]
    for name in ("z_t", "v_hat"):
        np.testing.assert_allclose(theirs[name], here[name], atol=1e-4 * np.abs(here[name]).max())
    np.testing.assert_allclose(theirs["loss"], here["loss"], rtol=1e-3)


@pytest.mark.parametrize("other", OTHERS)
def test_gradients_agree_to_1e_3(here, elsewhere, other):
    theirs = elsewhere[other][0]
    names = [name for name in here if name.startswith("gradient")]
    largest = max(np.abs(here[name]).max() for name in names)
    assert len(names) > 40 and largest > 0
    for name in names:
        np.testing.assert_allclose(theirs[name], here[name], atol=1e-3 * largest)


@pytest.mark.parametrize("other", OTHERS)
def test_the_same_seed_draws_the_same_images(here, elsewhere, other):
    assert np.abs(elsewhere[other][0]["drawn"] - here["drawn"]).max() <= 1


@pytest.mark.parametrize("other", OTHERS)
def test_a_file_that_another_backend_trained_trains_on_here(elsewhere, other):
    model = load_model(elsewhere[other][1])
    assert int(model.optimizer.iterations.value) == 5
    assert max(np.abs(to_numpy(average.value)).max() for average in model.averages()) > 0
    model.fit(np.zeros((8, 8, 8, 1), "uint8"), np.zeros(8, "int32"), batch_size=8, verbose=0)
    assert int(model.optimizer.iterations.value) == 6


@pytest.mark.parametrize("other", OTHERS)
def test_the_loss_curve_is_the_same(saved, elsewhere, other):
    """Noise, labels, dropout, loss and optimizer agree, so the losses of four steps from one file do."""
    _, mine = trained_on(str(saved))
    np.testing.assert_allclose(elsewhere[other][0]["losses_of_steps"], mine, rtol=1e-3)
