"""Frozen layers: `trainable` of the layers inside a network, which Keras's configurations do not keep.

A layer is named by the attributes that lead to it, as in Keras's files: level0_down_blocks/0/conv1. Its own name and
its path may be others when the network is made again.
"""

from collections.abc import Iterable, Iterator

import keras


def frozen(network) -> list[str]:
    """The layers that are frozen, outer ones first, and variables that are frozen in a layer that is not."""
    found = []
    for name, layer in _layers(network):
        if not layer.trainable:
            found.append(name)
        found += [
            f"{name}:{i}" for i, v in enumerate(layer._trainable_variables) if layer.trainable and not v.trainable
        ]
    return found


def freeze(network, names: Iterable[str]):
    """Freezes these and no others; from the outside in, as a layer hands on to those inside it what it is told."""
    names = set(names)
    for name, layer in _layers(network):
        if layer.trainable == (name in names):
            layer.trainable = name not in names
        for i, variable in enumerate(layer._trainable_variables):
            if f"{name}:{i}" in names:
                variable.trainable = False


def check_trainable(optimizer, variables: Iterable, *, when: str):
    """ValueError unless these are the variables that `optimizer` was built for, if it was."""
    if optimizer.built and [id(v) for v in optimizer._trainable_variables] != [id(v) for v in variables]:
        raise ValueError(when)


def _layers(layer, name: str = "", seen: set | None = None) -> Iterator[tuple[str, keras.layers.Layer]]:
    """(name, layer) of a layer and all inside it, each once, outer ones first."""
    seen = set() if seen is None else seen
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield name, layer
    for attribute in dir(layer):  # torch keeps some of them where vars() does not look
        if not attribute.startswith("_") and not isinstance(getattr(type(layer), attribute, None), property):
            yield from _layers_of(getattr(layer, attribute), f"{name}/{attribute}", seen)


def _layers_of(value, name: str, seen: set) -> Iterator[tuple[str, keras.layers.Layer]]:
    if isinstance(value, keras.layers.Layer):
        yield from _layers(value, name, seen)
    elif isinstance(value, dict | list | tuple):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _layers_of(part, f"{name}/{key}", seen)
