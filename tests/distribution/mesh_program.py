"""Run by test_on_a_mesh.py on eight virtual devices: the same training and sampling on one device and on meshes.

python mesh_program.py OUT writes OUT/<case>.npz for each case, OUT/<case>_in_parts.npz for those whose gradient is
accumulated, OUT/<case>_texts.npz and .hlo for a network that reads a text, and OUT/refused.json.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import keras
import numpy as np
import tensorflow as tf
from helpers import tiny_network
from plain_network import PlainTransformer
from training_helpers import Losses, stripes, tiny_model

from keras_sid2 import AdamRecipe, Guidance
from keras_sid2.conditions import TextEmbedding
from keras_sid2.parallel.mesh import Mesh, bytes_on_devices, check_model, distributed
from keras_sid2.parallel.rules import Rule

CASES = ("data:1", "data:8", "fsdp:8", "data:2,fsdp:2,model:2")
IN_PARTS = ("data:1", "data:4,fsdp:2")
LEVELS = (
    {"kind": "res", "channels": 64, "blocks": 1},
    {"kind": "transformer", "channels": 128, "blocks": 1, "head_dim": 32, "dropout": 0.1},
)
# A true gradient of zero (that of key_norm/beta) is rounding noise, which an epsilon of 1e-12 would make a step of.
RECIPE = AdamRecipe(learning_rate=1e-3, warmup_steps=2, ema_decay=0.9, epsilon=1e-6, ema_widths=(0.05, 0.1))


def name(case: str) -> str:
    """A case as a file name."""
    return case.replace(":", "")


def model(parts: int = 1):
    keras.utils.set_random_seed(0)
    recipe = dataclasses.replace(RECIPE, accumulation_steps=parts)
    return tiny_model(network=tiny_network(levels=LEVELS, embedding_dim=128), recipe=recipe)


class OneBatch(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.batch = {"image": images, "label": labels}

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return self.batch


def data(case: str) -> dict:
    """Arguments of fit, 16 images a step, in another form for each case."""
    images, labels = stripes(16)
    if case == "fsdp:8":
        return {"x": OneBatch(images, labels)}
    if case == "data:8":
        return {"x": tf.data.Dataset.from_tensor_slices({"image": images, "label": labels}).batch(16)}
    return {"x": images, "y": labels, "batch_size": 16}


def run(case: str, out: pathlib.Path) -> dict:
    trained, losses = model(), Losses()
    table = check_model(trained)
    trained.fit(**data(case), shuffle=False, epochs=20, verbose=0, callbacks=[losses])
    (out / f"{name(case)}.hlo").write_text(compiled_train_step())
    result = {
        "losses": losses.values,
        "weights": flat(trained.trainable_variables),
        "averages": flat(trained._all_averages()),
        "bytes": list(bytes_on_devices(trained).values()),
        "table_bytes": table.bytes_per_device if table else 0,
    }
    if case == "fsdp:8":
        trained.save(out / "trained.keras")
        loaded = keras.saving.load_model(out / "trained.keras")
        result |= {"loaded_weights": flat(loaded.trainable_variables), "loaded_averages": flat(loaded._all_averages())}
        result["loaded_bytes"] = list(bytes_on_devices(loaded).values())
    if case in (CASES[0], CASES[-1]):
        result["images"] = trained.generate(np.arange(9) % 3, num_steps=4, seed=1)
        result["evaluation"] = trained.evaluate(*stripes(32), batch_size=16, verbose=0, return_dict=True)["loss"]
    return result


def run_in_parts() -> dict:
    """Ten steps of 32 images in four parts: on eight devices, one image each at a time."""
    trained, losses = model(parts=4), Losses()
    trained.fit(*stripes(32), batch_size=32, shuffle=False, epochs=10, verbose=0, callbacks=[losses])
    return {
        "losses": losses.values,
        "weights": flat(trained.trainable_variables),
        "averages": flat(trained._all_averages()),
    }


def run_of_texts(hlo: pathlib.Path) -> dict:
    """Six steps of a network that reads a text, on its own level alone, and what it draws."""
    keras.utils.set_random_seed(0)
    network = tiny_network(levels=LEVELS[1:], embedding_dim=128, conditions={"text": TextEmbedding(3, 64)})
    trained, losses, (images, labels) = tiny_model(network=network, recipe=RECIPE), Losses(), stripes(16)
    texts = np.random.default_rng(0).normal(size=(16, 3, 64)).astype("float32")
    texts[::2, 1:] = 0.0  # padding
    batch = {"image": images, "label": labels, "text": texts}
    trained.fit(batch, batch_size=16, shuffle=False, epochs=6, verbose=0, callbacks=[losses])
    hlo.write_text(compiled_train_step())
    images = trained.generate(labels[:8], conditions={"text": texts[:8]}, num_steps=4, guidance=Guidance(2.0))
    return {"losses": losses.values, "weights": flat(trained.trainable_variables), "images": images}


def compiled_train_step() -> str:
    """What XLA made of the train step that was compiled last."""
    modules = [module for program in jax.devices()[0].client.live_executables() for module in program.hlo_modules()]
    return next(module.to_string() for module in modules if module.name == "jit_train_step")


def flat(variables) -> np.ndarray:
    return np.concatenate([keras.ops.convert_to_numpy(v.value).ravel() for v in variables])


def refusal(function) -> str:
    try:
        function()
    except ValueError as error:
        return str(error)
    return "accepted"


def refusals() -> dict[str, str]:
    before = model()
    images, labels = stripes(24)

    def too_many_heads():
        with distributed(Mesh(model=8)):
            model()

    found = {"heads": refusal(too_many_heads)}
    with distributed(Mesh(data=4, fsdp=2)):
        now = model()
        found["made before"] = refusal(before.compile)
        found["first batch"] = refusal(lambda: now.fit(OneBatch(images[:12], labels[:12]), verbose=0))
        found["last batch of arrays"] = refusal(lambda: now.fit(images[:20], labels[:20], batch_size=16, verbose=0))
        found["evaluate"] = refusal(lambda: now.evaluate(images, labels, batch_size=12, verbose=0))
        found["validation"] = refusal(
            lambda: now.fit(images, labels, batch_size=24, validation_data=(images[:4], labels[:4]), verbose=0)
        )
    found["distribution after"] = str(keras.distribution.distribution())
    with distributed(Mesh(fsdp=8)):  # a renamed layer: no rule knows it
        network = tiny_network(levels=LEVELS, embedding_dim=128)
        for block in network.level0_down_blocks:
            block.conv1.kernel._path = block.conv1.kernel.path.replace("conv1", "convolution1")
        found["renamed"] = refusal(lambda: tiny_model(network=network))
    return found


class EagerTransformer(PlainTransformer):
    """With rules, and weights that are made where no mesh can know of them."""

    sharding_rules = (
        Rule("hidden0/kernel", ("fsdp", None)),
        Rule(r"attention0/\w+/kernel", (None, None, "fsdp")),
        Rule("(?:patches|pixels|level|out0)/kernel", (None, "fsdp")),
    )

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden0.build((None, 16, 128))


def foreign() -> dict:
    """A network of another maker, without rules, and one whose rules come too late."""
    with distributed(Mesh(fsdp=8)):
        trained = tiny_model(network=PlainTransformer(dim=128, depth=1))
        found = {"table": check_model(trained).bytes_per_device, "lies": [*bytes_on_devices(trained).values()]}
        logs = trained.fit(np.zeros((8, 8, 8, 3), "uint8"), batch_size=8, verbose=0).history
        return {
            **found,
            "loss": logs["loss"][0],
            "eager": refusal(lambda: tiny_model(network=EagerTransformer(dim=128, depth=1))),
        }


def main(out: pathlib.Path):
    (out / "foreign.json").write_text(json.dumps(foreign()))
    for case in CASES:
        with distributed(Mesh.parse(case)):
            np.savez(out / f"{name(case)}.npz", **run(case, out))
    for case in IN_PARTS:
        with distributed(Mesh.parse(case)):
            np.savez(out / f"{name(case)}_in_parts.npz", **run_in_parts())
    for case in (CASES[0], CASES[-1]):
        with distributed(Mesh.parse(case)):
            np.savez(out / f"{name(case)}_texts.npz", **run_of_texts(out / f"{name(case)}_texts.hlo"))
    (out / "refused.json").write_text(json.dumps(refusals()))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
