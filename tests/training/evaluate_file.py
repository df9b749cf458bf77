"""Run by test_across_backends on each backend: what a saved model computes there, as arrays.

python evaluate_file.py MODEL.keras ARRAYS.npz SAVED.keras
"""

import sys

import keras
import numpy as np
from keras import ops

from keras_sid2.checkpoints import load_model


def gradients(model, inputs) -> list[np.ndarray]:
    """The gradient of the mean loss, as the step of plain gradient descent at rate 1, in any backend's own way."""
    before = [ops.convert_to_numpy(w.value) for w in model.trainable_variables]
    model.corrupted, v = lambda *_: inputs, inputs["target"]
    model.compile(keras.optimizers.SGD(1.0))
    model.fit(np.zeros((len(v), *v.shape[1:]), "uint8"), np.zeros(len(v), "int32"), batch_size=len(v), verbose=0)
    return [w - ops.convert_to_numpy(a.value) for w, a in zip(before, model.trainable_variables, strict=True)]


def results(path: str) -> dict[str, np.ndarray]:
    model = load_model(path)
    images = np.random.default_rng(0).integers(0, 256, (8, *model.image_shape)).astype("uint8")
    labels = np.arange(8, dtype="int32") % model.num_classes
    inputs = model.corrupted({"image": images, "label": labels}, model._step_keys(0, 7), {"label": 0.5})
    inputs.pop("seed")
    losses = model(inputs, training=False)
    v_hat = model({k: inputs[k] for k in ("z_t", "logsnr", "label")}, training=False)
    return {
        "z_t": ops.convert_to_numpy(inputs["z_t"]),
        "v_hat": ops.convert_to_numpy(ops.stop_gradient(v_hat)),
        "loss": ops.convert_to_numpy(ops.stop_gradient(losses)),
        "drawn": model.generate(labels, num_steps=6).astype("float32"),
        **{f"gradient{i:03d}": g for i, g in enumerate(gradients(model, inputs))},
    }


def trained_on(path: str):
    """(the model of a file after four steps, the loss of each)."""
    model = load_model(path)
    images = np.random.default_rng(1).integers(0, 256, (8, *model.image_shape)).astype("uint8")
    options = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
    return model, model.fit(images, np.zeros(8, "int32"), **options).history["loss"]


if __name__ == "__main__":
    model_path, arrays_path, saved_path = sys.argv[1:]
    trained, losses = trained_on(model_path)
    trained.save(saved_path)
    np.savez(arrays_path, losses_of_steps=losses, **results(model_path))
