"""The flags of each program, sid2-NAME's in NAME.py as the dataclass NameFlags.

They lie apart from what the programs do because flags are looked at before Keras is imported (bin/command_line.py). So
nothing here imports the library; what it settles, too, is repeated, and tests/bin/test_command_line.py compares.
"""

import importlib
import importlib.util


def table_of(name: str) -> type | None:
    """That of a program, "train" for sid2-train; None for one that has none here."""
    if not name.isidentifier() or importlib.util.find_spec(f"{__name__}.{name}") is None:
        return None
    return getattr(importlib.import_module(f"{__name__}.{name}"), f"{name.capitalize()}Flags", None)
