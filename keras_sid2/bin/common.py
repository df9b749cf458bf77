"""What the programs share: errors as one line, progress on a terminal and in a log file, folders, checkpoints."""

import contextlib
import errno
import functools
import importlib
import math
import os
import pathlib
import sys
import tempfile
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta

from absl import app, flags, logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

import pipelines
from keras_sid2.bin import command_line, signals
from keras_sid2.checkpoints import checkpoints, newest_sound

# What a user can mend by reading one sentence; anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
_FAILURES = (OSError, FloatingPointError, pipelines.BadRecord)  # on the way, as a full disk, a NaN, bad data
_WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # are of what was asked for

_LINES = 20  # that a sampling program prints, at most, where it has no terminal


def run_program(main: Callable[[flags.FlagValues], int | None], usage: str, table: type, *, looks: bool = False):
    """Runs an absl program with the flags of a table; `main` gives its exit code, None being 0.

    Wrong input ends it with one line on stderr and exit code 2, a failure with 1, Ctrl-C with 130. With `looks` it and
    SIGTERM (143) wait until the program calls `signals.look()`. --help shows the docstring of the module of `main`.
    """

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # tensorflow-datasets tells of every file it opens
        if looks:
            signals.wait_for_a_look()
        for name in flags.FLAGS:  # ~, which shells leave alone behind a =
            value = flags.FLAGS[name].value
            if isinstance(value, str) and value.startswith("~"):
                flags.FLAGS[name].value = os.path.expanduser(value)
            elif isinstance(value, list) and any(str(each).startswith("~") for each in value):
                flags.FLAGS[name].value = [os.path.expanduser(v) if isinstance(v, str) else v for v in value]
        try:
            command_line.check_nothing_behind(argv, usage)
            return main(flags.FLAGS) or 0
        except _USER_ERRORS as error:
            return tell(error, usage)
        except KeyboardInterrupt as error:
            print(f"{usage}: interrupted.", file=sys.stderr)
            return signals.exit_code(error)

    formatted = warnings.formatwarning
    warnings.formatwarning = lambda text, kind, *where: (  # ours are for users, who seek no line of the source
        f"{usage}: {text}\n" if kind is UserWarning else formatted(text, kind, *where)
    )
    command_line.define(usage, table, sys.modules[main.__module__].__doc__)
    app.run(guarded, flags_parser=functools.partial(command_line.read, usage=usage))


def tell(error: Exception, usage: str) -> int:
    """Prints what went wrong, one line where a user can mend it; the exit code."""
    if not isinstance(error, _USER_ERRORS):
        traceback.print_exception(error)
        return 1
    told = error.strerror if isinstance(error, OSError) and not error.filename and error.strerror else error
    print(f"{usage}: {told}", file=sys.stderr)
    on_the_way = isinstance(error, _FAILURES) and not isinstance(error, _WRONG_PATHS)
    return 1 if on_the_way else 2


def print_line(console: Console, text: str):
    """Prints a sentence, or several lines, none longer than the terminal, or COLUMNS, but for paths, which are not cut.
    A file or a pipe has no width."""
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        how = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
        text = "\n".join(textwrap.fill(line, console.width, **how) for line in text.split("\n"))
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_result(text: str):
    """The same on stdout."""
    print_line(Console(), text)


class ProgressLine(Progress):
    """A bar with a text behind it, in one line, on a terminal; elsewhere one line each time the text changes."""

    def __init__(self, console: Console, title: str, total: int, start: int = 0):
        bar = BarColumn(bar_width=40 if console.width >= 120 else 10)
        end = TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        parts = (bar, MofNCompleteColumn(), TimeRemainingColumn(), end)
        quiet = not console.is_terminal
        how = {"console": console, "disable": quiet, "speed_estimate_period": math.inf, "expand": True}
        super().__init__(TextColumn(title), *parts, **how)
        self.add_task(title, total=total, completed=start, text="")
        (self.task,) = self.tasks

    def say(self, done: float, text: str):
        self.update(self.task.id, completed=done, text=text)
        if not self.console.is_terminal:
            told = f"{self.task.description} {int(done)}/{self.task.total}  {text}"
            print_line(self.console, told)


class SamplingProgress(ProgressLine):
    """How many images of all are drawn, how fast, and how long it will take: where no terminal is, in up to 20 lines.

    `start` of them were there before. A signal may end the program at its beginning and at each report.
    """

    def __init__(self, console: Console, images: int, start: int = 0, title: str = "images"):
        super().__init__(console, title, images, start)
        self._lines = min(_LINES, images)
        self._mark = self._lines * start // images

    def __enter__(self):
        signals.look()
        entered = super().__enter__()
        self.say(self.task.completed, "compiling the sampler ...")
        return entered

    def part(self, first: int, count: int) -> Callable[[int, int], None]:
        """The `progress` argument for images first <= i < first + count."""
        return lambda done, total: self._report(first + count * done / total)

    def _report(self, done: float):
        mark = int(self._lines * done / self.task.total)
        self.update(self.task.id, completed=done)
        if self.console.is_terminal or mark > self._mark:
            self._mark = mark
            self.say(done, self._speed())
        signals.look()

    def _speed(self) -> str:
        speed = self.task.speed  # since the first report: what comes before it is compiling
        if not speed:
            return ""
        told = f"{speed:.0f} images/s" if speed >= 100 else f"{speed:.3g} images/s"
        left = timedelta(seconds=self.task.time_remaining)
        return told if self.console.is_terminal else f"{told}, {left} left"


def named(name: str):
    """What MODULE:NAME names; a module in the current folder is found, too. ImportError or AttributeError for none."""
    module, _, own = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # of a console program, which has its own folder there
        sys.path.append(here)
    return getattr(importlib.import_module(module), own)


def check_folder(flag: str, folder: str):
    """NotADirectoryError, or ValueError, if a folder that a flag names cannot be made; makes nothing yet."""
    if not folder:
        raise ValueError(f"--{flag} must name a folder, got nothing.")
    path = pathlib.Path(folder)
    with _one_sentence(flag, folder):
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not there.is_dir():
        raise NotADirectoryError(f"--{flag} must be a folder, and {there} is a file.")


def make_folders(flag: str, given: str | os.PathLike, *folders: str | os.PathLike):
    """Makes folders for what a flag names; ValueError, in one sentence, unless files can be written there."""
    with _one_sentence(flag, given):
        for folder in folders:
            os.makedirs(folder, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def _one_sentence(flag: str, given: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"--{flag}={given} cannot be written: {error.strerror}.") from error


def newest_checkpoint(flag: str, workdir: str) -> pathlib.Path:
    """The newest valid one of a work directory that a flag names, corrupt ones told; FileNotFoundError for none."""
    folder = pathlib.Path(workdir) / "checkpoints"
    found = newest_sound(folder, lambda sentence: print(sentence, file=sys.stderr), set_aside=False)
    if found is None:
        what = "valid checkpoint" if checkpoints(folder) else "checkpoints"
        raise FileNotFoundError(f"--{flag}={workdir} holds no {what}: train there with sid2-train.")
    return found
