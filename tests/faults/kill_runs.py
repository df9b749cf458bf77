"""Kills a run with SIGKILL at random moments, continues it, and compares its end with that of a run left alone.

    python tests/faults/kill_runs.py --kills=30 --steps=600          about half an hour on two cores
    KERAS_BACKEND=jax python tests/faults/kill_runs.py --kills=2 --steps=60 --checkpoints=sharded

Weights, averages, optimizer state and the loss of every window must be equal to the bit. Half of the kills come while a
checkpoint is being written. Prints one line a kill, and ends with 1 at the first difference.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def define():
    flags.DEFINE_integer("kills", 30, "how many", lower_bound=1)
    flags.DEFINE_integer("steps", 600, "of the run", lower_bound=10)
    flags.DEFINE_integer("seed", 0, "of the moments")
    flags.DEFINE_enum("checkpoints", "portable", ["portable", "sharded"], "as sid2-train's")


def command(data, workdir, steps):
    every = ("--log_every=5", "--checkpoint_every=5", "--sample_every=0", "--keep_checkpoints=2")
    every += (f"--checkpoints={FLAGS.checkpoints}",)
    what = (f"--data={data}", f"--workdir={workdir}", f"--steps={steps}", "--preset=sid2_digits", "--batch_size=8")
    return [sys.executable, "-m", "keras_sid2.bin.train", *what, "--eval_every=1000000", *every]


def start(texts, log):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(texts, stderr=log, stdout=log, env={**os.environ, "PYTHONPATH": path})


def windows(workdir) -> list[tuple[int, float]]:
    """(step, loss) of each window, from the run's log."""
    lines = (pathlib.Path(workdir) / "goodput.jsonl").read_text().splitlines()
    return [(line["step"], line["loss"]) for line in map(json.loads, lines)]


def kill_once(texts, workdir, rng, while_saving: bool) -> str:
    """Starts the run and ends it with SIGKILL; says when, or "finished" if it was quicker."""
    folder = pathlib.Path(workdir) / "checkpoints"
    before = {path.name for path in folder.glob("*")} if folder.exists() else set()
    with tempfile.TemporaryFile("w+") as log:
        process = start(texts, log)
        while process.poll() is None and {p.name for p in folder.glob("step_*")} <= before:
            time.sleep(0.02)  # until it has got a step further: kills before that only repeat one another
        begin, wanted = time.monotonic(), rng.uniform(0.0, 4.0)
        while process.poll() is None and time.monotonic() - begin < wanted:
            time.sleep(0.001)
        while process.poll() is None and while_saving and not any(folder.glob(".writing-*")):
            time.sleep(0.0005)
        if process.poll() is not None:
            if process.returncode:
                log.seek(0)
                raise AssertionError(log.read()[-2000:])
            return "finished"
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = " while saving" if any(folder.glob(".writing-*")) else ""
    return f"killed after {max(path.name for path in folder.glob('step_*'))}{left}"


def finish(texts):
    with tempfile.TemporaryFile("w+") as log:
        if start(texts, log).wait():
            log.seek(0)
            raise AssertionError(log.read()[-2000:])


def main(_):
    import pipelines
    from keras_sid2.bin.verify_resume import _compared, _variables

    rng = random.Random(FLAGS.seed)
    with tempfile.TemporaryDirectory(prefix="kill_runs_") as folder:
        data = pipelines.prepare("digits", data_dir=f"{folder}/data")
        whole, killed = f"{folder}/whole", f"{folder}/killed"
        finish(command(data, whole, FLAGS.steps))
        for number in range(FLAGS.kills):
            what = kill_once(command(data, killed, FLAGS.steps), killed, rng, number % 2 == 1)
            print(f"{number + 1}: {what}", flush=True)
            if what == "finished":
                break
        finish(command(data, killed, FLAGS.steps))
        _compared(_variables(pathlib.Path(whole)), _variables(pathlib.Path(killed)), FLAGS.steps)
        losses, after_kills = windows(whole), windows(killed)
        assert losses == after_kills, f"losses differ: {set(losses) ^ set(after_kills)}"
        assert len(losses) == FLAGS.steps // 5
    print(f"equal to the bit: all variables after {FLAGS.steps} steps, and {len(losses)} losses")


if __name__ == "__main__":
    define()
    app.run(main)
