"""What tests of several programs share."""

import signal

import pytest

from keras_sid2.bin import signals


@pytest.fixture
def looking(monkeypatch):
    """Signals wait until a program looks, as they do where `run_program(looks=True)` runs it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(signals, "_came", None)
    signals.wait_for_a_look()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
