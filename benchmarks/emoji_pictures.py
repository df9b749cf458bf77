"""Question: what does the emoji model draw, and are its pictures those that it was trained on?

    python benchmarks/emoji_pictures.py --model=sid2_emoji_trained --source=NotoColorEmoji.ttf --png=result.png

Draws a picture for every caption of the data set emoji in the words of examples/emoji_preset.py, and looks for the
picture of the font nearest to it (root mean squared difference of grey levels), in training and left out:

    own        share of the drawn pictures whose nearest is that of their caption (chance: 1 of all)
    distance   mean distance to the nearest training picture
    own_distance   mean distance to the picture of its caption

Rows: captions of training, whose pictures a model of few pictures learns by heart, and those left out ("red square"),
for which there is nothing to remember. The picture shows, from above, drawn ones, the nearest of training, and the
font's own; those left out come first.
"""

import json
import pathlib
import sys

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS


def _define_flags():
    flags.DEFINE_string("model", None, "A preset's name or folder, or a run's model.keras.", required=True)
    flags.DEFINE_string("source", None, "NotoColorEmoji.ttf.", required=True)
    flags.DEFINE_float("scale", 2.0, "Of guidance.")
    flags.DEFINE_integer("num_steps", 64, "Sampler steps.", lower_bound=1)
    flags.DEFINE_integer("every", 1, "Draw every n-th caption of training only.", lower_bound=1)
    flags.DEFINE_integer("shown", 26, "Captions of training in the picture.", lower_bound=1)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("png", None, "Where to show the pictures.")


def _font_pictures(source: str, words: str, side: int) -> dict[str, dict[str, np.ndarray]]:
    """{split: {caption: uint8 [side, side, 3]}}."""
    import io

    from PIL import Image

    from pipelines.datasets.emoji import Emoji, EmojiConfig

    builder = Emoji(data_dir="unused", config=EmojiConfig(source=source, image_size=side, words=words))
    return {
        split: {
            builder.caption(item): np.asarray(Image.open(io.BytesIO(builder.example(item).features["image"])))
            for item in items
        }
        for split, items in builder.listing().items()
    }


def distances(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root mean squared differences of grey levels of uint8 [N, H, W, C] and [M, H, W, C], [N, M]."""
    a, b = (x.reshape(len(x), -1).astype("float64") for x in (pictures, others))
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0.0) / a.shape[1])


def main(argv):
    del argv
    import keras

    import keras_sid2
    import pipelines
    from keras_sid2.checkpoints import load_model

    sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
    from emoji_preset import WORDS

    saved = pathlib.Path(FLAGS.model).suffix == ".keras" or (pathlib.Path(FLAGS.model) / "model.keras").exists()
    model = load_model(FLAGS.model) if saved else keras_sid2.SiD2Model.from_preset(FLAGS.model)
    encoder = pipelines.text_encoder(model.conditions["text"].encoder)
    font = _font_pictures(FLAGS.source, WORDS, model.network.sample_shape[0])
    train, everything = np.stack(list(font["train"].values())), {**font["train"], **font["test"]}
    names, rows, shown = list(everything), [], {}
    for split, captions in {"test": list(font["test"]), "train": list(font["train"])[:: FLAGS.every]}.items():
        how = {"num_steps": FLAGS.num_steps, "text_encoder": encoder, "seed": 0, "batch_size": 64}
        drawn = model.generate(text=captions, guidance=keras_sid2.Guidance(FLAGS.scale), **how)
        found = distances(drawn, np.stack(list(everything.values())))
        nearest = distances(drawn, train)
        rows.append({
            "captions": split, "count": len(captions),
            "own": float(np.mean([names[i] == name for i, name in zip(found.argmin(1), captions, strict=True)])),
            "distance": float(nearest.min(1).mean()),
            "own_distance": float(np.mean([row[names.index(name)] for row, name in zip(found, captions, strict=True)])),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
        shown[split] = [(name, picture, train[i]) for name, picture, i in zip(captions, drawn, nearest.argmin(1))]  # noqa: B905
    settings = {"model": FLAGS.model, "scale": FLAGS.scale, "num_steps": FLAGS.num_steps, "pictures": len(names)}
    settings |= {"parameters": model.network.count_params(), "backend": keras.backend.backend()}
    result = {"program": "emoji", "machine": report.machine(), "settings": settings, "rows": rows}
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")
    if FLAGS.png:
        step = max(1, len(shown["train"]) // FLAGS.shown)
        _show([*shown["test"], *shown["train"][::step][: FLAGS.shown]], everything)


def _show(found: list[tuple], everything: dict[str, np.ndarray]):
    from keras_sid2.io.image_files import image_grid, write_png

    columns = [np.concatenate([drawn, nearest, everything[name]]) for name, drawn, nearest in found]
    wide = np.stack(columns).repeat(3, axis=1).repeat(3, axis=2)
    write_png(FLAGS.png, image_grid(wide, [name[:16] for name, *_ in found], columns=8))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
