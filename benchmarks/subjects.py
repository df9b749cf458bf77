"""What is measured: networks by size, models on them, batches from host numpy; the flags that choose; the result.

Only workers call what imports keras.
"""

import random
from collections.abc import Mapping, Sequence

import harness
import numpy as np
import report
import speed
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
    flags.DEFINE_string("preset", None, "A preset's network instead: a name, or a folder of save_preset.")
    flags.DEFINE_list("cases", None, "Only these cases; default: all that the backends have.")
    speed.define_flags()
    flags.DEFINE_integer("rounds", 7, "Every case runs once in each round.", lower_bound=1)
    flags.DEFINE_integer("threads", 0, "CPU threads of every worker; 0: all cores.", lower_bound=0)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_bool("worker", False, "Set by the program itself, in the processes that it starts.")


def open_bench(program: str, arguments: Sequence[str], others: Mapping[str, str] | None = None) -> harness.Bench:
    """The workers that the flags ask for, and those of other commits (harness.Bench)."""
    return harness.Bench(program, arguments, FLAGS.backends, FLAGS.threads or report.num_cores(), others)


def settings() -> dict:
    """The flags of this program, for the record."""
    own = (flag for flags_of in FLAGS.flags_by_module_dict().values() for flag in flags_of)
    names = ("backends", "size", "preset", "batch_size", "rounds", "threads", "steps", "parts", "images")
    names += ("dtype", "cases", "profile")
    return {flag.name: flag.value for flag in own if flag.name in names}


def conclude(
    bench: harness.Bench, program: str, doc: str, unit: str, facts: dict, rows: list[dict], ratios: Sequence[dict] = ()
) -> dict:
    """Prints the tables of a program with the docstring `doc` and gives its result, written; `rows` are of speed.py."""
    question = doc.split("\n\n")[0]
    kept = {"settings": settings(), "facts": facts, "ratios": list(ratios), "speed": rows}
    result = report.document(program=program, question=question, bench=bench, **kept)
    report.show(result, unit)
    speed.show(rows, unit)
    report.write(result, FLAGS.json)
    return result


def make_model():
    """A SiD2Model of the chosen network, not compiled; the same weights at every call."""
    import keras_sid2

    random.seed(0)  # of this Keras takes the seeds of its initializers; keras.utils.set_random_seed imports TensorFlow
    if FLAGS.preset:
        return keras_sid2.SiD2Model.from_preset(FLAGS.preset, dtype=FLAGS.dtype)
    return model_of(keras_sid2.ResidualUViT(**SIZES[FLAGS.size], dtype=FLAGS.dtype))


def model_of(network):
    """A SiD2Model of any network."""
    import keras_sid2

    return keras_sid2.SiD2Model(
        network,
        schedule=keras_sid2.diffusion.CosineInterpolatedSchedule(network.sample_shape[0], low=8.0),
        weighting=keras_sid2.SigmoidWeighting(0.0),
    )


def abstract_network():
    """The chosen network without values, for its configuration and cost."""
    import keras_sid2
    from keras_sid2.models import abstract_variables
    from keras_sid2.training import find_preset

    with abstract_variables():
        if FLAGS.preset:
            return find_preset(FLAGS.preset).make_network()
        return keras_sid2.ResidualUViT(**SIZES[FLAGS.size])


def multiply_adds_of(network) -> int:
    """Of a forward pass of one image; of any Keras network."""
    from keras_sid2.models import trace

    return trace(network).cost.multiply_adds


def chosen(plan: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The (backend, case) of a plan that --cases leaves; ends the program where it names one that is not there."""
    if FLAGS.cases is None:
        return plan
    cases = list(dict.fromkeys(case for _, case in plan))
    wrong = [case for case in FLAGS.cases if case not in cases]
    if wrong:
        raise SystemExit(f"--cases={wrong[0]} is no case of these backends, which have: {', '.join(cases)}.")
    return [(backend, case) for backend, case in plan if case in FLAGS.cases]


def batch(model, size: int, seed: int) -> tuple[np.ndarray, ...]:
    """(uint8 images [size, H, W, C], int32 labels [size]), the latter only for a model with classes."""
    return images(model.image_shape, model.num_classes, size, seed)


def images(shape: tuple[int, ...], num_classes: int | None, size: int, seed: int) -> tuple[np.ndarray, ...]:
    """The same, of a shape and a number of classes."""
    rng = np.random.RandomState(seed)
    values = rng.randint(0, 256, (size, *shape), dtype="uint8")
    if num_classes is None:
        return (values,)
    return values, rng.randint(0, num_classes, size).astype("int32")


def wake(model):
    """Replaces the zeros that a new network's branches end in, so that samples depend on all of it."""
    from keras import ops

    for number, weight in enumerate(model.network.trainable_variables):
        if weight.name == "kernel" and not np.any(ops.convert_to_numpy(weight)):
            rng = np.random.RandomState(number)
            weight.assign(0.02 * rng.normal(size=weight.shape))


def parameters(model):
    """A case that is no measurement: facts about the network."""
    facts = {"parameters": model.network.count_params(), "has_classes": model.num_classes is not None}
    return lambda: facts
