"""Which arrays of a block XLA keeps for the backward pass, on each kind of device.

That is the compiler's choice, so these are readings and no theory. For CPU (jax 0.10) the arrays were counted that its
buffer assignment has alive at the peak, one by one, in networks of both kinds of blocks. For TPU (v5p, libtpu 0.0.42)
what one block more adds to the temporary memory was divided into arrays, from few networks.
"""

import dataclasses
from collections.abc import Mapping

FLOAT32 = 4
COMPUTE_BYTES = {"float32": FLOAT32, "mixed_bfloat16": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
    """Numbers of arrays that a block of one kind keeps; [N, C] where nothing else is said.

    Args:
        stream: whole on every device of a mesh's model axis.
        inner: split over the model axis, as all that follow but rows and left.
        spread: inner ones that take the place of two of stream where the model axis is over 2; 0 where they do not.
        narrow: inner ones that are of the compute type on every platform.
        dropout: more, where the block drops; on a model axis the bits are drawn again instead.
        outer_norms, inner_norms: more, where the norms of the stream, of the inside, have large statistics.
        attention: arrays [heads, N, N], float32.
        large_attention: more of these where the softmax has large statistics; and one for all blocks of the level.
        rows: stream arrays, float32, whose last axis is the image's width, which a TPU pads to 128.
        rows_work: rows in use while the block runs backwards.
        work, attention_work: in use while the block runs backwards, [N, C] and [heads, N, N].
        left: stream arrays that stay behind it until the weights are updated.
    """

    stream: float
    inner: float
    spread: float = 0.0
    narrow: float = 0.0
    dropout: float = 0.0
    outer_norms: float = 0.0
    inner_norms: float = 0.0
    attention: float = 0.0
    large_attention: float = 0.0
    rows: float = 0.0
    rows_work: float = 0.0
    work: float = 0.0
    attention_work: float = 0.0
    left: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Platform:
    """What XLA does on one kind of device.

    Args:
        res, transformer: what each kind of block keeps.
        bytes_of: of a number in its arrays, by precision: XLA for CPU widens bfloat16 but for the narrow ones.
        honours_remat: XLA for CPU removes the barriers that keep a recomputation late, so nothing is saved there.
        transposes_kernels: whether those of convolutions lie there transposed too.
    """

    res: Kept
    transformer: Kept
    bytes_of: Mapping[str, int]
    honours_remat: bool
    transposes_kernels: bool


PLATFORMS = {
    "cpu": Platform(
        # the sum, conv1's input and the same transposed; conv1 without and with bias, norm2, conv2's input twice
        res=Kept(stream=3, inner=5, spread=3, dropout=2, outer_norms=2, inner_norms=2, work=2),
        # the second sum, the first norm; the first sum, what is left of both norms, 4 hidden arrays of 4 C, q, k, v,
        # three for each norm of q and k, the output of attention; the logits and what the softmax made of them
        transformer=Kept(
            stream=2,
            inner=18,
            narrow=14,
            dropout=8,
            outer_norms=4,
            inner_norms=4,
            attention=2,
            large_attention=1,
            attention_work=1,
            left=4,
        ),
        bytes_of={"float32": 4, "mixed_bfloat16": 4},
        honours_remat=False,
        transposes_kernels=True,
    ),
    "tpu": Platform(
        res=Kept(stream=1, inner=1, rows=2, rows_work=1),
        transformer=Kept(stream=4, inner=12, attention=2),
        bytes_of=COMPUTE_BYTES,
        honours_remat=True,
        transposes_kernels=False,
    ),
}
