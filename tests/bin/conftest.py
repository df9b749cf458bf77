"""What tests of several programs share."""

import signal

import pytest
from helpers import tiny_network
from training_helpers import fit_steps, register_tiny_digits, tiny_model

import pipelines
from keras_sid2.bin import signals
from keras_sid2.checkpoints import save_checkpoint
from keras_sid2.training import preset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of the digits, prepared."""
    return str(pipelines.prepare("digits", data_dir=str(tmp_path_factory.mktemp("data"))))


@pytest.fixture(scope="module")
def tiny_digits():
    """The preset tiny_digits is there."""
    register_tiny_digits()
    yield
    del preset._REGISTRY["tiny_digits"]


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """The work directory of a model that has trained a little."""
    folder = tmp_path_factory.mktemp("trained")
    model = tiny_model()
    fit_steps(model)
    save_checkpoint(model, folder / "checkpoints", keep=1)
    return folder


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """A .keras file of a model without classes."""
    path = tmp_path_factory.mktemp("unlabelled") / "model.keras"
    tiny_model(network=tiny_network(num_classes=None)).save(path)
    return path


@pytest.fixture
def looking(monkeypatch):
    """Signals wait until a program looks, as they do where `run_program(looks=True)` runs it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signals, "_came", None)
    signals.wait_for_a_look()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
