"""sid2-export: the newest sound checkpoint of a run as one file, which every backend reads.

    KERAS_BACKEND=jax sid2-export --workdir=runs/digits --out=digits.keras
    sid2-export --workdir=runs/digits --step=20000 --out=digits.keras

The file holds what the checkpoint does: weights, averages, optimizer, step. A sharded checkpoint is read on jax, onto
one device: with JAX_PLATFORMS=cpu that is the machine's memory. A portable one is copied, once its digest is right.
"""

import pathlib
import shutil
import sys

from absl import flags

from keras_sid2.bin.common import check_writable, run_program
from keras_sid2.bin.preset_flags import read_config
from keras_sid2.checkpoints import (
    MODEL,
    PORTABLE,
    checkpoint_format,
    checkpoint_path,
    checkpoint_step,
    checkpoints,
    fault,
    load_model,
    newest_sound,
)
from keras_sid2.io.atomic import atomic_write


def define(values: flags.FlagValues = flags.FLAGS):
    """Defines the program's flags."""
    add = {"flag_values": values}
    flags.DEFINE_string("workdir", None, "work directory of sid2-train", **add)
    flags.DEFINE_integer("step", None, "of the checkpoint; that of the newest sound one if not given", **add)
    flags.DEFINE_string("out", None, "path of the .keras file", **add)
    flags.DEFINE_string("config", None, "the --config file of sid2-train that defines the network's class", **add)
    flags.DEFINE_bool("overwrite", False, "write over a file that is there", **add)


def export(values: flags.FlagValues) -> str:
    """Writes the file; a sentence that says what it holds. ValueError or FileNotFoundError if that cannot be."""
    if not values.workdir or not values.out:
        raise ValueError("Give --workdir, and --out for the file.")
    out = pathlib.Path(values.out)
    if out.suffix != ".keras":
        raise ValueError(f"--out must end in .keras, got {values.out!r}.")
    if out.is_dir() or any(parent.is_file() for parent in out.parents):
        raise ValueError(f"--out must be a file in a folder, got {values.out!r}, where there is a folder or no folder.")
    if out.exists() and not values.overwrite:
        raise ValueError(f"--out={out} is there already: give another, or --overwrite.")
    if values.config:
        read_config(values.config)
    path = _checkpoint(pathlib.Path(values.workdir) / "checkpoints", values.step)
    check_writable(values.out)
    _write(path, out)
    return f"{out} is the checkpoint {path.name} of {values.workdir}."


def _checkpoint(folder: pathlib.Path, step: int | None) -> pathlib.Path:
    there = [checkpoint_step(path) for path in checkpoints(folder)]
    if not there:
        raise FileNotFoundError(f"{folder} holds no checkpoints: train there with sid2-train.")
    if step is None:
        path = newest_sound(folder, lambda sentence: print(sentence, file=sys.stderr), set_aside=False)
        if path is None:
            raise ValueError(f"No checkpoint in {folder} is sound.")
        return path
    if step not in there:
        raise ValueError(f"{folder} has no checkpoint of --step={step}; it has {', '.join(map(str, there))}.")
    path = checkpoint_path(folder, step)
    if found := fault(path):
        raise ValueError(f"{path} is not sound: {found}.")
    return path


def _write(path: pathlib.Path, out: pathlib.Path):
    with atomic_write(out) as temporary:
        if checkpoint_format(path) == PORTABLE:
            shutil.copyfile(path / MODEL, temporary)
        else:
            load_model(path).save(temporary)


def run():
    """The console program."""
    define()
    run_program(lambda _: print(export(flags.FLAGS)), "sid2-export")


if __name__ == "__main__":
    run()
