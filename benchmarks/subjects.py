"""What is measured: networks by size, models on them, batches from host numpy; and the flags that choose.

Only workers call what imports keras.
"""

from collections.abc import Sequence

import harness
import numpy as np
import report
from absl import flags

FLAGS = flags.FLAGS

# In "5m" the blocks of each level cost the same; it has dropout, as the paper's networks have.
SIZES = {
    "tiny": {
        "image_shape": (8, 8, 1),
        "patch_size": 1,
        "num_classes": 10,
        "embedding_dim": 16,
        "levels": [
            {"kind": "res", "channels": 8, "blocks": 1},
            {"kind": "transformer", "channels": 16, "blocks": 1, "head_dim": 8},
        ],
    },
    "small": {
        "image_shape": (16, 16, 3),
        "patch_size": 1,
        "num_classes": 10,
        "embedding_dim": 128,
        "levels": [
            {"kind": "res", "channels": 32, "blocks": 1},
            {"kind": "transformer", "channels": 64, "blocks": 2, "head_dim": 32, "dropout": 0.1},
        ],
    },
    "5m": {
        "image_shape": (32, 32, 3),
        "patch_size": 2,
        "num_classes": 10,
        "embedding_dim": 256,
        "levels": [
            {"kind": "res", "channels": 64, "blocks": 1},
            {"kind": "res", "channels": 128, "blocks": 1},
            {"kind": "transformer", "channels": 256, "blocks": 3, "head_dim": 64, "dropout": 0.1},
        ],
    },
}


def define_flags():
    """The flags that both programs have."""
    flags.DEFINE_list("backends", list(harness.BACKENDS), "Backends; those not installed are left out.")
    flags.DEFINE_enum("size", "5m", list(SIZES), "A network of this program's own; --preset goes before it.")
    flags.DEFINE_string("preset", None, "A preset's network instead.")
    flags.DEFINE_integer("rounds", 7, "Every case runs once in each round.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "CPU threads of every worker; 0: all cores.", lower_bound=0)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_bool("worker", False, "Set by the program itself, in the processes that it starts.")


def open_bench(program: str, arguments: Sequence[str]) -> harness.Bench:
    """The workers that the flags ask for."""
    return harness.Bench(program, arguments, FLAGS.backends, FLAGS.threads or report.num_cores())


def settings() -> dict:
    """The flags of this program, for the record."""
    own = (flag for flags_of in FLAGS.flags_by_module_dict().values() for flag in flags_of)
    names = ("backends", "size", "preset", "batch_size", "rounds", "threads", "steps", "parts", "images")
    return {flag.name: flag.value for flag in own if flag.name in names}


def make_model():
    """A SiD2Model of the chosen network, not compiled; the same weights at every call."""
    import keras

    import keras_sid2

    keras.utils.set_random_seed(0)
    if FLAGS.preset:
        return keras_sid2.SiD2Model.from_preset(FLAGS.preset)
    network = keras_sid2.ResidualUViT(**SIZES[FLAGS.size])
    return keras_sid2.SiD2Model(
        network,
        schedule=keras_sid2.diffusion.CosineInterpolatedSchedule(network.image_shape[0], low=8.0),
        weighting=keras_sid2.SigmoidWeighting(0.0),
    )


def batch(model, size: int, seed: int) -> tuple[np.ndarray, ...]:
    """(uint8 images [size, H, W, C], int32 labels [size]), the latter only for a model with classes."""
    rng = np.random.RandomState(seed)
    images = rng.randint(0, 256, (size, *model.image_shape)).astype("uint8")
    if model.num_classes is None:
        return (images,)
    return images, rng.randint(0, model.num_classes, size).astype("int32")


def wake(model):
    """Replaces the zeros that a new network's branches end in, so that samples depend on all of it."""
    from keras import ops

    for number, weight in enumerate(model.network.trainable_variables):
        if weight.name == "kernel" and not np.any(ops.convert_to_numpy(weight)):
            rng = np.random.RandomState(number)
            weight.assign(0.02 * rng.normal(size=weight.shape))


def parameters():
    """A case that is no measurement: facts about the network."""
    model = make_model()
    facts = {"parameters": model.network.count_params(), "has_classes": model.num_classes is not None}
    return lambda: facts
