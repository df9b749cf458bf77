"""Counter-based random numbers that are the same on every backend: Threefry-2x32 with 20 rounds.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Word for word:

    (1) bits(key, counter) = threefry2x32(key, counter)         two 32-bit words in, two out
    (2) fold_in(key, data) = threefry2x32(key, (data, 0))       a key of its own for each `data`
    (3) uniform = (top 24 bits + 1/2) / 2^24                    in (0, 1]
    (4) normal  = sqrt(-2 ln u1) (cos 2 pi u2, sin 2 pi u2)     Box and Muller

Why not `keras.random`: its three backends have three unrelated streams, it draws a whole batch from one seed (so an
image's noise depends on the batch and the mesh it is in), and on torch the seeds s + 1 and s give the same stream one
draw apart. Here noise is a function of (seed, step, example) and of nothing else, on any backend and any mesh.

A key is an int32 tensor [..., 2]; words are int32 tensors whose sums wrap, because uint32 is not complete on torch.
"""

import math

import numpy as np
from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def key(seed: int):
    """The root key [2] of an integer seed in [0, 2^63)."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise ValueError(f"seed must be an integer in [0, 2**63), got {seed!r}.")
    words = np.array([int(seed) & 0xFFFFFFFF, int(seed) >> 32], "uint32")
    return ops.convert_to_tensor(words.view("int32"))


def _rotate(x, bits: int):
    high = ops.left_shift(x, bits)
    low = ops.bitwise_and(ops.right_shift(x, 32 - bits), (1 << bits) - 1)  # int32 shifts copy the sign: mask it
    return ops.bitwise_or(high, low)


def threefry2x32(key0, key1, x0, x1):
    """Eq. (1): two int32 words from two, under a key of two words. Shapes broadcast together."""
    keys = (key0, key1, ops.bitwise_xor(ops.bitwise_xor(key0, key1), _PARITY))
    x0, x1 = x0 + key0, x1 + key1
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ops.bitwise_xor(_rotate(x1, bits), x0)
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def fold_in(key, data):
    """Eq. (2): keys of shape broadcast(key.shape[:-1], data.shape) + [2], one for each integer in `data`."""
    data = ops.cast(data, "int32")
    return ops.stack(threefry2x32(key[..., 0], key[..., 1], data, ops.zeros_like(data)), axis=-1)


def _word_pairs(key, count: int):
    """Two int32 tensors [..., count] of random words."""
    counter = ops.arange(count, dtype="int32")
    return threefry2x32(key[..., 0:1], key[..., 1:2], counter, ops.zeros_like(counter))


def _to_uniform(words):
    """Eq. (3)."""
    top = ops.bitwise_and(ops.right_shift(words, 8), 0xFFFFFF)
    return ops.cast(top, "float32") * 2.0**-24 + 2.0**-25


def uniform(key, shape: tuple[int, ...] = ()):
    """float32 [..., *shape] in (0, 1], one independent draw of `shape` for each key of [..., 2]."""
    size = math.prod(shape)
    words = ops.concatenate(_word_pairs(key, (size + 1) // 2), axis=-1)[..., :size]
    return ops.reshape(_to_uniform(words), tuple(ops.shape(key)[:-1]) + tuple(shape))


def normal(key, shape: tuple[int, ...] = ()):
    """float32 [..., *shape] from N(0, 1), one independent draw of `shape` for each key of [..., 2]; Eq. (4)."""
    size = math.prod(shape)
    first, second = (_to_uniform(words) for words in _word_pairs(key, (size + 1) // 2))
    radius, angle = ops.sqrt(-2.0 * ops.log(first)), 2.0 * math.pi * second
    values = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=-1)[..., :size]
    return ops.reshape(values, tuple(ops.shape(key)[:-1]) + tuple(shape))
