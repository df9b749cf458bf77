"""One network from the weights of another, for finer samples, other patches, more classes or other conditions.

    what                   becomes
    patches in and out     resized, resizing.py (1), (2): for patches s times as large on images s times as fine the
                           new network does to a repeated image what the old did to the image
    positions              interpolated, (3); those of frames, too
    classes                keep their rows; new ones begin as the row of no class, which is trained where labels were
                           dropped and then what is known of an image of unknown class; elsewhere as their mean
    new conditions         begin as zeros, so that they change nothing; the attention to a text as in a new network,
                           whose output is zero
    conditions that go     are as if their null value were always given
    all else               is copied

So f'(U z, logsnr) = U f(z, logsnr), exactly where the number of positions stays and s is a whole number. Not exact:
other numbers of positions, where attention and convolutions see other neighbours; and noise, which is not repeated. Of
it the levels see means over s x s pixels, whose signal to noise ratio is that of logsnr + 2 ln s. A schedule that moves
by -2 ln s with the resolution, as the paper's does at its noisy end, so gives them at the same t the noise that they
were trained with, and tells them of more. That could be told exactly (a shift of logsnr is a rotation of its sines and
cosines), and was tried: digits of 8 x 8 learnt 16 x 16 as fast with it and without. Within an old pixel nothing is
known yet: patches in read it by random numbers, `resizing.detail_in`, so that there is something to learn from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_sid2 import backend, layers
from keras_sid2.conditions import ClassLabel, Frames, Image, TextEmbedding, conditions_of, sample_shape_of
from keras_sid2.training import resizing
from keras_sid2.training.frozen import layers_of

COPIED, RESIZED, NEW = "copied", "resized", "new"


class Entry(NamedTuple):
    """How one variable gets its value: `make` of the values of `sources`, numpy; None is a copy, or leaves it."""

    part: str
    variable: object
    what: str
    how: str = ""
    sources: Sequence = ()
    make: Callable | None = None


def plan(source, network, *, trained_null: Mapping[str, bool], seed: int = 0) -> list[Entry]:
    """What each weight of `network` becomes, both made or abstract; ValueError, in one sentence, if it cannot be.

    `trained_null` says of the source's conditions whether training dropped them; `seed` is of what is drawn.
    """
    check_shapes(sample_shape_of(source), sample_shape_of(network))
    _check_conditions(conditions_of(source), conditions_of(network))
    return _Plan(source, network, trained_null, seed).entries()


def carry_out(entries: Sequence[Entry], values: Mapping[int, object]):
    """Gives the variables their values; `values` are the sources', by their ids."""
    for entry in entries:
        if entry.make is not None:
            given = [backend.gathered(values[id(v)]).astype("float64") for v in entry.sources]
            entry.variable.assign(entry.make(*given).astype(entry.variable.dtype))
        elif entry.sources:
            entry.variable.assign(ops.copy(values[id(entry.sources[0])]))


def rows_of(entries: Sequence[Entry]) -> tuple[tuple[str, int, str, str], ...]:
    """(part, parameters, what, how) of entries that are alike, in their order, what is copied at the end."""
    found = {}
    for entry in entries:
        key = (entry.part if entry.what != COPIED else "all else", entry.what, entry.how)
        found[key] = found.get(key, 0) + math.prod(entry.variable.shape)
    rows = [(part, count, what, how) for (part, what, how), count in found.items()]
    return tuple(sorted(rows, key=lambda row: row[2] == COPIED))


def check_shapes(old: tuple[int, ...], new: tuple[int, ...]):
    """ValueError where a network for samples of one shape cannot become one for those of the other."""
    if len(new) < len(old):
        raise ValueError(
            f"A network for clips {old} cannot be adapted to images {new}: what it knows is of all frames."
        )
    if old[-1] != new[-1]:
        raise ValueError(
            f"A network for {old[-1]} channels cannot be adapted to {new[-1]}: patch layers are of pixels."
        )


def _check_conditions(old: Mapping, new: Mapping):
    for name, before in old.items():
        after = new.get(name, before)
        kinds = {type(before), type(after)}
        alike = kinds in ({ClassLabel}, {Frames}) or (kinds == {Image} and before.shape[-1] == after.shape[-1])
        if not alike and not _same_texts(kinds, before, after) and before != after:
            told = f"was {before} and cannot become {after}: a new one has another name"
            raise ValueError(f"The condition {name} {told}.")
    texts = [{name for name, c in of.items() if isinstance(c, TextEmbedding)} for of in (old, new)]
    if all(texts) and texts[0] != texts[1]:
        (before,), (after,) = texts
        raise ValueError(f"The text {before} cannot become the text {after}: give it the same name.")


def _same_texts(kinds: set, before, after) -> bool:
    """Whether a network that reads `before` can read `after`: of any number of tokens, by the same encoder, and not
    without the whitening that it learnt with. One that learnt without may get it, which then changes nothing."""
    if kinds != {TextEmbedding} or before.width != after.width or before.whitened > after.whitened:
        return False
    hashes = [text.encoder.partition("#")[2] or text.encoder for text in (before, after)]  # names have the length
    return hashes[0] == hashes[1] or "" in hashes


class _Plan:
    def __init__(self, source, network, trained_null, seed):
        self._old, self._new = dict(layers_of(source)), dict(layers_of(network))
        self._conditions = conditions_of(source), conditions_of(network)
        self._channels = sample_shape_of(network)[-1]
        self._trained_null, self._seed = trained_null, seed
        self._of_network = {id(v) for v in source.variables}

    def entries(self) -> list[Entry]:
        _check_lora(self._old)
        found, done = [], set()
        rules = {
            layers.Patchify: self._patchify,
            layers.Unpatchify: self._unpatchify,
            layers.PositionEmbedding: self._position,
            layers.ConditionEmbedding: self._embedding,
        }
        for name, layer in self._new.items():
            part, old = name.removeprefix("/"), self._old.get(name)
            if old is not None and type(old) is not type(layer):
                raise ValueError(f"{part} is a {type(old).__name__} there, and a {type(layer).__name__} here.")
            if (rule := rules.get(type(layer))) is not None and old is not None:
                entries = rule(part, old, layer)
            elif old is None and _is_of_text(name):
                what = ("whitening", "changes nothing yet") if name.endswith("whitening") else _ATTENTION
                entries = [Entry(what[0], v, NEW, what[1]) for v in _own(layer)]
            elif (crossed := self._crossed(name)) is not None:
                entries = self._with_no_text(part, old, layer, crossed)
            else:
                left = any(id(v) not in done for v in _own(layer))
                entries = self._same(part, old, layer) if left else []
            found += entries
            done |= {id(entry.variable) for entry in entries}
        used = {id(v) for entry in found for v in entry.sources}
        self._check_left(used)
        return found

    def _crossed(self, name: str):
        """The attention to a text behind the output `name` of an attention, where the new network has none."""
        block, found, _ = name.rpartition("/attention/out")
        path = f"{block}/cross_attention"
        return self._old.get(path) if found and path not in self._new else None

    def _with_no_text(self, part, old, layer, crossed) -> list[Entry]:
        """An output [C, C] with its bias, to which goes what a position sees in no text: the null value alone."""
        (kernel, bias), (new_kernel, new_bias) = _own(old), _own(layer)
        out = _own(crossed.out)

        def with_null(bias, null, kernel, of_out):
            return bias + null @ kernel + of_out

        sources = [bias, crossed.null_value, *out]
        return [
            Entry(part, new_kernel, COPIED, sources=[kernel]),
            Entry("attention", new_bias, RESIZED, "with what no text says", sources, with_null),
        ]

    def _same(self, part, old, layer) -> list[Entry]:
        """Copies of a layer's own variables."""
        return [Entry(part, new, COPIED, sources=[v]) for v, new in _pairs(part, old, layer)]

    def _check_left(self, used: set[int]):
        """ValueError where the source has layers, or weights in them, that have no place here."""
        gone = {"embedding"}  # of conditions that go
        for name, layer in self._old.items():
            lost = [v for v in _own(layer) if id(v) not in used and id(v) in self._of_network]
            if lost and name.split("/")[1:2] != [*gone] and not _is_of_text(name):
                raise ValueError(f"{name.removeprefix('/') or 'the network'} has {lost[0].name} there, and not here.")

    # -- the rules: (name, old layer, new layer) -> entries -----------------------------------------------------------

    def _patchify(self, part, old, new) -> list[Entry]:
        (before, after), channels = self._conditions, self._channels
        was, wants = (_image_channels(c, channels) for c in (before, after))
        into, patches = new.patch_size, (old.patch_size, new.patch_size)

        def make(kernel):
            kernel = resizing.patches_in(kernel, into)
            kept = {name: kernel[:, :, first:last] for name, (first, last) in was.items()}
            kept["z_t"] = resizing.detail_in(kept["z_t"], patches[0], self._seed)
            nothing = {name: np.zeros((into, into, b - a, kernel.shape[-1])) for name, (a, b) in wants.items()}
            return np.concatenate([kept.get(name, nothing[name]) for name in wants], axis=2)

        changes = [f"{patches[0]} x {patches[0]} to {into} x {into} pixels, means over them"] * (len({*patches}) > 1)
        changes += [f"{name}: zeros" for name in wants if name not in was]
        changes += [f"{name}: left out" for name in was if name not in wants]
        changes = changes or ["images in another order"] * ([*was] != [*wants])
        return self._ends(part, old, new, "; ".join(changes), make)

    def _unpatchify(self, part, old, new) -> list[Entry]:
        into, p = new.patch_size, old.patch_size
        changes = f"{p} x {p} to {into} x {into} pixels, outputs repeated" if p != into else ""
        return self._ends(part, old, new, changes, lambda kernel: resizing.patches_out(kernel, into))

    def _ends(self, part, old, new, changes: str, make) -> list[Entry]:
        """Of a patch layer: its kernel by `make` where anything changes, its bias copied."""
        (kernel, *others), (resized, *rest) = _own(old), _own(new)
        if kernel.shape[-1] != resized.shape[-1] or not changes:
            return self._same(part, old, new)
        entry = Entry(part, resized, RESIZED, changes, [kernel], make)
        return [entry, *(Entry(part, v, COPIED, sources=[o]) for o, v in zip(others, rest, strict=True))]

    def _position(self, part, old, new) -> list[Entry]:
        found = []
        for role in ("embedding", "of_frames"):
            before, after = getattr(old, role), getattr(new, role)
            if after is None:
                continue
            if before is None:
                found.append(Entry(part, after, NEW, "one for each frame, as in a new network"))
                continue
            sizes = after.shape[:2] if role == "embedding" else after.shape[:1]
            _check_equal(part, before.shape[-1:], after.shape[-1:])
            if tuple(before.shape) == tuple(after.shape):
                found.append(Entry(part, after, COPIED, sources=[before]))
                continue
            how = f"{_by(before.shape[: len(sizes)])} to {_by(sizes)}, interpolated"
            make = lambda values, sizes=sizes: resizing.interpolated(values, tuple(sizes))  # noqa: E731
            found.append(Entry(part, after, RESIZED, how, [before], make))
        return found

    def _embedding(self, part, old, new) -> list[Entry]:
        """logsnr's two layers, then a table or kernel for each condition."""
        found = self._of_logsnr(part, old, new)
        tables = {name: _table_of(new, name) for name in self._conditions[1] if _table_of(new, name) is not None}
        for name, table in tables.items():
            before, after = self._conditions[0].get(name), self._conditions[1][name]
            variable = _own(table)[0]
            if before is None:
                found.append(Entry(f"{part}: {name}", variable, NEW, "zeros", (), lambda v=variable: np.zeros(v.shape)))
                continue
            source = _own(_table_of(old, name))[0]
            if before == after or isinstance(after, TextEmbedding):
                found.append(Entry(part, variable, COPIED, sources=[source]))
            else:
                found.append(self._classes(f"{part}: {name}", source, variable, name))
        return found

    def _of_logsnr(self, part, old, new) -> list[Entry]:
        found = self._same(part, old.dense1, new.dense1) + self._same(part, old.dense2, new.dense2)
        gone = [n for n, c in self._conditions[0].items() if isinstance(c, ClassLabel) and n not in self._conditions[1]]
        if gone:
            tables = [_own(_table_of(old, name))[0] for name in gone]
            trained = [self._trained_null.get(name, True) for name in gone]

            def with_null(bias, *tables):
                return bias + sum(_unknown(t, known) for t, known in zip(tables, trained, strict=True))

            bias = found[-1]
            how = f"with the row of no class of {', '.join(gone)}"
            found[-1] = bias._replace(what=RESIZED, how=how, sources=[*bias.sources, *tables], make=with_null)
        return found

    def _classes(self, part, source, variable, name: str) -> Entry:
        trained = self._trained_null.get(name, True)
        (old, _), (new, _) = source.shape, variable.shape
        kept, begun = min(old, new) - 1, max(new - old, 0)
        how = f"{kept} classes kept"
        if begun:
            how += f", {begun} begin as {'the row of no class' if trained else 'the mean of the others'}"

        def make(rows):
            unknown = _unknown(rows, trained)[None]
            return np.concatenate([rows[:kept], unknown.repeat(begun, 0), rows[-1:] if trained else unknown])

        return Entry(part, variable, RESIZED, how, [source], make)


_ATTENTION = "attention to a text", "its output zeros"


def _is_of_text(name: str) -> bool:
    return not {"cross_attention", "cross_norm", "whitening"}.isdisjoint(name.split("/"))


def _unknown(rows: np.ndarray, trained_null: bool) -> np.ndarray:
    """What is known of an image of unknown class, of a table with the row of no class at its end."""
    return rows[-1] if trained_null else rows[:-1].mean(0)


def _table_of(embedding, name: str):
    """The layer of a condition; None of one that is not embedded."""
    if name == "label" and embedding.classes is not None:
        return embedding.classes
    return getattr(embedding, f"of_{name}", None)


def _own(layer) -> list:
    """The variables of a layer itself, and not of those in it."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _check_lora(layers_there: Mapping):
    name = next((name for name, layer in layers_there.items() if getattr(layer, "lora_enabled", False)), None)
    if name is not None:
        advice = "adapt the model before, or assign the kernels (layer.kernel is merged) to a network without"
        raise ValueError(f"{name.removeprefix('/')} has weights of enable_lora() beside its kernel: {advice}.")


def _pairs(part: str, old, new) -> list[tuple]:
    before, found = [] if old is None else _own(old), _own(new)
    if len(before) != len(found):
        lacks = found[len(before)].name if len(before) < len(found) else before[len(found)].name
        here, there = ("here", "there") if len(before) < len(found) else ("there", "here")
        raise ValueError(f"{part or 'the network'} has {lacks} {here}, and not {there}.")
    for a, b in zip(before, found, strict=True):
        _check_equal(f"{part}/{b.name}", a.shape, b.shape)
    return list(zip(before, found, strict=True))


def _check_equal(what: str, old: Sequence[int], new: Sequence[int]):
    if tuple(old) != tuple(new):
        raise ValueError(f"{what} has the shape {list(old)} there, and {list(new)} here.")


def _image_channels(conditions: Mapping, channels: int) -> dict[str, tuple[int, int]]:
    """(first, last) of the channels that patches are read of, by name; "z_t" are the sample's own."""
    found, first = {"z_t": (0, channels)}, channels
    for name, condition in conditions.items():
        if isinstance(condition, Image):
            found[name] = (first, first := first + condition.shape[-1])
        elif isinstance(condition, Frames):
            found[name] = (first, first := first + 1)  # the mark; the frames stand in z_t
    return found


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
