"""One of several processes, run by test_processes.py: the same training as in one process, on any backend.

python processes_program.py OUT MESH INDEX COUNT PORT writes OUT/<backend>_<COUNT>_<INDEX>.npz; COUNT 1 is one process.
"""

import json
import os
import pathlib
import sys

OUT, MESH, INDEX, COUNT, PORT = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:6])
ROWS, STEPS = 16, 20

if os.environ["KERAS_BACKEND"] == "tensorflow" and COUNT > 1:
    workers = [f"127.0.0.1:{PORT + i}" for i in range(COUNT)]
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": INDEX}})

from keras_sid2.parallel import processes  # noqa: E402

if COUNT > 1:
    given = {"coordinator": f"127.0.0.1:{PORT}", "count": COUNT, "index": INDEX}
    processes.start(**({} if os.environ["KERAS_BACKEND"] == "tensorflow" else given))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from helpers import tiny_network  # noqa: E402
from training_helpers import Losses, stripes, tiny_model  # noqa: E402

from keras_sid2 import AdamRecipe  # noqa: E402
from keras_sid2.checkpoints import PortableSaver  # noqa: E402
from keras_sid2.parallel import replicas  # noqa: E402
from keras_sid2.parallel.mesh import Mesh, distributed  # noqa: E402
from keras_sid2.training import MomentMatchingModel  # noqa: E402

if os.environ.get("VIRTUAL_DEVICES", "1") != "1":
    cpu = tf.config.list_physical_devices("CPU")[0]
    virtual = [tf.config.LogicalDeviceConfiguration()] * int(os.environ["VIRTUAL_DEVICES"])
    tf.config.set_logical_device_configuration(cpu, virtual)

LEVELS = (
    {"kind": "res", "channels": 64, "blocks": 1},
    {"kind": "transformer", "channels": 128, "blocks": 1, "head_dim": 32, "dropout": 0.1},
)
# A true gradient of zero (that of key_norm/beta) is rounding noise, which an epsilon of 1e-12 would make a step of.
RECIPE = AdamRecipe(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9, epsilon=1e-6, ema_widths=(0.05, 0.1))


def batches(count: int) -> tf.data.Dataset:
    """This process's rows of `count` batches of ROWS examples."""
    images, labels = stripes(count * ROWS)
    mine = slice(INDEX * ROWS // COUNT, (INDEX + 1) * ROWS // COUNT)
    parts = {"image": images.reshape(count, ROWS, 4, 4, 1)[:, mine], "label": labels.reshape(count, ROWS)[:, mine]}
    return tf.data.Dataset.from_tensor_slices(parts)


def flat(variables) -> np.ndarray:
    return np.concatenate([np.ravel(v.numpy()) for v in variables])


def saved_and_loaded(model) -> np.ndarray:
    """All variables after a round through a file, which the first process alone writes."""
    path = OUT / f"{keras.backend.backend()}_{COUNT}.keras"
    if INDEX == 0:
        replicas.save(model, path)
    processes.wait_for_all()
    return flat(keras.saving.load_model(path).optimizer.variables)


def refused(model) -> str:
    """What a process is told when the first one cannot write a checkpoint."""
    (OUT / "file").touch()
    try:
        PortableSaver(OUT / "file", keep=1).save(model)
    except OSError as error:
        return type(error).__name__
    return ""


def distilled(teacher) -> dict:
    """Norms of the gradient in two steps of a student in parameter space, on its own chain, and what a batch is told
    of which a replica cannot halve its part."""
    own = {"own_levels": True, "own_chain": True}
    student = MomentMatchingModel.of_teacher(teacher, 2, matching="parameters", **own, recipe=RECIPE)
    student.compile()
    logs = student.fit(batches(2).repeat(), epochs=2, steps_per_epoch=1, verbose=0).history
    rows = replicas.count() // COUNT or 1
    few = batches(1).map(lambda batch: {name: values[:rows] for name, values in batch.items()})
    try:
        student.fit(few, verbose=0)
    except ValueError as error:
        return {"student": logs["gradient_norm"], "odd": str(error)}
    return {"student": logs["gradient_norm"], "odd": "accepted"}


def main():
    losses = Losses()
    with distributed(Mesh.parse(MESH)):
        own = keras.backend.backend() == "torch"  # where the others take what the first process began with
        keras.utils.set_random_seed(INDEX if own else 0)
        model = tiny_model(network=tiny_network(levels=LEVELS, embedding_dim=128), recipe=RECIPE)
        data = batches(STEPS).repeat()
        model.fit(data, epochs=STEPS, steps_per_epoch=1, verbose=0, callbacks=[losses])
        np.savez(
            OUT / f"{keras.backend.backend()}_{COUNT}_{INDEX}.npz",
            losses=losses.values,
            weights=flat(model.trainable_variables),
            averages=flat(model._all_averages()),
            optimizer=flat(model.optimizer.variables),
            evaluation=[model.evaluate(batches(3), verbose=0, return_dict=True)["loss"]],
            images=model.generate(np.arange(8) % 3, num_steps=4, seed=1),
            loaded=saved_and_loaded(model),
            refused=refused(model),
            agreed=[processes.summed(INDEX + 1), processes.from_first(INDEX + 7)],
            sent=list(processes.bytes_from(COUNT - 1, bytes([INDEX, 255]))),
            **distilled(model),
        )


if __name__ == "__main__":
    main()
