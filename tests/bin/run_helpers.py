"""Runs of the preset tiny_digits, and the program that makes them in processes of their own."""

import os

from rich.console import Console

from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun

PROGRAM = """
from training_helpers import register_tiny_digits
from keras_sid2.bin.train import run

register_tiny_digits()
run()
"""


def run_in(data, workdir, *, kind=TrainingRun, **changes) -> TrainingRun:
    """A run of a `kind` in this process, not begun, whose console keeps what it is told."""
    every = {"log_every": 2, "checkpoint_every": 4, "eval_every": 100, "sample_every": 0}
    asked = {"preset": "tiny_digits", "data": data, "workdir": str(workdir), "batch_size": 16, "steps": 12}
    console = Console(record=True, width=200, file=open(os.devnull, "w"))
    return kind(TrainSettings(**{**asked, **every, **changes}), console)
