"""What the programs share: errors as one line, progress on a terminal and in a log file."""

import contextlib
import errno
import os
import pathlib
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta

from absl import app, flags, logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import pipelines
from keras_sid2.bin import signals

# What a user can mend by reading one sentence; anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (ValueError, OSError, FloatingPointError, ImportError)
_WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_LINES = 20  # that a sampling program prints, at most, where it has no terminal


def run_program(main: Callable[[list[str]], int | None], usage: str, *, looks: bool = False):
    """Runs an absl program; wrong input ends it with one line on stderr and exit code 2, a failure with 1.

    --help shows the docstring and the flags of the module of `main`. Ctrl-C ends it with 130. With `looks` it and
    SIGTERM (143) wait until the program calls `signals.look()`.
    """

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # tensorflow-datasets tells of every file it opens
        if looks:
            signals.wait_for_a_look()
        _expand_home()
        try:
            if len(argv) > 1:
                raise ValueError(f"{usage} takes flags only, got {' '.join(map(repr, argv[1:]))}.")
            return main(argv) or 0
        except _USER_ERRORS as error:
            return tell(error, usage)
        except KeyboardInterrupt as error:
            print(f"{usage}: interrupted.", file=sys.stderr)
            return signals.exit_code(error)

    def parsed(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            print(f"{usage}: {str(error).splitlines()[0]}; --help lists the flags.", file=sys.stderr)
            sys.exit(2)
        except SystemExit:  # of --help, with 1
            sys.exit(0)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    for flag in flags.FLAGS.get_key_flags_for_module(main.__module__):  # an installed program is a module without any
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    about = sys.modules[main.__module__].__doc__  # absl shows that of __main__, with % for the program's name
    sys.modules["__main__"].__doc__ = about.replace("%", "%%")
    app.run(guarded, flags_parser=parsed)


def _expand_home():
    """~ in the value of a flag is the user's home, which shells leave alone behind a =."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if isinstance(flag.value, str) and flag.value.startswith("~"):
            flag.value = os.path.expanduser(flag.value)


def tell(error: Exception, usage: str) -> int:
    """Prints what went wrong, one line where a user can mend it; the exit code."""
    if not isinstance(error, _USER_ERRORS):
        traceback.print_exception(error)
        return 1
    told = error.strerror if isinstance(error, OSError) and not error.filename and error.strerror else error
    print(f"{usage}: {told}", file=sys.stderr)
    return 1 if _is_failure(error) else 2


def _is_failure(error: Exception) -> bool:
    """Whether something went wrong on the way (a NaN, bad data, a full disk), and not in what was asked for."""
    if isinstance(error, OSError):
        return not isinstance(error, _WRONG_PATHS)
    return isinstance(error, (FloatingPointError, pipelines.BadRecord))


class ProgressLine:
    """A bar with a text behind it on a terminal; elsewhere one line each time the text changes."""

    def __init__(self, console: Console, title: str, total: int):
        self._console, self._title, self._total = console, title, total
        self._bar = Progress(
            TextColumn(title),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, text="")

    def advance_to(self, done: int):
        self._bar.update(self._task, completed=done)

    def say(self, done: int, text: str):
        self._bar.update(self._task, completed=done, text=text)
        if not self._console.is_terminal:
            self._console.print(f"{self._title} {done}/{self._total}  {text}", highlight=False, soft_wrap=True)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()


class SamplingProgress(ProgressLine):
    """How many images of all are drawn, how fast, and how long it will take: where no terminal is, in up to 20 lines.

    `start` of them were there before. A signal may end the program at its beginning and at each report.
    """

    def __init__(self, console: Console, images: int, start: int = 0, title: str = "images"):
        super().__init__(console, title, images)
        self._seen = None  # (seconds, images) at the first report: what comes before it is compiling
        self._lines = min(_LINES, images)
        self._mark = self._lines * start // images
        self.advance_to(start)

    def __enter__(self):
        signals.look()
        return super().__enter__()

    def part(self, first: int, count: int) -> Callable[[int, int], None]:
        """The `progress` argument for images first <= i < first + count."""
        return lambda done, total: self._report(first + count * done / total)

    def _report(self, done: float):
        now, mark = time.perf_counter(), int(self._lines * done / self._total)
        self._seen = self._seen or (now, done)
        if self._console.is_terminal or mark > self._mark:
            self._mark = mark
            self.say(int(done), self._speed(now, done))
        signals.look()

    def _speed(self, now: float, done: float) -> str:
        seconds, images = now - self._seen[0], done - self._seen[1]
        if not seconds or not images:
            return ""
        rate, left = images / seconds, round((self._total - done) * seconds / images)
        speed = f"{rate:.0f} images/s" if rate >= 100 else f"{rate:.3g} images/s"
        return speed if self._console.is_terminal else f"{speed}, {timedelta(seconds=left)} left"


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


def make_folder(flag: str, folder: str | os.PathLike):
    """Makes a folder that a flag names; ValueError, in one sentence, unless files can be written there."""
    with _one_sentence(flag, folder):
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextlib.contextmanager
def _one_sentence(flag: str, folder: str | os.PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"--{flag}={folder} cannot be made or written in: {error.strerror}.") from error


def check_writable(out: str, *folders: pathlib.Path):
    """ValueError, in one sentence, unless files can be made beside --out, whose folder is made, and in `folders`."""
    try:
        pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
        for folder in (pathlib.Path(out).parent, *folders):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"--out={out} cannot be written: {error.strerror}.") from error
