"""What Pillow warns of while it opens a file, for the report: counted by kind, and not printed once a file."""

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator

_HEARD = threading.local()
_LOCK = threading.Lock()
_depth = 0
_catching: warnings.catch_warnings | None = None


@contextlib.contextmanager
def heard_from_pillow() -> Iterator[list[str]]:
    """Fills a list with phrases for the report, one for each kind of warning of Pillow's in this thread."""
    heard: list[str] = []
    before, _HEARD.into = getattr(_HEARD, "into", None), heard
    _enter()
    try:
        yield heard
    finally:
        _leave()
        _HEARD.into = before


def _enter() -> None:
    """Python keeps one list of filters for all threads: the first one changes it, the last one restores it."""
    global _depth, _catching
    with _LOCK:
        _depth += 1
        if _depth > 1:
            return
        _catching = warnings.catch_warnings()
        _catching.__enter__()
        warnings.filterwarnings("always", module=r"PIL\.")
        shown = warnings.showwarning

        def hear(message, category, filename, lineno, file=None, line=None) -> None:
            into = getattr(_HEARD, "into", None)
            if into is None or "PIL" not in filename.replace("\\", "/").split("/"):
                shown(message, category, filename, lineno, file, line)
            elif (kind := _kind(str(message), category)) not in into:
                into.append(kind)

        warnings.showwarning = hear


def _leave() -> None:
    global _depth, _catching
    with _LOCK:
        _depth -= 1
        if not _depth:
            _catching.__exit__(None, None, None)
            _catching = None


def _kind(message: str, category: type[Warning]) -> str:
    """One phrase for all files that Pillow says the same of."""
    from PIL import Image

    if issubclass(category, Image.DecompressionBombWarning):
        return f"of more than {Image.MAX_IMAGE_PIXELS} pixels"
    return "Pillow warned: " + re.sub(r"\d+", "N", " ".join(message.split()))
