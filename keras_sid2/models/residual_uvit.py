"""The Residual U-ViT of SiD2 (2410.19324): one skip per level. It knows nothing of noise schedules or losses.

For each level but the last, in order:

    h = blocks(h);  skip = h;  d = down(h);  m = <lower levels>(d);  h = up(m - d) + skip;  h = blocks(h)

and the last level, the middle, is h = blocks(h). New blocks are the identity, so m - d = 0 and a new network is the
identity of its input features; its output layer starts at zero, so it predicts v_hat = 0.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import keras
from keras import ops

from keras_sid2 import backend, layers, threefry
from keras_sid2.conditions import ClassLabel, Frames, Image, TextEmbedding, Vector, as_conditions, check_clips
from keras_sid2.config import register
from keras_sid2.layers.convolutions import repeated
from keras_sid2.layers.cross_attention import present, unit_tokens
from keras_sid2.layers.dropout import example_keys
from keras_sid2.models.level import Level, as_axes, as_levels, check_image_shape
from keras_sid2.models.tracing import NetworkCost, abstract_variables, trace
from keras_sid2.parallel.rules import Rule
from keras_sid2.policies import check_floatx, network_policy
from keras_sid2.shapes import whole_number

_BLOCKS = ("down_blocks", "middle_blocks", "up_blocks")


@register
class ResidualUViT(keras.Model):
    """network({"z_t", "logsnr", conditions...}, training=None, seed=None) -> v_hat, float32 of z_t's shape.

    z_t is float32 [B, H, W, C], or [B, F, H, W, C] of clips, logsnr float32 [B]; a label, int32 [B], may be left out,
    which is the null class. network((z_t, logsnr, label)) is the same. `seed`, int32 [B, 2], a key an example, or
    [2], which is folded with their numbers, determines all dropout of the call; without it, in training, the network
    draws one. Weights exist as soon as it is made.

    Of clips, convolutions see each frame by itself, and transformers all positions of all frames, or those within a
    frame and along time in turn (`Level.attention`). Classes and vectors are added to the embedding of logsnr; images
    (of z_t's shape but for their channels, or 1/2, 1/3, ... of its height and width: then each pixel is repeated) are
    further channels of z_t; given frames take their places in z_t, and a channel marks them. A text is read by a
    cross-attention in each block of the transformer levels, and the mean of its tokens is added to the embedding of
    logsnr: both are zero when new.

    On torch, each kind of block is run as `backend.recorded_block` says, in training and to draw, unless `run_eagerly`,
    which compile() of a SiD2Model sets, is True.

    Args:
        image_shape: (H, W, C) or (F, H, W, C); patch_size * 2^(levels - 1) must divide H and W.
        patch_size: side of the patches at the two ends, in pixels.
        num_classes: K classes, or None for a network without labels: short for a condition "label".
        embedding_dim: width of the conditioning vector.
        levels: `Level`s or dicts of their fields, highest resolution first; the last is the middle.
        conditions: `keras_sid2.conditions` by name, besides the label: ClassLabel, Vector, Image, Frames, and one
            TextEmbedding at most.
        periodic: of "height" and "width", the axes whose two ends meet. There convolutions go round, and attention
            knows distances round the circle in place of positions (4 must divide head_dims), so that the network
            commutes with rolls by multiples of patch_size * 2^(levels - 1). Where places differ, as continents do, say
            so by an Image condition: terrain, or sine and cosine of longitude.
        remat: True sets `Level.remat` of every level; False leaves each as it is. Weights and files are the same.
        dtype: float32, or "mixed_bfloat16" (also "bfloat16") or "mixed_float16": then the inside computes in half
            precision; logsnr's embedding, weights and output stay float32. None is keras's global policy.

    Raises ValueError for what cannot be built, another dtype, and a keras.config.floatx() that is not float32.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        patch_size: int,
        num_classes: int | None,
        embedding_dim: int,
        levels: Sequence[Level | dict],
        remat: bool = False,
        name: str = "residual_uvit",
        conditions: Mapping | None = None,
        periodic: Sequence[str] | str = (),
        **kwargs,
    ):
        embedding_dim = whole_number("embedding_dim", embedding_dim)
        num_classes = None if num_classes is None else whole_number("num_classes", num_classes)
        self._levels = as_levels(levels)
        if remat:
            self._levels = tuple(dataclasses.replace(level, remat=remat) for level in self._levels)
        self._periodic = as_axes(periodic, self._levels)
        image_shape = check_image_shape(image_shape, patch_size, len(self._levels))
        check_floatx()
        kwargs |= {"autocast": False, "dtype": network_policy(kwargs.get("dtype"))}
        super().__init__(name=name, **kwargs)  # autocast: logsnr must not pass through bfloat16
        self.sample_shape, self.patch_size, self.embedding_dim = image_shape, int(patch_size), embedding_dim
        self._conditions = tuple(as_conditions(conditions, num_classes).items())  # keras wraps dicts
        self.num_classes = getattr(self.conditions.get("label"), "num_classes", None)
        _check_conditions(self.conditions, image_shape)
        self._text = _name_of_text(self.conditions, self._levels)
        self.seeds = keras.random.SeedGenerator(0, name="seeds")
        self._make_ends()
        self._make_levels()
        self.build()

    @property
    def levels(self) -> tuple[Level, ...]:
        return self._levels

    @property
    def conditions(self) -> dict:
        return dict(self._conditions)

    @property
    def periodic(self) -> tuple[str, ...]:
        return self._periodic

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`sample_shape`, as it was called when samples were images."""
        return self.sample_shape

    @property
    def input_shape_of_patches(self) -> tuple[int, ...]:
        """Of z_t with the images that it is conditioned on."""
        images = (c.shape[-1] for c in self.conditions.values() if isinstance(c, Image))
        marks = sum(isinstance(c, Frames) for c in self.conditions.values())
        return (*self.sample_shape[:-1], self.sample_shape[-1] + sum(images) + marks)

    def _make_ends(self):
        embedded = (ClassLabel, Vector, TextEmbedding)
        others = {k: c for k, c in self._conditions if isinstance(c, embedded) and k != "label"}
        inside, patch = {"dtype": self.dtype_policy}, self.patch_size
        self.embedding = layers.ConditionEmbedding(self.embedding_dim, self.num_classes, others)
        text = self.conditions.get(self._text)
        self.whitening = layers.TokenWhitening() if text is not None and text.whitened else None
        self.patchify = layers.Patchify(self._levels[0].channels, patch, name="patchify", **inside)
        self.unpatchify = layers.Unpatchify(self.sample_shape[-1], patch, dtype="float32", name="unpatchify")

    def _make_blocks(self, i: int, role: str) -> list[keras.layers.Layer]:
        level, head_dim = self._levels[i], self._levels[i].attention_head_dim
        options = {"dropout": level.dropout, "periodic": self.periodic, "dtype": self.dtype_policy}
        named = [{"name": f"level{i}_{role}_block{j}", **options} for j in range(level.blocks)]
        if level.kind == "res":
            return [layers.ResBlock(**given) for given in named]
        over = ("space", "time") if level.attention == "alternate" else ("all", "all")
        return [layers.TransformerBlock(head_dim, over=over[j % 2], **given) for j, given in enumerate(named)]

    def _make_levels(self):
        """Attributes by role. No lists of lists: keras fills those from a file without minding what it lacks."""
        last = len(self._levels) - 1
        options = {"dtype": self.dtype_policy}
        for i, level in enumerate(self._levels):
            if level.kind == "transformer":
                position = layers.PositionEmbedding(f"level{i}_position", self.periodic, **options)
                self._set(i, "position", position)
            for role in ("middle",) if i == last else ("down", "up"):
                self._set(i, f"{role}_blocks", self._make_blocks(i, role))
            if i < last:
                lower = self._levels[i + 1].channels
                self._set(i, "downsample", layers.Downsample(lower, name=f"level{i}_downsample", **options))
                self._set(i, "upsample", layers.Upsample(level.channels, name=f"level{i}_upsample", **options))

    def _set(self, i: int, role: str, made):
        setattr(self, f"level{i}_{role}", made)

    def _get(self, i: int, role: str):
        return getattr(self, f"level{i}_{role}", None)

    def feature_shape(self, i: int) -> tuple:
        """[B, (F,) H_i, W_i, C_i] of level i."""
        *frames, height, width, _ = self.sample_shape
        scale = self.patch_size * 2**i
        return (None, *frames, height // scale, width // scale, self._levels[i].channels)

    def build(self, *_):
        if self.built:  # keras builds a loaded model again
            return
        last, emb_shape = len(self._levels) - 1, (None, self.embedding_dim)
        of_text = () if self._text is None else ((None, *self.conditions[self._text].shape),)
        self.embedding.build()
        if self.whitening is not None:
            self.whitening.build(*of_text)
        self.patchify.build((None, *self.input_shape_of_patches))
        for i, level in enumerate(self._levels):
            shape = self.feature_shape(i)
            if level.kind == "transformer":
                self._get(i, "position").build(shape)
            for role in _BLOCKS:
                for block in self._get(i, role) or ():
                    block.build(shape, emb_shape, *(of_text if level.kind == "transformer" else ()))
            if i < last:
                self._get(i, "downsample").build(shape)
                self._get(i, "upsample").build(self.feature_shape(i + 1))
        self.unpatchify.build(self.feature_shape(0))
        self.built = True

    def call(self, inputs, training=None, seed=None):
        if not isinstance(inputs, Mapping):
            inputs = dict(zip(("z_t", "logsnr", "label"), inputs))  # noqa: B905
        images = [k for k, c in self._conditions if isinstance(c, Image | Frames)]
        given = {k: inputs.get(k) if k == "label" else inputs[k] for k, _ in self._conditions if k not in images}
        text = {}
        if self._text is not None:
            tokens, unit = present(given[self._text]), unit_tokens(given[self._text])
            given[self._text] = unit if self.whitening is None else self.whitening(unit)
            text = {"text": ops.cast(given[self._text], self.compute_dtype), "tokens": tokens}
        emb = self.embedding(inputs["logsnr"], **given)
        seeds = self._block_seeds(seed, ops.shape(inputs["z_t"])[0]) if training else None
        embs = backend.handed_out(emb, len(self.traced_blocks()), self.compute_dtype)
        run = _BlockRunner(embs, text, training, seeds, self.run_eagerly)
        return self.unpatchify(self._level(0, self.patchify(self._with_images(inputs)), run))

    def adapt_text(self, values):
        """Takes what tokens are like from texts float [N, length, width] of the training data, some hundreds or more,
        where the TextEmbedding is `whitened`: once, before training. Files and `set_weights` keep it. ValueError for a
        network without such a text, and for other values."""
        if self.whitening is None:
            raise ValueError("adapt_text is for networks with a TextEmbedding(..., whitened=True), and this has none.")
        self.whitening.adapt(self.conditions[self._text].check(self._text, values))

    def waits_for_texts(self) -> bool:
        """Whether `adapt_text` should still be called: cross-attention gives the zeros that it begins with."""
        if self.whitening is None or self.whitening.adapted:
            return False
        readers = (layer.out.kernel for layer in self._flatten_layers() if isinstance(layer, layers.CrossAttention))
        return not any(bool(ops.any(ops.not_equal(kernel, 0))) for kernel in readers)

    def _with_images(self, inputs):
        """z_t, given frames in their places, and what there is beside it as more channels."""
        channels = [inputs["z_t"]]
        for name, condition in self._conditions:
            if isinstance(condition, Image):
                channels.append(repeated(inputs[name], self.sample_shape[-2] // condition.shape[-2]))
            elif isinstance(condition, Frames):
                x, mask = condition.known(inputs[name])
                channels[0] = ops.where(mask, x, channels[0])
                channels.append(ops.cast(mask, "float32"))
        return ops.concatenate(channels, axis=-1) if len(channels) > 1 else channels[0]

    @property
    def seed_per_example(self) -> bool:
        """Whether training wants `seed` [B, 2]: it has dropout."""
        return any(level.dropout for level in self._levels)

    def _block_seeds(self, seed, batch):
        """int32 [blocks, B, 2], each a function of (the example's key, the block's number); None without dropout."""
        if not self.seed_per_example:
            return None
        if seed is None:
            seed = ops.cast(self.seeds.next(), "int32")
        return threefry.fold_in(
            example_keys(seed, batch), ops.arange(sum(level.blocks * 2 for level in self._levels))[:, None]
        )

    def _level(self, i: int, h, run: "_BlockRunner"):
        if self._levels[i].kind == "transformer":
            h = self._get(i, "position")(h)
        remat = self._levels[i].remat
        if i == len(self._levels) - 1:
            return run(self._get(i, "middle_blocks"), h, remat)
        skip = run(self._get(i, "down_blocks"), h, remat)
        d = self._get(i, "downsample")(skip)
        m = self._level(i + 1, d, run)
        return run(self._get(i, "up_blocks"), self._get(i, "upsample")(m - d) + skip, remat)

    def compute_output_shape(self, *_):
        return (None, *self.sample_shape)

    def get_config(self):
        others = {k: keras.saving.serialize_keras_object(c) for k, c in self._conditions if k != "label"}
        usual = ("attention", "all")  # is not told: networks of images say what they said before there were clips
        levels = [{k: v for k, v in level.get_config().items() if (k, v) != usual} for level in self._levels]
        return {
            **super().get_config(),
            "image_shape": self.sample_shape,
            "patch_size": self.patch_size,
            "num_classes": self.num_classes,
            "embedding_dim": self.embedding_dim,
            "levels": levels,
            **({"conditions": others} if others else {}),
            **({"periodic": self.periodic} if self.periodic else {}),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {k: v for k, v in config.items() if k != "autocast"}
        others = (config.get("conditions") or {}).items()
        return cls(**{**config, "conditions": {k: keras.saving.deserialize_keras_object(c) for k, c in others}})

    # -- what sid2-plan and meshes ask of a network -------------------------------------------------------------------

    _BLOCK = r"level\d+_(?:down|middle|up)_block\d+"

    sharding_rules = (
        Rule(r"embedding/dense1/kernel", ("fsdp", "model")),
        Rule(r"embedding/dense1/bias", ("model",)),
        Rule(r"embedding/dense2/kernel", ("model", "fsdp")),
        Rule(r"embedding/(?!dense)\w+/(?:embeddings|kernel)", (None, "fsdp")),  # K + 1 rows are seldom divisible
        Rule(r"whitening/mean", (None,)),
        Rule(r"whitening/matrix", (None, None)),
        Rule(r"level\d+_position/embedding", (None, None, "fsdp")),
        Rule(r"level\d+_position/frames", (None, None, None, "fsdp")),
        Rule(r"(?:un)?patchify/kernel", (None, None, None, "fsdp")),  # the last is the network's width in both
        Rule(r"level\d+_(?:down|up)sample/conv/kernel", (None, None, None, "fsdp")),
        Rule(rf"{_BLOCK}/modulation/kernel", ("fsdp", "model")),
        Rule(rf"{_BLOCK}/(?:conv1|mlp1|modulation)/bias", ("model",)),  # beside the channels that they are added to
        Rule(rf"{_BLOCK}/norm2/(?:gamma|beta)", ("model",)),
        Rule(rf"{_BLOCK}/conv1/kernel", (None, None, "fsdp", "model")),
        Rule(rf"{_BLOCK}/conv2/kernel", (None, None, "model", "fsdp")),
        Rule(rf"{_BLOCK}/mlp1/kernel", ("fsdp", "model")),
        Rule(rf"{_BLOCK}/mlp2/kernel", ("model", "fsdp")),
        Rule(rf"{_BLOCK}/(?:cross_)?attention/(?:query|key|value)/kernel", ("fsdp", "model")),  # to heads * head_dim
        Rule(rf"{_BLOCK}/(?:cross_)?attention/out/kernel", ("model", "fsdp")),
        Rule(rf"{_BLOCK}/cross_attention/null_(?:key|value)", ("model",)),
    )

    # Layers whose outputs run from block to block. Split by rows alone, they need one all-reduce a pair of layers on
    # the model axis; left to XLA, every block begins with an all-gather.
    streams = rf"(?:un)?patchify|level\d+_(?:position|(?:down|up)sample)|{_BLOCK}"

    # Methods, for keras names the variables in files by the first attribute that leads to them.

    def traced_blocks(self) -> list[keras.layers.Layer]:
        """All blocks, from high to low resolution."""
        return [block for i in range(len(self._levels)) for role in _BLOCKS for block in self._get(i, role) or ()]

    def recomputed_blocks(self) -> list[keras.layers.Layer]:
        """The blocks that training computes again in the backward pass."""
        return [b for b in self.traced_blocks() if self._levels[int(re.match(r"level(\d+)", b.name)[1])].remat]

    @property
    def attention_heads(self) -> dict[str, int]:
        """By the place where there are so many of them."""
        attending = ((i, level) for i, level in enumerate(self._levels) if level.kind == "transformer")
        return {f"level {i}": level.channels // level.attention_head_dim for i, level in attending}


def _check_conditions(conditions: Mapping, sample_shape: tuple[int, ...]):
    check_clips(conditions, sample_shape)
    for name, condition in conditions.items():
        if not isinstance(condition, ClassLabel | Vector | Image | TextEmbedding | Frames):
            raise ValueError(
                f"A ResidualUViT is conditioned on the kinds of keras_sid2.conditions, and {name} is a "
                f"{type(condition).__name__}: that needs a network of yours, see keras_sid2.conditions."
            )
        if isinstance(condition, Image) and not _fits(condition.shape, sample_shape):
            must, found = [*sample_shape[:-1], "channels"], list(condition.shape)
            smaller = "or 1/2, 1/3, ... of their height and width"
            raise ValueError(
                f"An image for a ResidualUViT must be {must}, as its samples are, {smaller}; {name} is {found}."
            )


def _name_of_text(conditions: Mapping, levels: Sequence[Level]) -> str | None:
    """Of the text; ValueError for a second one, and for one that no level reads."""
    names = [name for name, condition in conditions.items() if isinstance(condition, TextEmbedding)]
    if len(names) > 1:
        raise ValueError(f"A ResidualUViT reads one text, and {' and '.join(names)} are TextEmbeddings: join them.")
    if names and all(level.kind != "transformer" for level in levels):
        raise ValueError(f"A text is read by levels of the kind transformer: {names[0]} needs one, and there is none.")
    return names[0] if names else None


def _fits(shape: tuple[int, ...], sample_shape: tuple[int, ...]) -> bool:
    """Whether images of `shape` are the samples', or s times as small in both directions."""
    if len(shape) != len(sample_shape) or shape[:-3] != sample_shape[:-3]:
        return False
    (height, width), (of_sample, across) = shape[-3:-1], sample_shape[-3:-1]
    return height <= of_sample and not of_sample % height and width * of_sample == across * height


def network_cost(*args, **config) -> NetworkCost:
    """The cost of a `ResidualUViT` of these arguments, without making its weights; ValueError where that raises it."""
    with abstract_variables():
        network = ResidualUViT(*args, **config)
    return trace(network).cost


class _BlockRunner:
    """Runs blocks in order, each with its own of `embs` and of the dropout seeds [blocks, B, 2], those that attend
    with the `text`, if there is one, and which of it are tokens. keras.remat gets what has a gradient as arguments, and
    the block's whole __call__: torch's backward pass may run it in another thread, which knows nothing of this one's
    autocasting."""

    def __init__(self, embs, text, training, seeds, eagerly: bool):
        self.embs, self.text, self.training, self.seeds = embs, text, training, seeds
        self.eagerly, self.count = eagerly, 0

    def __call__(self, blocks, h, remat: bool):
        for block in blocks:
            seed = self.seeds[self.count] if self.seeds is not None and block.dropout else None
            text = self.text if isinstance(block, layers.TransformerBlock) else {}
            given = {"training": self.training, "seed": seed, **text}
            if self.eagerly:
                run = functools.partial(block, **given)
            else:
                run = backend.recorded_block(block, h, self.embs[self.count], **given)
            h = (keras.remat(run) if remat and self.training else run)(h, self.embs[self.count])
            self.count += 1
        return h
