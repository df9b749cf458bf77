"""A network of another family: a plain transformer on patches that predicts x, as JiT does (arXiv 2511.13720).

    sid2-train --config=examples/patch_transformer.py --data=data/digits --workdir=runs/patches --steps=2000
    sid2-sample --config=examples/patch_transformer.py --workdir=runs/patches --out=runs/patches/drawn

All that keras_sid2 asks of a network: that Keras can save it (a registered class with a get_config), that it says its
`sample_shape` and `conditions`, and that it can be called with {"z_t", "logsnr", conditions by name}.
"""

import keras
from keras import layers, ops

from keras_sid2.conditions import ClassLabel
from keras_sid2.diffusion import CosineSchedule, DiffusionObjective, SigmoidWeighting
from keras_sid2.parallel.rules import Rule
from keras_sid2.training import AdamRecipe, Preset


@keras.saving.register_keras_serializable("examples")
class Block(layers.Layer):
    """Attention and a perceptron over [B, N, width]; the condition [B, width] scales, shifts and gates both (adaLN)."""

    def __init__(self, width: int, heads: int, **kwargs):
        super().__init__(**kwargs)
        options = {"dtype": self.dtype_policy}
        self.heads = heads
        self.norm1, self.norm2 = (layers.LayerNormalization(center=False, scale=False, **options) for _ in range(2))
        self.qkv, self.out = layers.Dense(3 * width, **options, name="qkv"), layers.Dense(width, **options, name="out")
        self.mlp1 = layers.Dense(4 * width, activation="gelu", **options, name="mlp1")
        self.mlp2 = layers.Dense(width, **options, name="mlp2")
        self.modulation = layers.Dense(6 * width, kernel_initializer="zeros", **options, name="modulation")

    def call(self, h, emb):
        parts = ops.split(ops.expand_dims(self.modulation(ops.silu(emb)), 1), 6, axis=-1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        qkv = self.qkv(self.norm1(h) * (1 + scale1) + shift1)
        batch, count, width = ops.shape(qkv)
        qkv = ops.reshape(qkv, (batch, count, self.heads, width // self.heads))
        attended = ops.dot_product_attention(*ops.split(qkv, 3, axis=-1))
        h = h + gate1 * self.out(ops.reshape(attended, (batch, count, width // 3)))
        return h + gate2 * self.mlp2(self.mlp1(self.norm2(h) * (1 + scale2) + shift2))


@keras.saving.register_keras_serializable("examples")
class PatchTransformer(keras.Model):
    """Patches of (H, W, C), `depth` blocks of `width`, patches again; conditioned on a class by adaLN."""

    sharding_rules = (
        Rule(r"block\d+/(?:qkv|mlp1|modulation)/kernel", ("fsdp", "model")),
        Rule(r"block\d+/(?:out|mlp2)/kernel", ("model", "fsdp")),
        Rule(r"(?:noise\d|unpatchify)/kernel", ("fsdp", None)),
        Rule(r"(?:position|label)/embeddings", (None, "fsdp")),
        Rule(r"patchify/kernel", (None, None, None, "fsdp")),
    )

    def __init__(self, sample_shape, num_classes, patch_size, width, depth, heads, **kwargs):
        super().__init__(autocast=False, **{k: v for k, v in kwargs.items() if k != "autocast"})
        self.config = {"num_classes": num_classes, "patch_size": patch_size, "width": width, "depth": depth}
        self.config |= {"sample_shape": tuple(sample_shape), "heads": heads}
        self.sample_shape, self.conditions = tuple(sample_shape), {"label": ClassLabel(num_classes)}
        height, width_of_image, channels = self.sample_shape
        if height % patch_size or width_of_image % patch_size or width % heads:
            raise ValueError(f"patch_size must divide {sample_shape} and heads the width, got {self.config}.")
        self.grid, self.patch_size = (height // patch_size, width_of_image // patch_size), patch_size
        self.patchify = layers.Conv2D(width, patch_size, patch_size, dtype=self.dtype_policy, name="patchify")
        self.position = layers.Embedding(self.grid[0] * self.grid[1], width, dtype="float32", name="position")
        self.noise1 = layers.Dense(width, activation="silu", dtype="float32", name="noise1")
        self.noise2 = layers.Dense(width, dtype="float32", name="noise2")
        self.label = layers.Embedding(num_classes + 1, width, dtype="float32", name="label")  # the last is no class
        self.blocks = [Block(width, heads, dtype=self.dtype_policy, name=f"block{i}") for i in range(depth)]
        self.norm, zeros = layers.LayerNormalization(dtype="float32", name="norm"), {"kernel_initializer": "zeros"}
        self.unpatchify = layers.Dense(patch_size**2 * channels, dtype="float32", name="unpatchify", **zeros)

    def call(self, inputs, training=None):
        waves = ops.expand_dims(inputs["logsnr"], -1) * (2.0 ** ops.arange(-6, 3, dtype="float32"))
        emb = self.noise2(self.noise1(ops.concatenate([ops.sin(waves), ops.cos(waves)], axis=-1)))
        emb = ops.cast(emb + self.label(inputs["label"]), self.compute_dtype)
        (rows, columns), p = self.grid, self.patch_size
        h = ops.reshape(self.patchify(inputs["z_t"]), (-1, rows * columns, self.config["width"]))
        h = h + ops.cast(self.position(ops.arange(rows * columns)), self.compute_dtype)
        for block in self.blocks:
            h = block(h, emb)
        x = ops.reshape(self.unpatchify(self.norm(h)), (-1, rows, columns, p, p, self.sample_shape[-1]))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, *self.sample_shape))

    def get_config(self):
        return {**super().get_config(), **self.config}


preset = Preset(
    name="patch_transformer_digits",
    description="a plain transformer on 2 x 2 patches of scikit-learn's handwritten digits",
    network_class=PatchTransformer,
    network={"sample_shape": (8, 8, 1), "num_classes": 10, "patch_size": 2, "width": 96, "depth": 4, "heads": 3},
    objective=DiffusionObjective(CosineSchedule(), SigmoidWeighting(2.0), prediction="x"),
    label_dropout=0.1,
    recipe=AdamRecipe(learning_rate=2e-3, warmup_steps=100, ema_decay=0.998, ema_warmup=True),
    batch_size=128,
    num_steps=128,
)
