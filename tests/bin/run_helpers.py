"""Runs of the preset tiny_digits, and the program that makes them in processes of their own."""

import json
import os

from helpers import BACKEND
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


def one_of(index: int, count: int, port: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Flags and environment of one of several processes on this machine."""
    if BACKEND == "tensorflow":
        workers = [f"127.0.0.1:{port + i}" for i in range(count)]
        told = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        return (), {"TF_CONFIG": json.dumps(told)}
    if BACKEND == "torch":  # as torchrun sets them
        told = {"WORLD_SIZE": count, "RANK": index, "LOCAL_RANK": index, "MASTER_PORT": port}
        return (), {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in told.items()}}
    return (f"--coordinator=127.0.0.1:{port}", f"--process_count={count}", f"--process_id={index}"), {}
