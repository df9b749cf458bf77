"""Changes to a preset by paths, as a shell says them: "objective.weighting.bias=-2", "network.levels.0.channels=64"."""

import ast
import dataclasses
import difflib
import inspect
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence

from keras_sid2.channels import Channels
from keras_sid2.diffusion import Guidance
from keras_sid2.models import ResidualUViT
from keras_sid2.models.level import as_levels
from keras_sid2.training.preset import DATA_OPTIONS, Preset

Path = tuple[str, ...]


def overridden(preset: Preset, changes: Iterable[str]) -> Preset:
    """`preset` with each "path=value" of `changes`; a value is a literal of Python's, or else a text.

    All changes of one object are made at once. Raises ValueError, in one sentence: for what is no path=value; for a
    path that there is not, with those that are like it; and whatever constructors say of values that are wrong.
    """
    texts = {}
    for change in changes:
        path, equals, text = change.partition("=")
        path = tuple(key.strip() for key in path.split("."))
        if not equals or not all(path):
            raise ValueError(f"--set takes path=value, as recipe.learning_rate=3e-4, got {change!r}.")
        texts[path] = text.strip()
    if not texts:
        return preset
    changed = _Places(preset).changed(preset, texts)
    changed.conditions  # noqa: B018 - the network's own constructor looks at its arguments
    return changed


class _Places:
    """What can be set in a preset: fields of dataclasses, keys of dicts, places in lists."""

    def __init__(self, preset: Preset):
        self._preset = preset

    def changed(self, value, texts: Mapping[Path, str], path: Path = ()):
        """`value`, which is at `path`, with the changes of `texts`, whose paths begin there."""
        if () in texts:
            if inner := next(filter(None, texts), None):
                raise ValueError(
                    f"--set {'.'.join(path)}=... replaces {'.'.join(path + inner)}, too: give one of them."
                )
            return self._parsed(texts[()], value, path)
        value = Guidance() if path == ("guidance",) and value is None else value
        new_channels = path == ("channels",) and value is None
        inside, parts = dict.fromkeys(("names", "mean", "std")) if new_channels else self._inside(value, path), {}
        for inner in texts:
            name = inner[0]
            if name not in inside:
                raise ValueError(self._unknown(path + inner, path, inside))
            below = {other[1:]: text for other, text in texts.items() if other[0] == name}
            parts[name] = parts[name] if name in parts else self.changed(inside[name], below, (*path, name))
        found = Channels(**{**inside, **parts}) if new_channels else _rebuilt(value, inside, parts, path)
        for name, new in parts.items():  # behind the constructor, which has the better sentence
            kinds = [_kind(inside[name]), _kind(new)]
            if kinds in (["a number", "a text"], ["True or False", "a number"], ["True or False", "a text"]):
                raise ValueError(f"{'.'.join((*path, name))} must be {kinds[0]}, got {new!r}.")
        return found

    def _inside(self, value, path: Path) -> dict:
        """What `value` consists of, by name; {} of what has no parts."""
        if path == ("network",):
            of_residual_uvit = issubclass(self._preset.network_class, ResidualUViT) and "levels" in value
            given = {**value, "levels": as_levels(value["levels"])} if of_residual_uvit else value
            return {**_arguments(self._preset.network_class), **given}
        if path == ("data",):
            return {**DATA_OPTIONS, **value}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return {str(i): part for i, part in enumerate(value)}
        return dict(value) if isinstance(value, Mapping) else {}

    def _all(self, value, path: Path = ()) -> Iterator[str]:
        for name, part in self._inside(value, path).items():
            yield ".".join((*path, name))
            yield from self._all(part, (*path, name))

    def _unknown(self, asked: Path, path: Path, inside: Mapping) -> str:
        every, text = list(self._all(self._preset)), ".".join(asked)
        found = difflib.get_close_matches(text, every, n=2, cutoff=0.75)
        found = found or [one for one in every if one.rpartition(".")[2] == asked[-1]][:2]
        place = ".".join(path) or "a preset"
        told = f"did you mean {' or '.join(found)}?" if found else f"{place} has {', '.join(inside)}."
        return f"There is nothing at {text} to set: {told}"

    def _parsed(self, text: str, value, path: Path):
        """What a text says, for the place of `value`."""
        if isinstance(value, str):
            return text
        try:
            new = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            new = text
        if dataclasses.is_dataclass(value) and not (path in (("guidance",), ("channels",)) and new is None):
            inner = ", ".join(".".join((*path, name)) for name in self._inside(value, path))
            place = ".".join(path)
            raise ValueError(f"{place} is {type(value).__name__}(...): set {inner}, or write a --config file.")
        return new


def _rebuilt(value, inside: Mapping, parts: Mapping, path: Path):
    if isinstance(value, Mapping):
        return {**value, **parts}
    if not dataclasses.is_dataclass(value):
        return tuple({**inside, **parts}.values())
    try:
        return dataclasses.replace(value, **parts)
    except TypeError as error:
        told = ", ".join(f"{'.'.join((*path, name))}={part!r}" for name, part in parts.items())
        raise ValueError(f"{type(value).__name__} does not take {told}: {error}.") from error


def _kind(value) -> str | None:
    if isinstance(value, bool):
        return "True or False"
    return "a number" if isinstance(value, numbers.Real) else "a text" if isinstance(value, str) else None


def _arguments(network_class: type) -> dict:
    """The constructor's arguments with their defaults, None where they have none."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = (p for p in inspect.signature(network_class).parameters.values() if p.kind in named)
    return {p.name: None if p.default is p.empty else p.default for p in found}
