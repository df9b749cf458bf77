"""What a compiled train step holds for its backward pass, block by block, and how much at its worst moment.

    (1) peak = max over blocks, from the last to the first, of
               what it and the blocks before it keep + gradients and leftovers of those behind it + its work space
    (2) a block keeps, of B images of N positions, C channels and h heads,
               4 B N C (stream + inner / model) + 4 B h N^2 attention / model   bytes

with the numbers of arrays in models/platforms.py. One rule of XLA's for CPU decides on more of them: statistics (means
for each position, head or group, softmax's sums) of LARGE bytes and more are not computed again for every consumer, so
what is made of them is kept too.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from keras_sid2.layers.blocks import norm_groups
from keras_sid2.models.level import Level
from keras_sid2.models.platforms import COMPUTE_BYTES, FLOAT32, Kept, Platform

LARGE = 2**14  # bytes; XLA fuses a smaller producer into each of its consumers
LANES = 128  # a TPU's last axis is a multiple of it


@dataclasses.dataclass(frozen=True)
class Stage:
    """A block or another layer, in bytes; its weights' paths have `name` as their second part.

    kept is there from its forward pass until it has run backwards, work while it does, left from then on.
    """

    name: str
    kept: float = 0.0
    work: float = 0.0
    left: float = 0.0


def peak(stages: Sequence[Stage], gradients: Mapping[str, float], always: float) -> float:
    """Eq. (1), bytes: `gradients` by the stage's name, `always` is there from the first to the last."""
    live = always + sum(stage.kept for stage in stages)
    highest = 0.0
    for stage in reversed(stages):
        highest = max(highest, live + stage.work)
        live += gradients.get(stage.name, 0.0) + stage.left - stage.kept
    return max(highest, live)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """Of `images` images at a time, on one device of a mesh whose model axis has `model` devices."""

    network: Mapping
    images: int
    precision: str
    model: int
    platform: Platform

    @property
    def image(self) -> int:
        """Bytes of the images in float32."""
        return FLOAT32 * self.images * math.prod(self.network["image_shape"])

    @property
    def rounds_kernels(self) -> bool:
        """Whether kernels, rounded to the compute type, are made float32 again."""
        return COMPUTE_BYTES[self.precision] < self.platform.bytes_of[self.precision]

    def stages(self) -> list[Stage]:
        """In the order of the forward pass."""
        levels, last = self._levels, len(self._levels) - 1
        down, up = [], []
        for i, level in enumerate(levels):
            if level.kind == "transformer":
                down.append(Stage(f"level{i}_position"))
            down += self._run(i, "middle" if i == last else "down")
            if i < last:
                down.append(self._downsample(i))
                up = [Stage(f"level{i}_upsample", self._features(i) + self._features(i + 1)), *self._run(i, "up"), *up]
        patchify = Stage("patchify", 2 * self._features(0) + self.image)  # without and with bias; its input transposed
        unpatchify = Stage("unpatchify", left=self._features(0))  # the gradient of the stream
        return [Stage("embedding"), patchify, *down, *up, unpatchify]

    def shared(self) -> float:
        """Bytes of what the attention of all blocks of a level has in common."""
        large = (i for i, level in self._repeated() if self._is_large(self._inner_rows(i, level)))
        return sum(self._matrix(i) for i in large if self._kept(self._levels[i]).large_attention)

    def counters(self) -> float:
        """Bytes of the numbers that dropout's bits are made of, which a loop over parts computes once for a level."""
        dropping = ((i, level) for i, level in self._repeated() if level.dropout)
        return sum(self._features(i) * self._kept(level).dropout / self.model for i, level in dropping)

    def _repeated(self) -> list[tuple[int, Level]]:
        """Levels of several blocks: what only one needs is fused into it."""
        levels = self._levels
        return [(i, level) for i, level in enumerate(levels) if level.blocks > 1 or i + 1 < len(levels)]

    @property
    def _levels(self) -> list[Level]:
        return [Level.of(level) for level in self.network["levels"]]

    def _kept(self, level: Level) -> Kept:
        return getattr(self.platform, level.kind)

    def _sides(self, i: int) -> tuple[int, int]:
        """Height and width of level i."""
        height, width, _ = self.network["image_shape"]
        scale = self.network["patch_size"] * 2**i
        return height // scale, width // scale

    def _features(self, i: int) -> float:
        """Bytes of one array [B, N, C] of level i."""
        size = self.platform.bytes_of[self.precision]
        return size * self.images * math.prod(self._sides(i)) * self._levels[i].channels

    def _row(self, i: int) -> float:
        """The same in float32, the width of the image padded."""
        width = self._sides(i)[1]
        padded = -(-width // LANES) * LANES / width
        return self._features(i) * padded * FLOAT32 / self.platform.bytes_of[self.precision]

    def _matrix(self, i: int) -> float:
        """Bytes of one array [B, h, N, N]; 0 where there is no attention."""
        level = self._levels[i]
        if level.kind == "res":
            return 0.0
        heads = level.channels // level.attention_head_dim / self.model
        return FLOAT32 * self.images * math.prod(self._sides(i)) ** 2 * heads

    def _downsample(self, i: int) -> Stage:
        """The pooled features, and those of the level below without and with bias: a transformer's level adds the
        bias with its embedding of positions."""
        convolved = 2 if self._levels[i + 1].kind == "res" else 1
        return Stage(f"level{i}_downsample", self._features(i) / 4 + convolved * self._features(i + 1))

    def _run(self, i: int, role: str) -> list[Stage]:
        """Blocks one after another: the last one's sum is the input of none."""
        level, unit, whole = self._levels[i], self._features(i), self._block(i)
        kept = self._kept(level)
        work = kept.work * unit + kept.rows_work * self._row(i) + kept.attention_work * self._matrix(i)
        stage = Stage("", whole, work, kept.left * unit)
        if (level.remat or self.network.get("remat", False)) and self.platform.honours_remat:
            stage = Stage("", unit, work + whole)
        stages = [dataclasses.replace(stage, name=f"level{i}_{role}_block{j}") for j in range(level.blocks)]
        stages[-1] = dataclasses.replace(stages[-1], kept=stage.kept - unit)
        return stages

    def _block(self, i: int) -> float:
        """Eq. (2)."""
        level = self._levels[i]
        kept, size = self._kept(level), self.platform.bytes_of[self.precision]
        stream, inner = kept.stream, kept.inner + kept.narrow * COMPUTE_BYTES[self.precision] / size
        if self.model > 2 and kept.spread:
            stream, inner = stream - 2, inner + kept.spread
        inner += kept.dropout if level.dropout and self.model == 1 else 0.0
        inner += kept.outer_norms if self._is_large(self._outer_rows(i, level)) else 0.0
        large = self._is_large(self._inner_rows(i, level))
        inner += kept.inner_norms if large else 0.0
        attention = kept.attention + (kept.large_attention if large else 0.0)
        arrays = self._features(i) * (stream + inner / self.model) + kept.rows * self._row(i)
        return arrays + attention * self._matrix(i)

    def _outer_rows(self, i: int, level: Level) -> int:
        """Statistics of an image in a norm of the stream."""
        return norm_groups(level.channels) if level.kind == "res" else math.prod(self._sides(i))

    def _inner_rows(self, i: int, level: Level) -> int:
        """Statistics of an image in a norm of the inside, and in the softmax."""
        heads = 1 if level.kind == "res" else level.channels // level.attention_head_dim
        return self._outer_rows(i, level) * heads // self.model

    def _is_large(self, statistics: int) -> bool:
        return self.images * statistics * FLOAT32 >= LARGE
