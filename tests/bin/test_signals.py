"""Signals that ask a program to end: noted first, looked for at good moments, and at once the second time."""

import os
import signal
import subprocess
import sys

import pytest

from keras_sid2.bin import signals

pytestmark = pytest.mark.backend_free

PROGRAM = """
import sys, time
from keras_sid2.bin import signals

signals.wait_for_a_look()
print("ready", flush=True)
try:
    time.sleep(600)
finally:
    print("This is no end at once.", flush=True)
"""


def test_the_first_one_waits_for_a_look(looking, capfd):
    signals.look()
    os.kill(os.getpid(), signal.SIGTERM)
    assert (
        capfd.readouterr().err == "Stopping when this step is done, or loading, or compiling; again to end at once.\n"
    )
    between = signals.looking_between([1, 2])
    with pytest.raises(signals.Interrupted) as error:
        next(between)
    assert signals.exit_code(error.value) == 143
    assert signals.exit_code(KeyboardInterrupt()) == 130


def test_the_first_one_is_told_and_handlers_are_put_back(capfd):
    before, told = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []
    with signals.first_one_told("Stopping after this step.", told.append):
        os.kill(os.getpid(), signal.SIGINT)
    assert told == [signal.SIGINT] and capfd.readouterr().err == "Stopping after this step.\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_second_one_ends_at_once():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        while not (said := process.stderr.readline()).startswith("Stopping"):
            assert said
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)
    assert process.returncode == 143 and said == ("", "")
