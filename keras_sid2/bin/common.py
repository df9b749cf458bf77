"""What the programs share: errors as one line, progress on a terminal and in a log file."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import pipelines

# What a user can mend by reading one sentence; anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, ImportError, NotADirectoryError)


def run_program(main: Callable[[list[str]], int | None], usage: str):
    """Runs an absl program; wrong input ends it with one line on stderr and exit code 2, a NaN or bad data with 1."""

    def guarded(argv: list[str]) -> int:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # tensorflow-datasets tells of every file it opens
        try:
            if len(argv) > 1:
                raise ValueError(f"{usage} takes flags only, got {' '.join(map(repr, argv[1:]))}.")
            return main(argv) or 0
        except _USER_ERRORS as error:
            print(f"{usage}: {error}", file=sys.stderr)
            return 1 if isinstance(error, (FloatingPointError, pipelines.BadRecord)) else 2
        except KeyboardInterrupt:
            print(f"{usage}: interrupted.", file=sys.stderr)
            return 130

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    app.run(guarded)


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


@contextlib.contextmanager
def sampling_progress(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """A `progress` argument for `SiD2Model.generate`: network steps done of all."""
    lines: list[ProgressLine] = []
    with contextlib.ExitStack() as stack:

        def progress(done: int, total: int):
            if not lines:
                lines.append(stack.enter_context(ProgressLine(console, title, total)))
            lines[0].advance_to(done)

        yield progress
