"""Prepares data sets as TFRecord shards.

    sid2-data list                              the data sets that can be prepared
    sid2-data prepare NAME [--data_dir=DIR]     writes one into DIR (default: the directory that tfds uses)

The same as `python -m pipelines ...`. Exit code 2: the command line is wrong; 1: the work failed.
"""

import os
import sys
from collections.abc import Callable

from absl import app, flags

from pipelines.datasets import ENTRIES, dataset_names
from pipelines.preparing import prepare

# Flags of this program alone: several programs of the project may be imported into one process.
FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", None, "directory for prepared data sets", flag_values=FLAGS)
flags.DEFINE_boolean("help", False, "show this help", flag_values=FLAGS)


def _list(*arguments: str) -> None:
    _expect(arguments, "list")
    for name in dataset_names():
        print(f"{name:16s}{ENTRIES[name].summary}")


def _prepare(*arguments: str) -> None:
    _expect(arguments, "prepare", "NAME")
    print(prepare(arguments[0], FLAGS.data_dir))


COMMANDS: dict[str, Callable[..., None]] = {"list": _list, "prepare": _prepare}


def _expect(arguments: tuple[str, ...], command: str, *names: str) -> None:
    if len(arguments) != len(names):
        usage = " ".join(["sid2-data", command, *names])
        given = f"{len(arguments)}: {' '.join(arguments)}" if arguments else "none"
        raise ValueError(
            f"{command} takes {len(names) or 'no'} argument{'s' * (len(names) != 1)} ({usage}), got {given}"
        )


def _main(argv: list[str]) -> None:
    if FLAGS.help:
        print(__doc__)
        return
    known = ", ".join(COMMANDS)
    if len(argv) < 2:
        raise ValueError(f"a command is missing: known are {known} (sid2-data --help)")
    if argv[1] not in COMMANDS:
        raise ValueError(f"unknown command {argv[1]!r}: known are {known} (sid2-data --help)")
    COMMANDS[argv[1]](*argv[2:])


def _guarded(argv: list[str]) -> int:
    """Runs the program; what is the user's to mend ends in one line and not in a stack trace."""
    try:
        _main(argv)
        return 0
    except (
        ValueError,
        OSError,
        ImportError,
    ) as error:  # not app.UsageError: absl prints the whole help before it
        print(f"sid2-data: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _parse(argv: list[str]) -> list[str]:
    flags.FLAGS(argv[:1])  # absl wants its own flags parsed too
    try:
        return FLAGS(argv)
    except flags.Error as error:
        print(f"sid2-data: {error} (sid2-data --help)", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Entry point of the console program `sid2-data`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before tensorflow is imported
    app.run(_guarded, flags_parser=_parse)


if __name__ == "__main__":
    run()
