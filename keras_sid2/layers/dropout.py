"""Dropout by counter: whether an element is dropped is a function of (its example's key, its place in the example).

    (1) word(key, i) = mix(mix(i + key_0) XOR key_1)      int32, for i = 0, 1, ... of half the example's elements
    (2) an element is dropped where its 16 bits of a word are below round(65536 rate)

`mix` is the integer hash lowbias32 of C. Wellons' hash prospector. It is a tenth of Threefry's work: dropout needs bits
that are even and independent of each other, not more. So a mask is the same on every backend, on any mesh, in any
microbatch and beside any other examples; and no value travels to the host, as keras.random's seeds do on torch.
"""

import math

from keras import ops

from keras_sid2 import backend, threefry

_LEVELS = 2**16
_FACTORS = (0x21F0AAAD, 0xD35A2D97 - 2**32)  # as int32, whose products wrap on every backend


def _mix(x):
    x = ops.bitwise_xor(x, backend.unsigned_shift(x, 16)) * _FACTORS[0]
    x = ops.bitwise_xor(x, backend.unsigned_shift(x, 15)) * _FACTORS[1]
    return ops.bitwise_xor(x, backend.unsigned_shift(x, 15))


def quantised(rate: float) -> float:
    """The probability with which an element is dropped: `rate` to the next multiple of 2^-16, neither 0 nor 1."""
    return min(max(round(rate * _LEVELS), 1), _LEVELS - 1) / _LEVELS if rate else 0.0


def example_keys(seed, batch):
    """int32 [B, 2] of `seed`, a key for each example [B, 2], or one key [2] that is folded with their numbers."""
    return threefry.fold_in(seed, ops.arange(batch)) if len(seed.shape) == 1 else seed


def dropped(keys, shape: tuple[int, ...], rate: float):
    """bool [B, *shape], true with probability quantised(rate), for int32 keys [B, 2]; Eq. (1) and (2).

    A word serves two places, one in each half along the first axis, which no mesh splits.
    """
    first, rest = shape[0], tuple(shape[1:])
    half = (first + 1) // 2
    counter = ops.reshape(ops.arange(half * math.prod(rest), dtype="int32"), (1, half, *rest))
    key0, key1 = (ops.reshape(keys[:, i], (-1, *(1 for _ in shape))) for i in range(2))
    words = _mix(ops.bitwise_xor(_mix(counter + key0), key1))
    mask = backend.halves_below(words, int(quantised(rate) * _LEVELS))
    return mask if first % 2 == 0 else mask[:, :first]


def dropout(h, seed, rate: float):
    """h [B, ...] with elements dropped and the others divided by 1 - quantised(rate); `seed` as of `example_keys`."""
    where = dropped(example_keys(seed, ops.shape(h)[0]), tuple(h.shape[1:]), rate)
    return backend.dropped(h, where, 1.0 / (1.0 - quantised(rate)))
