"""Text to picture on emoji: what sid2_emoji_trained was trained with.

    sid2-data prepare emoji --source=/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf --image_size=32 --config=chosen \
        --words=$(python examples/emoji_preset.py) --text_encoder=minilm@16 --data_dir=data
    sid2-train --config=examples/emoji_preset.py --data=data/emoji/chosen --workdir=runs/emoji --steps=3944
    sid2-train --config=examples/emoji_preset.py --data=data/emoji/chosen --workdir=runs/emoji_end --steps=3500 \
        --init_from=runs/emoji --lr_decay=linear
    sid2-sample --workdir=runs/emoji_end --text="red heart" --text="yellow circle" --guidance_scale=2 --out=emoji

`sid2_t2i_small` with convolutions at 16 x 16 and 8 x 8 and attention, to the text too, at 4 x 4. 242 emoji, of which 6
are left out of training, are what a laptop learns in an hour; all 3800 are not.
"""

import dataclasses

from keras_sid2.diffusion import ConstantXWeighting, ShiftedCosineSchedule
from keras_sid2.training.preset import find_preset

WORDS = (
    "heart,face,circle,square,moon,cat,star,apple,pear,lemon,tangerine,banana,watermelon,strawberry,cherries,tomato,"
    "peach,mango,pineapple,tree,book,cloud,sun,tulip,rose,blossom,mushroom,pizza,balloon,"
    "-skin,-flag,-person,-man,-woman,-couple,-button,-Japanese"
)
_LEVELS = (
    {"kind": "res", "channels": 48, "blocks": 1},
    {"kind": "res", "channels": 96, "blocks": 1},
    {"kind": "transformer", "channels": 256, "blocks": 4, "head_dim": 32},
)
_small = find_preset("sid2_t2i_small")
preset = dataclasses.replace(
    _small,
    name="sid2_emoji",
    description="242 emoji, 32 x 32, by name",
    network={**_small.network, "embedding_dim": 192, "levels": _LEVELS},
    # As for scenes of digits (docs/guides/text.md): what is where is settled where the sigmoid weighting vanishes.
    objective=dataclasses.replace(
        _small.objective,
        schedule=ShiftedCosineSchedule(8, 32, logsnr_min=-6.0, logsnr_max=8.0),
        weighting=ConstantXWeighting(),
    ),
    recipe=dataclasses.replace(_small.recipe, ema_decay=0.998),
    batch_size=32,
)

if __name__ == "__main__":
    print(WORDS)
