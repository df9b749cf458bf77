"""The flags of a program as the fields of a dataclass: kind, default, help, and which values are accepted where."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, get_args

from absl import flags

REQUIRED = dataclasses.MISSING
_DEFINE = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
    list: flags.DEFINE_list,  # of commas
    tuple: flags.DEFINE_multi_string,  # given any number of times
}


class Accepted(NamedTuple):
    """The values of a flag, in words and as a check; None, where a flag has that default, is always accepted. `names`
    are all of them, where they are a few."""

    words: str
    holds: Callable[[object], bool]
    names: tuple[str, ...] = ()


IN_UNIT_INTERVAL = Accepted("in (0, 1]", lambda value: 0.0 < value <= 1.0)


def at_least(bound: int) -> Accepted:
    return Accepted(f"at least {bound}", lambda value: value >= bound)


def one_of(*names: str) -> Accepted:
    return Accepted(" or ".join(names), lambda value: value in names, names)


def flag(default, text: str, accepted: Accepted | None = None, **marks):
    """A field of a table of flags.

    Args:
        text: of --help.
        marks: `needs`, the flag without which this one does nothing, as "sweep" or "sampler=ddim"; `unless`, the flag
            beside which a REQUIRED one is not; `alias`, the name that an earlier version had; others are for the
            table's own program.
    """
    return dataclasses.field(default=default, metadata={"text": text, "accepted": accepted, **marks})


def names(table, mark: str | None = None) -> list[str]:
    """Of the flags in a table, or of those with a mark."""
    return [field.name for field in dataclasses.fields(table) if mark is None or mark in field.metadata]


def define(table: type, values: flags.FlagValues = flags.FLAGS):
    """Defines a flag for each field; a program does so when it starts, so that two can be imported into one process."""
    for field in dataclasses.fields(table):
        kind = next((kind for kind in get_args(field.type) if kind is not type(None)), field.type)
        default = None if field.default is REQUIRED else field.default
        default = list(default) if isinstance(default, tuple) else default
        _DEFINE[kind](field.name, default, field.metadata["text"], flag_values=values)
        if alias := field.metadata.get("alias"):
            flags.DEFINE_alias(alias, field.name, flag_values=values)


def check(table: type, values):
    """ValueError for flags that must be given, whose value is not accepted, or that do nothing beside the others.

    `values`: FlagValues, or an instance of the table, of which it is not known what was given.
    """
    fields = dataclasses.fields(table)
    required = [field for field in fields if field.default is REQUIRED]
    required = [f for f in required if getattr(values, f.metadata.get("unless", ""), None) is None]
    if missing := [f"--{field.name}" for field in required if not getattr(values, field.name)]:
        raise ValueError(f"{', '.join(missing)} must be given.")
    for field in fields:
        value, accepted = getattr(values, field.name), field.metadata["accepted"]
        if value is not None and accepted is not None and not accepted.holds(value):
            raise ValueError(f"--{field.name} must be {accepted.words}, got {value!r}.")
        if "needs" in field.metadata and isinstance(values, flags.FlagValues) and values[field.name].present:
            _check_needed(field.name, *field.metadata["needs"].split("="), values=values)


def _check_needed(name: str, needed: str, wanted: str | None = None, *, values: flags.FlagValues):
    given = values[needed].value
    if wanted is not None and given != wanted:
        raise ValueError(f"--{name} goes with --{needed}={wanted}, got --{needed}={given}.")
    if not given:
        raise ValueError(f"--{name} does nothing without --{needed}.")


def parsed(flag: str, texts: list[str] | None, kind: Callable, accepted: str = "numbers") -> list | None:
    """The parts of a list as `kind` makes them; None for None. ValueError for what it does not take, and for none."""
    if texts is None:
        return None
    try:
        found = [kind(text) for text in texts]
    except (ValueError, KeyError):
        found = []
    if not found:
        raise ValueError(f"--{flag} must be {accepted}, with commas between, got {','.join(texts)!r}.")
    return found
