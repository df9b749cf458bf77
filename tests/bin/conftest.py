"""What tests of several programs share."""

import signal

import pytest
from training_helpers import register_tiny_digits

import pipelines
from keras_sid2.bin import signals
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


@pytest.fixture
def looking(monkeypatch):
    """Signals wait until a program looks, as they do where `run_program(looks=True)` runs it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signals, "_came", None)
    signals.wait_for_a_look()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
