"""Names of version 0.3, which work with a DeprecationWarning until the release after this one."""

import functools
import sys
import warnings
from collections.abc import Callable

RECORDED = {"figures": "metrics", "grid": "noise_levels", "weaker": "guidance_network"}  # in JSON files, then and now


def names(module: str, **now: str) -> Callable[[str], object]:
    """The `__getattr__` of a module in which names were changed: old="new"."""

    def __getattr__(name: str):
        if name not in now:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{now[name]}")
        return getattr(sys.modules[module], now[name])

    return __getattr__


def arguments(**now: str) -> Callable:
    """Decorates a function of which keyword arguments were renamed: old="new"."""

    def decorated(function: Callable) -> Callable:
        @functools.wraps(function)
        def called(*given, **options):
            for old in now.keys() & options.keys():
                if now[old] in options:
                    raise TypeError(f"{old}= is the old name of {now[old]}=: give {now[old]}= alone.")
                _warn(f"{old}=", f"{now[old]}=")
                options[now[old]] = options.pop(old)
            return function(*given, **options)

        return called

    return decorated


def recorded(values: dict) -> dict:
    """What a JSON file says, with the keys that are used now."""
    return {RECORDED.get(key, key): value for key, value in values.items()}


def _warn(old: str, new: str):
    """Of the line outside this library that says it, as Python shows such warnings for the user's own lines only."""
    frame, level = sys._getframe(2), 3
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith("keras_sid2."):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{old} is called {new} now; the old name goes with the next release.", DeprecationWarning, level)
