"""sid2-train: trains a preset on a prepared data set, in a work directory that it can continue from.

    KERAS_BACKEND=jax sid2-train --preset=sid2_digits --data=digits --workdir=runs/digits --steps=2000
    KERAS_BACKEND=jax sid2-train --data=mine --workdir=runs/mine --set=network.embedding_dim=128
    KERAS_BACKEND=jax sid2-train --config=experiment.py --data=mine --workdir=runs/mine

Without --preset and --config a network of --size is proposed for the shape and the classes of the data, and written to
config.py in the work directory, to be edited and given to --config.
The backend is keras's: KERAS_BACKEND, or ~/.keras/keras.json. `sid2-data prepare digits` writes the data.
"""

import dataclasses
import os
import typing

from absl import flags

from keras_sid2.bin import preset_flags, signals
from keras_sid2.bin.common import run_program, tell
from keras_sid2.bin.train_settings import MEASURING, TrainSettings
from keras_sid2.training.proposal import SIZES

_HELP = {
    **preset_flags.TEXTS,
    "size": f"of the network that is proposed where neither --preset nor --config is given: {', '.join(SIZES)}",
    "image_size": "of the images that it is proposed for, as 64 or 48x64, where the data's differ, or with --crop",
    "workdir": "folder of the run; a run that is in it is continued",
    "data": "name or folder of a prepared data set (sid2-data prepare)",
    "data_dir": "where data sets lie that are given by name; tensorflow-datasets' own folder if not given",
    "split": "split to train on",
    "eval_split": "split to evaluate on; none if not given",
    "steps": "training steps in all, those of an earlier start counted in",
    "batch_size": "images a step; the preset's if not given",
    "learning_rate": "after warm-up; the preset's if not given",
    "warmup_steps": "steps of linear warm-up; the preset's if not given",
    "lr_decay": "of the rate: constant, inverse_sqrt, or linear or cosine to 0 at --steps; the preset's if not given",
    "ema_decay": "of the averaged weights; the preset's if not given",
    "ema_warmup": "average over fewer steps at first; the preset's if not given",
    "flip": "mirror half of the images",
    "crop": "center or random: cut and resize images to the preset's size; not given: they must have it, or differ",
    "max_bad_records": "how many damaged records are skipped and counted before training stops",
    "seed": "of the initial weights, the data's order and all noise",
    "precision": "float32 or mixed_bfloat16",
    "remat": "recompute each block in the backward pass: less memory, a quarter more work (XLA for CPU undoes it)",
    "accumulation_steps": "parts that a batch is cut into, one after another in the memory of one",
    "mesh": "devices to train on, as data:4,fsdp:2,model:1 (tensorflow and torch: data alone); one if not given",
    "coordinator": "host:port of process 0; where not given, the environment tell (see BUILD.md)",
    "process_count": "processes that train together",
    "process_id": "of this one, from 0",
    "log_every": "steps between lines of the log",
    "eval_every": "steps between evaluations, rounded up to a multiple of log_every, as all of these",
    "checkpoint_every": "steps between checkpoints, rounded up to a multiple of log_every",
    "keep_checkpoints": "how many of the newest checkpoints to keep",
    "keep_every": "keep for good those whose step it divides, rounded up to a multiple of checkpoint_every; 0: none",
    "checkpoints": "portable: a file that every backend reads; or sharded: written behind training (jax)",
    "sample_every": "steps between sample grids; 0 is never",
    "sample_steps": "sampler steps of these grids and of what is measured; the preset's if not given",
    "measure_every": "steps between measurements of samples; 0 is never",
    "measure_images": "how many are drawn each time",
    "measure_features": "inception; classifier, fitted on the training images; or MODULE:FUNCTION",
    "inception_weights": "the FID's Inception-v3, a .pth or .npz file; downloaded if not given",
    "on_nan": "stop; or skip: go back to the last checkpoint, leave out the batch that did it, and go on",
    "explosion_factor": "a loss that is this many times the least mean of 20 steps is as bad as a NaN; 0: never",
    "peak_tflops": "10^12 dense operations a second of all devices, for the share of it; a table's if not given",
    "measure_share": "deprecated, without effect: --measure_every and --measure_images say how much is measured",
    "measure_cache": "folder that keeps the statistics of real images, as sid2-evaluate's --cache",
}
_REQUIRED = ("workdir", "data")
_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool}


def _define_flags(settings: type):
    """One flag for each field of the settings, with its type and default."""
    for field in dataclasses.fields(settings):
        if field.name == "set":
            flags.DEFINE_multi_string("set", [], _HELP["set"])
            continue
        kind = next(t for t in typing.get_args(field.type) or (field.type,) if t is not type(None))
        default = None if field.default is dataclasses.MISSING else field.default
        _DEFINE[kind](field.name, default, _HELP[field.name])


def _main(_) -> int:
    """0 at the end of training; 130 after Ctrl-C and 143 after SIGTERM, when all is saved."""
    from keras_sid2.parallel import processes

    settings = _settings()
    if not flags.FLAGS.verify_resume:  # that one has a folder to clear away
        signals.end_at_once("sid2-train")
    processes.start(coordinator=settings.coordinator, count=settings.process_count, index=settings.process_id)
    try:
        return _verify_resume(settings) if flags.FLAGS.verify_resume else _train(settings)
    except Exception as error:
        if processes.count() > 1:
            processes.leave(_tell_of_one(error))
        raise


def _tell_of_one(error: Exception) -> int:
    """What went wrong in one of several processes; the exit code."""
    from keras_sid2.parallel import processes

    if processes.lost(error):
        error = ConnectionError(
            f"Process {processes.index()} has lost another process of the run, and ends too. Start all of them again: "
            "the same commands go on from the last checkpoint."
        )
    return tell(error, "sid2-train")


def _train(settings) -> int:
    from keras_sid2.bin.training_run import TrainingRun

    run = TrainingRun(settings)
    run.train()
    return 0 if run.stopped_by is None else 128 + run.stopped_by


def _verify_resume(settings) -> int:
    from keras_sid2.bin.training_run import TrainingRun
    from keras_sid2.bin.verify_resume import verify_resume
    from keras_sid2.parallel import processes

    if processes.count() > 1:
        raise ValueError("--verify_resume starts processes of its own, one at a time: give it to one process.")
    TrainingRun(dataclasses.replace(settings, workdir=os.path.join(settings.workdir, "none")))  # refuses what is wrong
    print(verify_resume(settings, steps=flags.FLAGS.verify_resume))
    return 0


def _settings():
    given = [name for name in MEASURING if flags.FLAGS[name].present]
    if given and not flags.FLAGS.measure_every:
        raise ValueError(f"--{given[0]} does nothing without --measure_every.")
    missing = [f"--{name}" for name in _REQUIRED if not flags.FLAGS[name].value]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given.")
    return TrainSettings(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(TrainSettings)})


def run():
    """The console program."""
    _define_flags(TrainSettings)
    text = "train nothing: show that this many steps and as many again, in two processes, end as twice as many at a go"
    flags.DEFINE_integer("verify_resume", 0, text, lower_bound=0)
    run_program(_main, "sid2-train")


if __name__ == "__main__":
    run()
