"""The Inception-v3 of the Frechet inception distance, as data: what follows what, and the shapes of its weights.

It is the graph that TensorFlow published on 2015-12-05 and that Heusel et al. (1706.08500) measured with: table 1 of
Szegedy et al. (1512.00567) with 1008 classes, and a maximum where the last block's pool is a mean everywhere else.
Names are those of torch-fidelity and pytorch-fid, whose file of weights is the one in use.
"""

from collections.abc import Iterator
from typing import NamedTuple

SIZE = 299  # height and width of the images that the network sees
CLASSES = 1008
FEATURES = 2048


class Conv(NamedTuple):
    """A convolution without bias, batch normalization, ReLU."""

    name: str
    filters: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "same"


class Pool(NamedTuple):
    """3 x 3 "max" or "mean"; neither sees the padding, so a mean at the border is one of fewer values."""

    kind: str
    stride: int = 1
    padding: str = "same"


class Parallel(NamedTuple):
    """Paths that all start from the same input; their results are joined along the channels."""

    paths: tuple[tuple, ...]

    @classmethod
    def of(cls, *paths: tuple) -> "Parallel":
        return cls(paths)


class Tap(NamedTuple):
    """The mean over all positions here is a layer that may be asked for."""

    name: str


MEAN, MAX, MAX_HALF = Pool("mean"), Pool("max"), Pool("max", 2, "valid")
_3, _5, _ROW, _COLUMN = (3, 3), (5, 5), (1, 7), (7, 1)


def _half(name: str, filters: int) -> Conv:
    return Conv(name, filters, _3, 2, "valid")


def _at_35(name: str, pooled: int) -> Parallel:
    branch = f"{name}.branch"
    return Parallel.of(
        (Conv(f"{branch}1x1", 64),),
        (Conv(f"{branch}5x5_1", 48), Conv(f"{branch}5x5_2", 64, _5)),
        (Conv(f"{branch}3x3dbl_1", 64), Conv(f"{branch}3x3dbl_2", 96, _3), Conv(f"{branch}3x3dbl_3", 96, _3)),
        (MEAN, Conv(f"{branch}_pool", pooled)),
    )


def _to_17(name: str) -> Parallel:
    branch = f"{name}.branch"
    return Parallel.of(
        (_half(f"{branch}3x3", 384),),
        (Conv(f"{branch}3x3dbl_1", 64), Conv(f"{branch}3x3dbl_2", 96, _3), _half(f"{branch}3x3dbl_3", 96)),
        (MAX_HALF,),
    )


def _at_17(name: str, inner: int) -> Parallel:
    branch = f"{name}.branch"
    double = ((inner, _COLUMN), (inner, _ROW), (inner, _COLUMN), (192, _ROW))
    return Parallel.of(
        (Conv(f"{branch}1x1", 192),),
        (Conv(f"{branch}7x7_1", inner), Conv(f"{branch}7x7_2", inner, _ROW), Conv(f"{branch}7x7_3", 192, _COLUMN)),
        (Conv(f"{branch}7x7dbl_1", inner), *(Conv(f"{branch}7x7dbl_{i}", *c) for i, c in enumerate(double, 2))),
        (MEAN, Conv(f"{branch}_pool", 192)),
    )


def _to_8(name: str) -> Parallel:
    three, seven = f"{name}.branch3x3", f"{name}.branch7x7x3"
    row_and_column = (Conv(f"{seven}_2", 192, _ROW), Conv(f"{seven}_3", 192, _COLUMN))
    return Parallel.of(
        (Conv(f"{three}_1", 192), _half(f"{three}_2", 320)),
        (Conv(f"{seven}_1", 192), *row_and_column, _half(f"{seven}_4", 192)),
        (MAX_HALF,),
    )


def _at_8(name: str, pool: Pool) -> Parallel:
    branch = f"{name}.branch"

    def fork(stem: str) -> Parallel:
        return Parallel(((Conv(f"{stem}a", 384, (1, 3)),), (Conv(f"{stem}b", 384, (3, 1)),)))

    return Parallel.of(
        (Conv(f"{branch}1x1", 320),),
        (Conv(f"{branch}3x3_1", 384), fork(f"{branch}3x3_2")),
        (Conv(f"{branch}3x3dbl_1", 448), Conv(f"{branch}3x3dbl_2", 384, _3), fork(f"{branch}3x3dbl_3")),
        (pool, Conv(f"{branch}_pool", 192)),
    )


NETWORK = (
    _half("Conv2d_1a_3x3", 32),
    Conv("Conv2d_2a_3x3", 32, _3, padding="valid"),
    Conv("Conv2d_2b_3x3", 64, _3),
    MAX_HALF,
    Tap("64"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, _3, padding="valid"),
    MAX_HALF,
    Tap("192"),
    _at_35("Mixed_5b", 32),
    _at_35("Mixed_5c", 64),
    _at_35("Mixed_5d", 64),
    _to_17("Mixed_6a"),
    _at_17("Mixed_6b", 128),
    _at_17("Mixed_6c", 160),
    _at_17("Mixed_6d", 160),
    _at_17("Mixed_6e", 192),
    Tap("768"),
    _to_8("Mixed_7a"),
    _at_8("Mixed_7b", MEAN),
    _at_8("Mixed_7c", MAX),
    Tap("2048"),
)
LAYERS = ("64", "192", "768", "2048", "logits_unbiased", "logits")


def channels_after(path: tuple, channels: int) -> int:
    """How many channels leave `path` when `channels` enter it."""
    for step in path:
        if isinstance(step, Conv):
            channels = step.filters
        elif isinstance(step, Parallel):
            channels = sum(channels_after(each, channels) for each in step.paths)
    return channels


def convolutions(path: tuple = NETWORK, channels: int = 3) -> Iterator[tuple[Conv, int]]:
    """Every convolution of `path`, in order, with the number of channels that enter it."""
    for step in path:
        if isinstance(step, Conv):
            yield step, channels
        elif isinstance(step, Parallel):
            for each in step.paths:
                yield from convolutions(each, channels)
        channels = channels_after((step,), channels)


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays by torch-fidelity's names; convolutions are [out, in, height, width], fc is [out, in]."""
    shapes = {}
    for conv, channels in convolutions():
        shapes[f"{conv.name}.conv.weight"] = (conv.filters, channels, *conv.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{conv.name}.bn.{part}"] = (conv.filters,)
    return {**shapes, "fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
