"""Every number of every preset.

Grades of a number's source: P the SiD2 paper (2410.19324), several readers agree; p the paper, one reader; L its
lineage (simple diffusion 2301.11093 and later work of its authors); M mathematics; O not found anywhere: our choice.
Trained weights are folders beside, in trained/.
"""

import dataclasses

from keras_sid2.conditions import Frames, TextEmbedding
from keras_sid2.diffusion import CosineInterpolatedSchedule, CosineSchedule, SigmoidWeighting
from keras_sid2.sampling import DDIMSampler
from keras_sid2.training.optimizer import AdamRecipe
from keras_sid2.training.preset import Preset, register_preset

# P: widths, kinds and dropout of the levels, 16 blocks in the middle; 3 + 3 of the 6 blocks of the others is likely.
_PAPER_LEVELS = (
    {"kind": "res", "channels": 128, "blocks": 3},
    {"kind": "res", "channels": 256, "blocks": 3},
    {"kind": "transformer", "channels": 512, "blocks": 3, "dropout": 0.1, "head_dim": 128},  # head_dim O
    {"kind": "transformer", "channels": 1024, "blocks": 16, "dropout": 0.1, "head_dim": 128},  # head_dim O
)


_PAPER_RECIPE = AdamRecipe(
    learning_rate=1e-4,
    warmup_steps=10_000,
    ema_decay=0.9999,
    clip_norm=1.0,  # all L
    ema_warmup=True,  # O: at 0.9999 the first weights would count 37 % after 10,000 steps
)


def _imagenet(resolution: int, patch_size: int, description: str, **changes) -> Preset:
    shape = (resolution, resolution, 3)
    usual = {
        "schedule": CosineInterpolatedSchedule(resolution, low=32.0),  # P at 512; low and high elsewhere are O
        "recipe": _PAPER_RECIPE,
        "batch_size": 2048,  # O; the lineage's usual
        "num_steps": 512,  # P
    }
    if "weighting" not in changes:
        usual["weighting"] = SigmoidWeighting.for_image_shape(shape)  # p: 0 at 128, -1 at 256, -3 at 512
    preset = Preset(
        name=f"sid2_imagenet{resolution}_uvit{patch_size}",
        description=f"ImageNet {resolution}, {description}",
        network={
            "image_shape": shape,
            "patch_size": patch_size,  # P at 256 and 512
            "num_classes": 1000,
            "embedding_dim": 1024,  # L
            "levels": _PAPER_LEVELS,
        },
        label_dropout=0.1,  # L
        guidance=None,  # the paper guides inside an interval; its scale and interval are not known (O): sweep for yours
        **{**usual, **changes},
    )
    return register_preset(preset)


# The network of the paper at 64 pixels is O. The loss, learning rate, batch and sampler are those of a public
# configuration by colleagues of its authors, which trains a U-Net of its own with them and states an FID of 2.7 after
# two million steps.
IMAGENET64_UVIT1 = _imagenet(
    64,
    1,
    "UViT/1: 33 G multiply-adds, not in the paper",
    weighting=SigmoidWeighting(2.0),
    recipe=dataclasses.replace(_PAPER_RECIPE, learning_rate=3e-5),
    batch_size=512,
    num_steps=250,
    sampler=DDIMSampler(eta=0.25),  # "a quarter of the noise", which we read so
)
IMAGENET128_UVIT1 = _imagenet(128, 1, "UViT/1: 137 G multiply-adds, FID 1.26 in the paper")  # patch size O
IMAGENET256_UVIT2 = _imagenet(256, 2, "UViT/2: 137 G multiply-adds, FID 1.73 in the paper")
IMAGENET256_UVIT1 = _imagenet(256, 1, 'UViT/1 "flop heavy": 653 G multiply-adds, FID 1.38 in the paper')
IMAGENET512_UVIT4 = _imagenet(512, 4, "UViT/4: 137 G multiply-adds, FID 2.19 in the paper")
IMAGENET512_UVIT2 = _imagenet(512, 2, 'UViT/2 "flop heavy": 653 G multiply-adds, FID 1.48 in the paper')

# Frame prediction on Kinetics-600. The paper reports it, but its network was not found, so all but the task is ours
# (O): 16 frames, of which 5 are given, is how video models are compared (MAGVIT's protocol).
_CLIP_LEVELS = (
    {"kind": "res", "channels": 128, "blocks": 3},
    {"kind": "res", "channels": 256, "blocks": 3},
    {"kind": "transformer", "channels": 512, "blocks": 4, "dropout": 0.1, "head_dim": 128, "attention": "alternate"},
    {"kind": "transformer", "channels": 1024, "blocks": 16, "dropout": 0.1, "head_dim": 128},
)


def _kinetics(resolution: int, bias: float, description: str) -> Preset:
    shape = (16, resolution, resolution, 3)
    preset = Preset(
        name=f"sid2_kinetics600_{resolution}",
        description=f"Kinetics-600, 11 of 16 frames of {resolution} x {resolution} after 5 given ones: {description}",
        network={
            "image_shape": shape,
            "patch_size": 2,
            "num_classes": None,
            "embedding_dim": 1024,
            "levels": _CLIP_LEVELS,
            "conditions": {"given": Frames(shape, 5)},
        },
        schedule=CosineInterpolatedSchedule(resolution, low=32.0),
        weighting=SigmoidWeighting(bias),
        label_dropout=0.1,
        recipe=_PAPER_RECIPE,
        batch_size=256,
        num_steps=256,
    )
    return register_preset(preset)


KINETICS600_64 = _kinetics(64, 2.0, "138 G multiply-adds a clip")
KINETICS600_128 = _kinetics(128, 0.0, "580 G multiply-adds a clip")


# Text to picture. Network, schedule, loss and recipe are those of ImageNet at that resolution, graded there. The paper
# has no text: that levels of transformers read it by cross-attention, and its size, are O; 77 x 768 is what CLIP ViT-L
# gives, and T5 and sentence encoders of 768 numbers fit, of 77 tokens at most. Nobody has trained them.
def _text_to_image(resolution: int, patch_size: int, description: str) -> Preset:
    shape = (resolution, resolution, 3)
    preset = Preset(
        name=f"sid2_t2i_{resolution}",
        description=f"Text to picture, {resolution} x {resolution}, {description}",
        network={
            "image_shape": shape,
            "patch_size": patch_size,  # P, of ImageNet
            "num_classes": None,
            "embedding_dim": 1024,  # L
            "levels": _PAPER_LEVELS,
            "conditions": {"text": TextEmbedding(77, 768)},
        },
        schedule=CosineInterpolatedSchedule(resolution, low=32.0),
        weighting=SigmoidWeighting.for_image_shape(shape),
        label_dropout=0.1,  # L, of labels
        recipe=_PAPER_RECIPE,
        batch_size=2048,  # O
        num_steps=512,  # P, of ImageNet
    )
    return register_preset(preset)


T2I_256 = _text_to_image(256, 2, "153 G multiply-adds")
T2I_512 = _text_to_image(512, 4, "153 G multiply-adds")

# The three below are ours throughout (O): the paper's network and loss at sizes that two CPU cores can train.
DIGITS = register_preset(
    Preset(
        name="sid2_digits",
        description="scikit-learn's handwritten digits, 8 x 8 grey, 10 classes: minutes on a laptop",
        network={
            "image_shape": (8, 8, 1),
            "patch_size": 1,
            "num_classes": 10,
            "embedding_dim": 128,
            "levels": (
                {"kind": "res", "channels": 48, "blocks": 1},
                {"kind": "transformer", "channels": 96, "blocks": 2, "head_dim": 32},
            ),
        },
        schedule=CosineSchedule(),  # the shift is for images above 32 pixels
        weighting=SigmoidWeighting(2.0),  # the paper's bias falls as images grow; 2 gave better digits than 0
        label_dropout=0.1,
        recipe=AdamRecipe(learning_rate=2e-3, warmup_steps=100, ema_decay=0.998, ema_warmup=True),
        batch_size=128,
        num_steps=256,
    )
)

PHOTO_PATCHES = register_preset(
    Preset(
        name="sid2_photo_patches",
        description="64 x 64 colour patches of scikit-learn's two photographs, no labels: for a laptop",
        network={
            "image_shape": (64, 64, 3),
            "patch_size": 2,
            "num_classes": None,
            "embedding_dim": 128,
            "levels": (
                {"kind": "res", "channels": 32, "blocks": 1},
                {"kind": "res", "channels": 64, "blocks": 1},
                {"kind": "transformer", "channels": 128, "blocks": 4, "dropout": 0.1, "head_dim": 32},
            ),
        },
        schedule=CosineInterpolatedSchedule(64, low=32.0),
        weighting=SigmoidWeighting(0.0),
        label_dropout=0.0,
        recipe=AdamRecipe(learning_rate=5e-4, warmup_steps=500, ema_decay=0.999, ema_warmup=True),
        batch_size=32,
        num_steps=256,
    )
)

T2I_SMALL = register_preset(
    Preset(
        name="sid2_t2i_small",
        description="Text to picture, 32 x 32, 16 tokens of 384 numbers as all-MiniLM-L6 gives: for a laptop",
        network={
            "image_shape": (32, 32, 3),
            "patch_size": 2,
            "num_classes": None,
            "embedding_dim": 256,
            "levels": (
                {"kind": "res", "channels": 32, "blocks": 1},
                {"kind": "transformer", "channels": 128, "blocks": 1, "head_dim": 32},
                {"kind": "transformer", "channels": 256, "blocks": 3, "head_dim": 32},
            ),
            "conditions": {"text": TextEmbedding(16, 384, whitened=True)},
        },
        schedule=CosineSchedule(),
        weighting=SigmoidWeighting(2.0),
        label_dropout=0.1,
        recipe=AdamRecipe(learning_rate=1e-3, warmup_steps=200, ema_decay=0.999, ema_warmup=True),
        batch_size=64,
        num_steps=256,
    )
)
