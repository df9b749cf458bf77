"""sid2-train: trains a preset on a prepared data set, in a work directory that it can continue from.

    KERAS_BACKEND=jax sid2-train --preset=sid2_digits --data=digits --workdir=runs/digits --steps=2000
    KERAS_BACKEND=jax sid2-train --data=mine --workdir=runs/mine --set=network.embedding_dim=128
    KERAS_BACKEND=jax sid2-train --config=experiment.py --data=mine --workdir=runs/mine
    KERAS_BACKEND=jax sid2-train --data=finer --workdir=runs/finer --init_from=runs/mine

Without --preset and --config a network of --size is proposed for the shape and the classes of the data, and written to
config.py in the work directory, to be edited and given to --config. With --init_from alone it is the network of that
run, checkpoint, file or folder, adapted to the data (keras_sid2/training/adapting.py).
The backend is keras's: KERAS_BACKEND, or ~/.keras/keras.json. `sid2-data prepare digits` writes the data.
"""

import dataclasses
import functools
import os

from keras_sid2.bin import signals
from keras_sid2.bin.common import run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.device_flags import together
from keras_sid2.bin.flag_table import check, names
from keras_sid2.bin.tables.train import TrainFlags
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.bin.verify_resume import verify_resume
from keras_sid2.parallel import processes


def main(values) -> int:
    """0 at the end of training; 130 after Ctrl-C and 143 after SIGTERM, when all is saved."""
    check(TrainFlags, values)
    settings = TrainSettings(**{name: getattr(values, name) for name in names(TrainSettings)})
    keep_compiled(settings.compilation_cache, settings.compile)
    if not values.verify_resume:  # that one has a folder to clear away
        signals.end_at_once("sid2-train")
    return together("sid2-train", settings, lambda: _train(settings, values.verify_resume))


def _train(settings: TrainSettings, verified: int) -> int:
    if verified:
        return _verify_resume(settings, verified)
    run = TrainingRun(settings)
    run.train()
    return 0 if run.stopped.by is None else 128 + run.stopped.by


def _verify_resume(settings: TrainSettings, steps: int) -> int:
    if processes.count() > 1:
        raise ValueError("--verify_resume starts processes of its own, one at a time: give it to one process.")
    if settings.smoke:  # which trains four steps, whatever is asked for
        raise ValueError("--verify_resume and --smoke each say how many steps there are: leave one of them out.")
    TrainingRun(dataclasses.replace(settings, workdir=os.path.join(settings.workdir, "none")))  # refuses what is wrong
    print(verify_resume(settings, steps=steps))
    return 0


run = functools.partial(run_program, main, "sid2-train", TrainFlags)

if __name__ == "__main__":
    run()
