"""Counter-based random numbers that are the same on every backend: Threefry-2x32 with 20 rounds.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Word for word:

    (1) words(key, index)  = threefry2x32(key, (0, index)), threefry2x32(key, (1, index)), ...
    (2) fold_in(key, data) = threefry2x32(key, (data, index))   a key of its own for each pair
    (3) uniform = (top 24 bits + 1/2) / 2^24                    in (0, 1]
    (4) normal  = sqrt(-2 ln u1) (cos 2 pi u2, sin 2 pi u2)     Box and Muller

Why not `keras.random`: its backends have unrelated streams, it draws a batch from one seed, and on torch the seeds
s + 1 and s give the same stream one draw apart. Here noise is a function of (seed, step, example) alone.

A call costs about 120 small operations to trace, so draw much in one call: `index` serves many examples at once.
A key is an int32 tensor [..., 2]; words are int32 tensors whose sums wrap, because uint32 is not complete on torch.
"""

import math

import numpy as np
from keras import ops

from keras_sid2 import backend

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_GOLDEN = -0x61C88647  # (sqrt(5) - 1) / 2 of 2^32, as int32


def key(seed: int, stream: int = 0):
    """The key [2] of an integer seed in [0, 2^32); each `stream` of a seed, in [0, 2^32), is independent."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer in [0, 2**32), got {seed!r}.")
    return ops.convert_to_tensor(np.array([seed, stream], "uint32").view("int32"))


def _words(values):
    """int32 tensors; integers as they are."""
    return values if isinstance(values, int) else ops.cast(values, "int32")


def threefry2x32(key0, key1, x0, x1):
    """Eq. (1): two int32 words from two, under a key of two words. Shapes broadcast together."""
    return backend.fused(_cipher, key0, key1, x0, x1)


def _cipher(key0, key1, x0, x1):
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + key0, x1 + key1
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = backend.rotated(x1, bits) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + (keys[(group + 2) % 3] + (group + 1))
    return x0, x1


def fold_in(key, data, index=0):
    """Eq. (2): keys [..., 2], ... the broadcast shape of key's first axes, `data` and `index`, both integers."""
    words = threefry2x32(key[..., 0], key[..., 1], _words(data), _words(index))
    return ops.stack(words, axis=-1)


def to_uniform(words):
    """Eq. (3)."""
    return ops.cast(backend.unsigned_shift(words, 8), "float32") * 2.0**-24 + 2.0**-25


def evenly(index):
    """float32 in (0, 1] of int32 `index`: the fractions of index (sqrt(5) - 1) / 2, which cover [0, 1] evenly. Any
    stretch of them does, of any length. The product wraps in integers, so it is exact for every index."""
    return to_uniform(ops.cast(index, "int32") * _GOLDEN)


def _uniforms(key, shape: tuple[int, ...], index):
    """Two tensors [..., n] of uniform numbers, of the words of Eq. (1), enough for `shape`."""
    index = index if isinstance(index, int) else ops.expand_dims(ops.cast(index, "int32"), -1)
    numbers = ops.arange((math.prod(shape) + 1) // 2, dtype="int32")
    return map(to_uniform, threefry2x32(key[..., 0:1], key[..., 1:2], numbers, index))


def _shaped(pair, shape: tuple[int, ...]):
    """Two tensors [..., n] as one [..., *shape]."""
    values = ops.concatenate(list(pair), axis=-1)[..., : math.prod(shape)]
    return ops.reshape(values, tuple(ops.shape(values)[:-1]) + tuple(shape))


def uniform(key, shape: tuple[int, ...] = (), index=0):
    """float32 [..., *shape] in (0, 1]: a draw of `shape` for each key of [..., 2] and each integer of `index` [...]."""
    return _shaped(_uniforms(key, shape, index), shape)


def normal(key, shape: tuple[int, ...] = (), index=0):
    """float32 [..., *shape] from N(0, 1), Eq. (4), for each key of [..., 2] and each integer of `index` [...]."""
    return backend.fused(_normal, key, tuple(shape), index)


def _normal(key, shape: tuple[int, ...], index):
    first, second = _uniforms(key, shape, index)
    radius, angle = ops.sqrt(-2.0 * ops.log(first)), 2.0 * math.pi * second
    return _shaped((radius * ops.cos(angle), radius * ops.sin(angle)), shape)
