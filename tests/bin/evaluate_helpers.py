"""sid2-evaluate without a process of its own, and what it measures."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from absl import flags
from training_helpers import fit_steps, stripes, tiny_model

from keras_sid2.bin import evaluate as program
from keras_sid2.bin.flag_table import define
from keras_sid2.checkpoints import save_checkpoint
from keras_sid2.io.image_files import write_npz, write_pngs

OWN_FEATURES = """
import numpy as np
from keras_sid2.evaluation import Features
def ill():
    return Features(name="ill", digest="1", rule="none", extract=lambda x: np.where(x[:, :1, 0, 0] > 30, np.nan, 1.0))
def rows():
    return Features(name="rows", digest="1", rule="mean of rows", extract=lambda x: x.mean(axis=(2, 3)) / 255.0)
"""


def evaluate(folder, *texts) -> int:
    """The program without a process of its own; its exit status."""
    values = flags.FlagValues()
    define(program.EvaluateFlags, values)
    values(["sid2-evaluate", f"--cache={folder / 'cache'}", *texts])
    return program.main(values)


@contextlib.contextmanager
def filled(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The folder with a trained model's work directory, images, features of one's own; Python looks there too."""
    model = tiny_model()
    fit_steps(model, epochs=3)
    save_checkpoint(model, folder / "run" / "checkpoints", keep=1)
    images, labels = stripes(256)
    write_npz(folder / "real.npz", images[:200], labels[:200])
    write_npz(folder / "drawn.npz", images[100:250])
    write_npz(folder / "few.npz", images[:3])
    write_npz(folder / "large.npz", np.zeros((30, 8, 8, 3), "uint8"))
    write_pngs(folder / "pngs", images[:2])
    np.savez(folder / "wrong.npz", images=images)
    (folder / "own_features.py").write_text(OWN_FEATURES)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
