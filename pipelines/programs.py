"""sid2: the programs by one name.

    sid2 train --preset=sid2_digits --data=digits --workdir=runs/digits
    sid2 sample --help

is sid2-train, sid2-sample and so on, with the same flags. It lies here because whatever lies in keras_sid2 imports
Keras first: `sid2 --help` and `sid2 data` need none, and `sid2 train --backend=jax` says which before that.
"""

import importlib
import sys

PROGRAMS = {
    "data": ("pipelines.__main__", "prepares, looks at and verifies data sets"),
    "demo": ("keras_sid2.bin.demo", "from nothing to digits that a model drew"),
    "distill": ("keras_sid2.bin.distill", "a student of few steps from a trained model"),
    "evaluate": ("keras_sid2.bin.evaluate", "measures images beside real ones"),
    "export": ("keras_sid2.bin.export", "a checkpoint as one file, or for other runtimes"),
    "plan": ("keras_sid2.bin.plan", "memory, time and cost, before anything is bought"),
    "play": ("keras_sid2.bin.play", "a page to draw on, in the browser"),
    "sample": ("keras_sid2.bin.sample", "draws images"),
    "train": ("keras_sid2.bin.train", "trains a network on a prepared data set"),
}


def run():
    """The program that the first argument names; without one, a line about each."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print("sid2 PROGRAM --FLAGS, or sid2-PROGRAM; sid2 PROGRAM --help lists the flags\n")
        for each, (_, text) in PROGRAMS.items():
            print(f"  {each:10} {text}")
        print("\nsid2 --print_completion=bash, zsh or fish prints what completes flags in that shell.")
        return
    if name.startswith("--print_completion"):
        sys.argv = ["sid2", *sys.argv[1:]]
        importlib.import_module("keras_sid2.bin.completion")  # prints it, and ends before Keras is imported
    if name not in PROGRAMS:
        print(f"sid2: there is no program {name!r}; there are {', '.join(PROGRAMS)}.", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"sid2-{name}", *sys.argv[2:]]
    importlib.import_module(PROGRAMS[name][0]).run()


if __name__ == "__main__":
    run()
