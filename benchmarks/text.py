"""Question: does a network draw what a caption says, in combinations that it never saw?

    python benchmarks/text.py --workdir=runs/scenes --steps=8000 --json=result.json --png=result.png

Trains on the captioned pictures of the data set digit_scenes ("two red threes above a blue seven") with the embeddings
of a text encoder, and draws captions of its test split: in each a digit has a colour that no training picture shows it
in. --workdir keeps checkpoints: the same command goes on from them, and with as many steps as are there only judges.

Each picture is read cell by cell: a cell is empty, or has a digit, of the kind of the three most like it in the
training handwriting (most of them), in the nearest of the five colours. What is read is compared with the caption:

    digit, colour   share of the digits that are drawn that are of the kind, or colour, that is said of their group
    count           share of the groups with as many digits as is said
    place           share of the pictures whose digits lie in two rows (columns), the group that is named first above
                    (left of ...) the other, as far as kinds and colours tell
    held_out        share of the groups in a colour never seen that are right: count, and each digit and colour
    scene           share of the pictures in which all of that is right

Rows: the true pictures, which tell how good the reading is; drawn ones at each scale of guidance; and drawn ones, read
as if each was drawn for the caption of another, which is chance. Then negative text: pictures drawn with no caption and
guidance away from "a COLOUR DIGIT above a COLOUR DIGIT", and how many of their digits have that colour.
"""

import functools
import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

from pipelines.datasets import digit_scenes
from pipelines.datasets.digit_scenes import CELL, CELLS, COLOURS, RELATIONS, Scene, picture_of, scene_of, to_cells

FLAGS = flags.FLAGS
_SEEN = 64  # grey levels, the brightest pixel of a cell that has a digit


def _define_flags():
    flags.DEFINE_string("workdir", None, "Where checkpoints are kept.", required=True)
    flags.DEFINE_integer("steps", 8000, "Training steps, by the hundred.", lower_bound=100)
    flags.DEFINE_integer("batch_size", 32, "Pictures a step.", lower_bound=1)
    flags.DEFINE_string("text_encoder", "minilm@16", "Makes the embeddings; pipelines.text_encoder's names.")
    flags.DEFINE_integer("scenes", 128, "Captions that are drawn and judged.", lower_bound=2)
    flags.DEFINE_integer("num_steps", 32, "Sampler steps.", lower_bound=1)
    flags.DEFINE_list("scales", ["1", "2", "3"], "Of guidance.")
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("png", None, "Where to show sixteen pictures at the last scale, with their captions.")


# -- reading pictures --------------------------------------------------------------------------------------


@functools.cache
def _classifier():
    from sklearn.neighbors import KNeighborsClassifier

    of_kind = digit_scenes.handwriting("train")
    kinds = np.repeat(np.arange(10), [len(pixels) for pixels in of_kind])
    return KNeighborsClassifier(3).fit(np.concatenate(of_kind).reshape(len(kinds), -1), kinds)


def read(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 16, 16, 3] as kinds and colours, ints [N, 2, 2]; -1 where a cell is empty."""
    cells = to_cells(pictures)
    grey = cells.max(-1, keepdims=True)
    kinds = _classifier().predict(grey.reshape(-1, CELL * CELL)).reshape(grey.shape[:3])
    light = cells.sum((-3, -2), dtype=float)
    light /= np.maximum(light.max(-1, keepdims=True), 1.0)
    names = np.array(list(COLOURS.values())) / 255.0
    colours = np.square(light[..., None, :] - names).sum(-1).argmin(-1)
    empty = grey.max((-3, -2, -1)) < _SEEN
    return np.where(empty, -1, kinds), np.where(empty, -1, colours)


def agreement(scene: Scene, kinds: np.ndarray, colours: np.ndarray) -> dict[str, list[bool]]:
    """What of a scene is right in one picture, as `read` has it: lists, of digits, of groups, or of one."""
    if RELATIONS[scene.relation][0] == 1:
        kinds, colours = kinds.T, colours.T
    lines = [line for line in range(CELLS) if (kinds[line] >= 0).any()]
    if not lines:
        kinds, lines = kinds * 0, [0]  # an empty picture: as if all were wrong
        colours = kinds - 1
    names = list(COLOURS)
    found = [
        [(kinds[line] == group.digit, colours[line] == names.index(group.colour)) for group in scene.in_order]
        for line in (lines[0], lines[-1])
    ]
    score = [[kind.sum() + colour.sum() for kind, colour in of_line] for of_line in found]
    right = {"digit": [], "colour": [], "count": [], "held_out": []}
    for place, (line, group) in enumerate(zip((lines[0], lines[-1]), scene.in_order, strict=True)):
        there = colours[line] >= 0
        kind, colour = (part[there] for part in found[place][place])
        right["digit"] += kind.tolist() or [False]
        right["colour"] += colour.tolist() or [False]
        right["count"].append(bool(there.sum() == group.count))
        if group.held_out:
            right["held_out"].append(bool(there.sum() == group.count and kind.all() and colour.all()))
    swapped = score[0][1] + score[1][0] > score[0][0] + score[1][1]
    right["place"] = [len(lines) == 2 and not swapped]
    right["scene"] = [all(map(all, right.values()))]
    return right


def judged(pictures: np.ndarray, scenes: list[Scene]) -> dict[str, float]:
    """The means of `agreement` over pictures, each of its scene."""
    each = [agreement(scene, *read_one) for scene, *read_one in zip(scenes, *read(pictures), strict=True)]
    joined = {name: [right for one in each for right in one[name]] for name in each[0]}
    return {name: float(np.mean(rights)) for name, rights in joined.items() if rights}


# -- training and drawing ----------------------------------------------------------------------------------


def _trained(encoder):
    """The model after --steps, from the newest checkpoint on."""
    import keras

    from keras_sid2 import AdamRecipe, Level, ResidualUViT, SiD2Model
    from keras_sid2.backend import steps_done
    from keras_sid2.callbacks.saving import SaveCheckpoints
    from keras_sid2.checkpoints import load_model, newest_sound
    from keras_sid2.conditions import TextEmbedding
    from keras_sid2.diffusion import ConstantXWeighting, ShiftedCosineSchedule

    folder = pathlib.Path(FLAGS.workdir) / "checkpoints"
    if folder.is_dir() and (newest := newest_sound(folder, print, set_aside=True)):
        model = load_model(newest)
    else:
        text = TextEmbedding(encoder.length, encoder.width, encoder=encoder.signature, whitened=True)
        levels = [Level("res", 32, 1), Level("res", 96, 1), Level("transformer", 256, 4, head_dim=32)]
        network = ResidualUViT(picture_of("train", 0).shape, 2, None, 192, levels, conditions={"text": text})
        recipe = AdamRecipe(learning_rate=1e-3, warmup_steps=200, ema_decay=0.998, ema_warmup=True)
        # What lies where is settled at noise where the sigmoid weighting vanishes (docs/guides/video.md).
        schedule = ShiftedCosineSchedule(4, 16, logsnr_min=-6.0, logsnr_max=8.0)
        model = SiD2Model(network, schedule, ConstantXWeighting(), label_dropout=0.1, recipe=recipe)
        model.compile()
    if (done := steps_done(model)) >= FLAGS.steps:
        return model, {}
    count = digit_scenes.SIZES["train"]
    pictures = np.stack([picture_of("train", number) for number in range(count)])
    texts = encoder([str(scene_of("train", number)) for number in range(count)]).astype("float16")
    if not done:
        model.network.adapt_text(texts[:1024])

    class Batches(keras.utils.PyDataset):
        epoch = done // 100

        def __len__(self):
            return 100

        def on_epoch_end(self):
            self.epoch += 1

        def __getitem__(self, step):
            chosen = np.random.default_rng([7, self.epoch, step]).integers(count, size=FLAGS.batch_size)
            return {"image": pictures[chosen], "text": texts[chosen].astype("float32")}

    began, saver = time.process_time(), SaveCheckpoints(folder, every=500, keep=1)
    epochs = {"initial_epoch": done // 100, "epochs": FLAGS.steps // 100}
    history = model.fit(Batches(), **epochs, shuffle=False, verbose=2, callbacks=[saver])
    told = {"loss": float(history.history["loss"][-1]), "training_seconds": time.process_time() - began}
    return model, told | {"from_step": done}


def _drawn(model, encoder, captions, seed: int, scale: float, negative: str = "") -> np.ndarray:
    from keras_sid2 import Guidance

    how = {"num_steps": FLAGS.num_steps, "text_encoder": encoder, "seed": seed, "batch_size": 64}
    guidance = None if scale == 1.0 else Guidance(scale)
    return model.generate(text=captions, guidance=guidance, negative_text=negative or None, **how)


def _negative(model, encoder, scale: float = 2.0, count: int = 32) -> list[dict]:
    """Of digits drawn with no caption: the share in a colour without and with a negative text that says it."""

    def shares(scale: float, negative: str) -> np.ndarray:
        _, colours = read(_drawn(model, encoder, [""] * count, 2, scale, negative))
        return np.bincount(colours[colours >= 0], minlength=len(COLOURS)) / max(1, (colours >= 0).sum())

    plain = shares(1.0, "")
    told = [shares(scale, f"a {colour} three above a {colour} seven")[i] for i, colour in enumerate(COLOURS)]
    return [
        {"colour": colour, "share": float(plain[i]), "share_with_negative": float(told[i])}
        for i, colour in enumerate(COLOURS)
    ]


def main(argv):
    del argv
    import keras

    import pipelines
    from keras_sid2.backend import steps_done

    encoder = pipelines.text_encoder(FLAGS.text_encoder)
    model, told = _trained(encoder)
    scenes = [scene_of("test", number) for number in range(FLAGS.scenes)]
    captions, others = list(map(str, scenes)), scenes[1:] + scenes[:1]
    true = np.stack([picture_of("test", number) for number in range(FLAGS.scenes)])
    rows = [{"pictures": "true", **judged(true, scenes)}]
    for scale in map(float, FLAGS.scales):
        pictures = _drawn(model, encoder, captions, 1, scale)
        rows.append({"pictures": "drawn", "guidance": scale, **judged(pictures, scenes)})
        print(json.dumps(rows[-1]), flush=True)
    rows.append({"pictures": "drawn for another caption", "guidance": scale, **judged(pictures, others)})
    names = ("batch_size", "text_encoder", "scenes", "num_steps")
    settings = {name: getattr(FLAGS, name) for name in names} | {"backend": keras.backend.backend()}
    settings |= {"step": steps_done(model), "signature": encoder.signature, "parameters": model.network.count_params()}
    result = {"program": "text", "machine": report.machine(), "settings": settings, "training": told, "rows": rows}
    result["negative_text"] = _negative(model, encoder)
    print(json.dumps(result, indent=1))
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")
    if FLAGS.png:
        _show(pictures[:16], captions[:16])


def _show(pictures: np.ndarray, captions: list[str]):
    from keras_sid2.io.image_files import image_grid, write_png

    wide = pictures.repeat(7, axis=1).repeat(7, axis=2)
    write_png(FLAGS.png, image_grid(wide, captions, columns=4))


if __name__ == "__main__":
    _define_flags()
    app.run(main)
