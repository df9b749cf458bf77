"""The Inception-v3 of the Frechet inception distance, as data: what follows what, and the shapes of its weights.

It is the graph that TensorFlow published on 2015-12-05 and that Heusel et al. (1706.08500) measured with: table 1 of
Szegedy et al. (1512.00567) with 1008 classes, and a maximum where the last block's pool is a mean everywhere else.
Names are those of torch-fidelity and pytorch-fid, whose file of weights is the one in use.

A path is a tuple of steps: Conv, Pool, a list of paths that start from the same input and are joined along the
channels, or a name: the mean over all positions there is a layer that may be asked for.
"""

from collections.abc import Iterator
from typing import NamedTuple

SIZE = 299  # height and width of the images that the network sees
CLASSES = 1008
FEATURES = 2048
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


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


_3, _5, _ROW, _COLUMN, _HALF = (3, 3), (5, 5), (1, 7), (7, 1), (2, "valid")
MEAN, MAX, MAX_HALF = Pool("mean"), Pool("max"), Pool("max", *_HALF)
_FORK = "1 x 3 and 3 x 1 of the same input"


def _block(name: str, *branches: tuple) -> list[tuple]:
    """Parallel paths, each (its name, pools, settings of convolutions), with a number where it has several of these."""
    return [tuple(_steps(f"{name}.branch{branch}", steps)) for branch, *steps in branches]


def _steps(name: str, steps: list) -> Iterator[Pool | Conv | list[tuple]]:
    convolutions = [step for step in steps if not isinstance(step, Pool)]
    names = iter([name] if len(convolutions) == 1 else [f"{name}_{i + 1}" for i in range(len(convolutions))])
    for step in steps:
        if isinstance(step, Pool):
            yield step
        elif step is _FORK:
            stem = next(names)
            yield [(Conv(f"{stem}a", 384, (1, 3)),), (Conv(f"{stem}b", 384, (3, 1)),)]
        else:
            yield Conv(next(names), *step)


def _at_35(name: str, pooled: int) -> list[tuple]:
    double = (64,), (96, _3), (96, _3)
    return _block(name, ("1x1", (64,)), ("5x5", (48,), (64, _5)), ("3x3dbl", *double), ("_pool", MEAN, (pooled,)))


def _at_17(name: str, n: int) -> list[tuple]:
    seven, double = ((n,), (n, _ROW), (192, _COLUMN)), ((n,), (n, _COLUMN), (n, _ROW), (n, _COLUMN), (192, _ROW))
    return _block(name, ("1x1", (192,)), ("7x7", *seven), ("7x7dbl", *double), ("_pool", MEAN, (192,)))


def _at_8(name: str, pool: Pool) -> list[tuple]:
    double = (448,), (384, _3), _FORK
    return _block(name, ("1x1", (320,)), ("3x3", (384,), _FORK), ("3x3dbl", *double), ("_pool", pool, (192,)))


NETWORK = (
    Conv("Conv2d_1a_3x3", 32, _3, *_HALF),
    Conv("Conv2d_2a_3x3", 32, _3, padding="valid"),
    Conv("Conv2d_2b_3x3", 64, _3),
    MAX_HALF,
    "64",
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, _3, padding="valid"),
    MAX_HALF,
    "192",
    *(_at_35(name, pooled) for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64))),
    _block("Mixed_6a", ("3x3", (384, _3, *_HALF)), ("3x3dbl", (64,), (96, _3), (96, _3, *_HALF)), ("_pool", MAX_HALF)),
    *(_at_17(f"Mixed_6{letter}", n) for letter, n in (("b", 128), ("c", 160), ("d", 160), ("e", 192))),
    "768",
    _block(
        "Mixed_7a",
        ("3x3", (192,), (320, _3, *_HALF)),
        ("7x7x3", (192,), (192, _ROW), (192, _COLUMN), (192, _3, *_HALF)),
        ("_pool", MAX_HALF),
    ),
    _at_8("Mixed_7b", MEAN),
    _at_8("Mixed_7c", MAX),
    "2048",
)
LAYERS = ("64", "192", "768", "2048", "logits_unbiased", "logits")


def channels_after(path: tuple, channels: int, entering: dict[Conv, int] | None = None) -> int:
    """How many channels leave `path` when `channels` enter it; `entering` gets those that enter each convolution."""
    entering = {} if entering is None else entering
    for step in path:
        if isinstance(step, Conv):
            entering[step], channels = channels, step.filters
        elif isinstance(step, list):
            channels = sum(channels_after(each, channels, entering) for each in step)
    return channels


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of all arrays by torch-fidelity's names; convolutions are [out, in, height, width], fc is [out, in]."""
    shapes, entering = {}, {}
    channels_after(NETWORK, 3, entering)
    for conv, channels in entering.items():
        shapes[f"{conv.name}.conv.weight"] = (conv.filters, channels, *conv.kernel)
        shapes |= {f"{conv.name}.bn.{part}": (conv.filters,) for part in BATCH_NORM}
    return {**shapes, "fc.weight": (CLASSES, FEATURES), "fc.bias": (CLASSES,)}
