"""Run by test_sharded_processes.py: sharded checkpoints of several processes (jax).

python sharded_program.py save FOLDER INDEX COUNT PORT   trains over all devices of COUNT processes, saves, and loads
python sharded_program.py load FOLDER                    loads in one process, on all of its devices and on one

Writes what there is to FOLDER/<case>_<INDEX>.npz, and what was said to FOLDER/said_<INDEX>.json.
"""

import json
import pathlib
import sys

from keras_sid2.parallel import processes

WHAT, FOLDER, INDEX, COUNT, PORT = sys.argv[1], pathlib.Path(sys.argv[2]), *map(int, (sys.argv[3:] or [0, 1, 0]))
if COUNT > 1:
    processes.start(coordinator=f"127.0.0.1:{PORT}", count=COUNT, index=INDEX)

import jax  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402
from helpers import tiny_network  # noqa: E402
from training_helpers import stripes, tiny_model  # noqa: E402

from keras_sid2.backend import gathered  # noqa: E402
from keras_sid2.callbacks.saving import SaveCheckpoints  # noqa: E402
from keras_sid2.checkpoints import checkpoints, fault, load_model  # noqa: E402
from keras_sid2.checkpoints import sharded as sharded_checkpoints  # noqa: E402
from keras_sid2.parallel.mesh import Mesh, bytes_on_devices, distributed  # noqa: E402

LEVELS = ({"kind": "transformer", "channels": 64, "blocks": 1, "head_dim": 32},)
ROWS = 16


class OneBatch(keras.utils.PyDataset):
    """This process's rows of one global batch."""

    def __len__(self):
        return 1

    def __getitem__(self, i):
        images, labels = stripes(ROWS)
        mine = slice(INDEX * ROWS // COUNT, (INDEX + 1) * ROWS // COUNT)
        return {"image": images[mine], "label": labels[mine]}


def keep(case: str, model):
    """Writes all that is saved, whole, by part and path, and the bytes on each device here."""
    values = {
        f"{part}:{path}": gathered(value)
        for part, found in sharded_checkpoints.arrays(model).items()
        for path, value in found.items()
    }
    np.savez(FOLDER / f"{case}_{INDEX}.npz", bytes=list(bytes_on_devices(model).values()), **values)


def block_the_last_process_once():
    """Where Orbax wants a folder for what the last process writes first, there is a file."""
    begin = sharded_checkpoints._begin_writing

    def blocked(handler, folder, values):
        sharded_checkpoints._begin_writing = begin
        (folder / f"ocdbt.process_{INDEX}").write_text("")
        return begin(handler, folder, values)

    if INDEX == COUNT - 1:
        sharded_checkpoints._begin_writing = blocked


def save():
    """Saves after every second of seven steps, with no wait for it, and at the end; the first one is blocked."""
    notes, portable = [], ""
    with distributed(Mesh(fsdp=len(jax.devices()))):
        keras.utils.set_random_seed(0)
        model = tiny_model(network=tiny_network(levels=LEVELS, embedding_dim=64))
        try:
            model.fit(OneBatch(), verbose=0, callbacks=[SaveCheckpoints(FOLDER / "portable", every=1, keep=1)])
        except ValueError as error:
            portable = str(error)
        block_the_last_process_once()
        save = SaveCheckpoints(FOLDER / "run", every=2, keep=9, note=notes.append, sharded=True)
        model.fit(OneBatch(), epochs=7, verbose=0, callbacks=[save])
        keep("saved", model)
        keep("loaded", load_model(checkpoints(FOLDER / "run")[-1]))
    (FOLDER / f"said_{INDEX}.json").write_text(json.dumps({"notes": notes, "portable": portable}))


def load():
    newest = checkpoints(FOLDER / "run")[-1]
    assert fault(newest) is None
    with distributed(Mesh(fsdp=len(jax.devices()))):
        keep("split", load_model(newest))
    keep("one", load_model(newest))


if __name__ == "__main__":
    {"save": save, "load": load}[WHAT]()
