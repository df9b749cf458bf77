"""Frozen layers: `trainable` of the layers inside a network, which Keras's configurations do not keep.

A layer is named by the attributes that lead to it, as level0_down_blocks/0/conv1: its own name and its path may be
others when the network is made again.
"""

from collections.abc import Iterable, Iterator

import keras


def frozen(network) -> list[str]:
    """The layers that are frozen, outer ones first, and variables that are frozen in a layer that is not."""
    found = []
    for name, layer in layers_of(network):
        if not layer.trainable:
            found.append(name)
        else:
            found += [f"{name}:{i}" for i, v in enumerate(layer._trainable_variables) if not v.trainable]
    return found


def freeze(network, names: Iterable[str]):
    """Freezes these and no others; from the outside in, as a layer hands on to those inside it what it is told."""
    names = set(names)
    for name, layer in layers_of(network):
        if layer.trainable == (name in names):
            layer.trainable = name not in names
        for i, variable in enumerate(layer._trainable_variables):
            if f"{name}:{i}" in names:
                variable.trainable = False


def layers_of(value, name: str = "", seen: set | None = None) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(name, layer) of a layer and all inside it, each once, outer ones first; of containers, what is in them."""
    seen, parts = set() if seen is None else seen, ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list | tuple):
        parts = enumerate(value)
    elif isinstance(value, keras.layers.Layer) and id(value) not in seen:
        seen.add(id(value))
        yield name, value
        names = (key for key in dir(value) if not key.startswith("_"))  # torch keeps some where vars() does not look
        parts = [(k, getattr(value, k)) for k in names if not isinstance(getattr(type(value), k, None), property)]
    for key, part in parts:
        yield from layers_of(part, f"{name}/{key}", seen)
