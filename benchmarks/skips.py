"""The network of the library with a skip for every block, as U-Nets and U-ViTs have it, to compare memory with."""

import keras
from keras import ops

import keras_sid2


@keras.saving.register_keras_serializable("benchmarks")
class SkipPerBlockUViT(keras_sid2.ResidualUViT):
    """ResidualUViT whose up blocks each take, beside their input, what the mirrored down block gave.

    The two are concatenated and a 1x1 convolution brings them back to the level's channels, as in U-ViT (2209.12152).
    Between levels it is h = up(m) instead of h = up(m - d) + skip. The last level, the middle, has no skips.
    """

    def _make_levels(self):
        super()._make_levels()
        options = {"dtype": self.dtype_policy}
        for i, level in enumerate(self._levels[:-1]):
            names = [f"level{i}_join{j}" for j in range(level.blocks)]
            joins = [keras.layers.Conv2D(level.channels, 1, name=name, **options) for name in names]
            for join in joins:
                join.build((*self.feature_shape(i)[:-1], 2 * level.channels))
            self._set(i, "joins", joins)

    def _level(self, i: int, h, run):
        if self._levels[i].kind == "transformer":
            h = self._get(i, "position")(h)
        remat = self._levels[i].remat
        if i == len(self._levels) - 1:
            return run(self._get(i, "middle_blocks"), h, remat)
        skips = []
        for block in self._get(i, "down_blocks"):
            h = run([block], h, remat)
            skips.append(h)
        h = self._get(i, "upsample")(self._level(i + 1, self._get(i, "downsample")(h), run))
        for join, block in zip(self._get(i, "joins"), self._get(i, "up_blocks"), strict=True):
            h = run([block], join(ops.concatenate([h, skips.pop()], axis=-1)), remat)
        return h
