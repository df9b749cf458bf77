"""Signals that ask a program to end, SIGINT (Ctrl-C) and SIGTERM: the first one waits for a good moment.

Ctrl-C's own exception may come up inside a function that TensorFlow traces or a C library calls, which make something
else of it. So the handler here only notes the signal, and the program looks for it between two pieces of work.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it
_came: int | None = None  # a process has one handler for each signal, and so one memory of it


class Interrupted(KeyboardInterrupt):
    """The signal `number` came, and this is a good moment to end."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


def exit_code(error: KeyboardInterrupt) -> int:
    """As shells have it: 130 after SIGINT, 143 after SIGTERM."""
    return 128 + getattr(error, "number", signal.SIGINT)


def end_at_once(usage: str):
    """From now on a signal ends the process, with a line: for where nothing is being written."""
    _install(f"{usage}: interrupted.", lambda number: os._exit(128 + number))


def wait_for_a_look():
    """From now on, to the end of the process, the first signal waits until `look` is called."""

    def note(number: int):
        global _came
        _came = number

    _install("Stopping when this step is done, or loading, or compiling; again to end at once.", note)


def look(*_):
    """Raises Interrupted if a signal waits, where `wait_for_a_look` was called. May be a progress function."""
    if _came is not None:
        raise Interrupted(_came)


def looking_between(items: Iterable) -> Iterator:
    """The same items, with a look before each."""
    for item in items:
        look()
        yield item


@contextlib.contextmanager
def first_one_told(sentence: str, tell: Callable[[int], None]) -> Iterator[None]:
    """Within it the first signal prints `sentence` and calls `tell` with its number; the second ends the process."""
    previous = _install(sentence, tell)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _install(sentence: str, tell: Callable[[int], None]) -> dict:
    """Both handlers; returns those that were there."""
    came = []

    def handler(number, _):
        came.append(number)  # before anything else: the second one may come within this call
        again = len(came) > 1
        text = (_SHOW_CURSOR if os.isatty(2) else "") if again else f"{sentence}\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())  # past Python's buffers: the signal may have come in the midst of a print
        if again:
            os._exit(128 + number)
        tell(number)

    return {number: signal.signal(number, handler) for number in _SIGNALS}
