"""sid2-sample as a process of its own, or without one."""

import io
import sys

import numpy as np
from absl import flags
from rich.console import Console

from keras_sid2.bin import sample
from keras_sid2.bin.flag_table import define
from keras_sid2.io.image_reading import read_images

WHITE = np.full((4, 4, 1), 255, "uint8")


def command(*given: str, program: str = "sample") -> list[str]:
    """What a shell runs."""
    return [sys.executable, "-m", f"keras_sid2.bin.{program}", *map(str, given)]


def last_line(stderr: str) -> str:
    """What a program said at its end."""
    return stderr.strip().splitlines()[-1]


def parsed(*given: str) -> flags.FlagValues:
    """The program's flags."""
    values = flags.FlagValues()
    define(sample.SampleFlags, values)
    values(["sid2-sample", *given])
    return values


def draw(*given: str) -> tuple[int, str]:
    """(exit code, what was printed) of the program in this process."""
    console = Console(file=io.StringIO(), width=200)
    code = sample.main(parsed(*given), console)
    return code, console.file.getvalue()


def images_of(path) -> list:
    """The images of a file as lists."""
    return read_images(path).tolist()


def request(workdir, out, *more: str) -> tuple[str, ...]:
    """Flags of a request for 20 images in five batches, as a grid, an .npz and single PNGs."""
    how = ("--num_images=20", "--num_steps=2", "--batch_size=4", "--format=grid,npz,pngs")
    return f"--workdir={workdir}", f"--out={out}", *how, *more
