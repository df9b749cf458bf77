"""Question: does a network of clips go on as the frames that it is given tell, and what does attention in turn cost?

    python benchmarks/moving_digits.py --json=result.json --gif=result.gif

Two of scikit-learn's digits move through 16 x 16 pixels and turn back at the edges, 1 or 2 pixels a frame along each
axis; of 16 frames the first 5 are given. What comes then is certain, so each made frame has a true one:

    error       mean squared error of made frames, in [-1, 1], by that of a copy of the last given frame
    accuracy    share of the digits, cut out at their true places where they do not overlap, that a classifier of
                single digits takes for what they are; beside it the same of true frames
    place       pixels from where a digit is found (the best match of its own 8 x 8 pixels) to where it should be;
                beside it the same of the last given frame (copy), and of going straight on and staying at the edge

Rows: 5 frames given and attention over all positions of all frames, or within frames and along time in turn; and one
frame given, which does not tell where to. Expected: the first two alike and near the truth, the third far from it.
"""

import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS
FRAMES, SIDE, DIGIT = 16, 16, 8
CASES = {"all, 5 given": ("all", 5), "alternate, 5 given": ("alternate", 5), "all, 1 given": ("all", 1)}


def _define_flags():
    flags.DEFINE_integer("steps", 3000, "Training steps of each row.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "Clips a step.", lower_bound=1)
    flags.DEFINE_integer("clips", 128, "Clips that are made and judged.", lower_bound=2)
    flags.DEFINE_integer("num_steps", 64, "Sampler steps.", lower_bound=1)
    flags.DEFINE_list("cases", [str(i) for i in range(len(CASES))], "Which rows, from 0.")
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("gif", None, "Where to show eight clips: the true ones above those of the first row.")


class Clips:
    """Clips of digits `images` uint8 [N, 8, 8], each a function of its number."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, seed: int):
        self.images, self.labels, self.seed = images, labels, seed

    def __call__(self, numbers) -> dict[str, np.ndarray]:
        """clips uint8 [n, F, 16, 16, 1]; digits [n, 2], numbers of images; places int [n, F, 2, 2] and straight, those
        without turning back."""
        rows = [self._one(number) for number in numbers]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _one(self, number: int) -> dict[str, np.ndarray]:
        rng, room = np.random.default_rng([self.seed, number]), SIDE - DIGIT
        digits, start = rng.integers(len(self.images), size=2), rng.integers(room + 1, size=(2, 2))
        speed = rng.choice([-2, -1, 1, 2], size=(2, 2))
        ahead = start + speed * np.arange(FRAMES)[:, None, None]
        places = room - np.abs(ahead % (2 * room) - room)
        given = places[4] + np.sign(places[4] - places[3]) * np.abs(speed) * np.arange(-4, FRAMES - 4)[:, None, None]
        clip = np.zeros((FRAMES, SIDE, SIDE, 1), "uint8")
        for frame, place in zip(clip, places, strict=True):
            for digit, (y, x) in zip(digits, place, strict=True):
                window = frame[y : y + DIGIT, x : x + DIGIT, 0]
                np.maximum(window, self.images[digit], out=window)
        return {"clips": clip, "digits": digits, "places": places, "straight": np.clip(given, 0, room)}


def _cut_out(clips: np.ndarray, places: np.ndarray) -> np.ndarray:
    """uint8 [n, F, 2, 8, 8] at `places`."""
    windows = np.lib.stride_tricks.sliding_window_view(clips[..., 0], (DIGIT, DIGIT), axis=(2, 3))
    n, frame = np.indices(places.shape[:2])
    return windows[n[..., None], frame[..., None], places[..., 0], places[..., 1]]


def _found(clips: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Places [n, F, 2, 2] at which a clip is most like its digits [n, 2, 8, 8]."""
    windows = np.lib.stride_tricks.sliding_window_view(clips[..., 0].astype("float32"), (DIGIT, DIGIT), axis=(2, 3))
    error = [np.square(windows - digit[:, None, None, None]).sum((-2, -1)) for digit in np.moveaxis(digits, 1, 0)]
    best = np.stack([each.reshape(*each.shape[:2], -1).argmin(-1) for each in error], axis=-1)
    return np.stack(np.unravel_index(best, error[0].shape[2:]), axis=-1)


def _distance(places, others) -> float:
    return float(np.sqrt(np.square(places - others).sum(-1)).mean())


def judged(made: np.ndarray, true: dict, of: Clips, given: int) -> dict[str, float]:
    """Of clips [n, F, 16, 16, 1] made for the clips `true`; see above."""
    from keras_sid2.evaluation import ImageClassifier

    classifier = ImageClassifier(of.images[..., None], of.labels)
    rest, labels = slice(given, None), of.labels[true["digits"]]
    places, digits = true["places"][:, rest], of.images[true["digits"]]
    apart = (np.abs(places[..., 0, :] - places[..., 1, :]) >= DIGIT).any(-1)
    wanted = np.broadcast_to(labels[:, None], places.shape[:3])[apart].ravel()
    copy = np.broadcast_to(true["clips"][:, given - 1 : given], made[:, rest].shape)
    found = {"accuracy": made, "accuracy_true": true["clips"]}
    found = {
        name: classifier.accuracy(_cut_out(clips[:, rest], places)[apart].reshape(-1, DIGIT, DIGIT, 1), wanted)
        for name, clips in found.items()
    }
    squared = [np.square((clips / 127.5) - true["clips"][:, rest] / 127.5).mean() for clips in (made[:, rest], copy)]
    return {
        "error_by_copy": float(squared[0] / squared[1]),
        **found,
        "place": _distance(_found(made[:, rest], digits), places),
        "place_true": _distance(_found(true["clips"][:, rest], digits), places),
        "place_copy": _distance(true["places"][:, given - 1 : given], places),
        "place_straight": _distance(true["straight"][:, rest], places),
    }


def network_of(attention: str, given: int):
    from keras_sid2 import Level, ResidualUViT
    from keras_sid2.conditions import Frames

    shape = (FRAMES, SIDE, SIDE, 1)
    levels = [Level("res", 32, 1), Level("transformer", 96, 3, head_dim=32, attention=attention)]
    return ResidualUViT(shape, 2, None, 96, levels, conditions={"given": Frames(shape, given)})


def _trained(network, clips: Clips):
    import keras

    from keras_sid2 import AdamRecipe, SiD2Model, SigmoidWeighting
    from keras_sid2.diffusion import CosineSchedule

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return FLAGS.steps

        def __getitem__(self, step):
            first = step * FLAGS.batch_size
            return {"video": clips(range(first, first + FLAGS.batch_size))["clips"]}

    recipe = AdamRecipe(learning_rate=1e-3, warmup_steps=100, ema_decay=0.998, ema_warmup=True)
    model = SiD2Model(network, CosineSchedule(), SigmoidWeighting(2.0), label_dropout=0.1, recipe=recipe)
    model.compile()
    history = model.fit(Batches(), epochs=1, shuffle=False, verbose=2)
    return model, float(history.history["loss"][-1])


def _row(name: str, train: Clips, test: Clips) -> tuple[dict, np.ndarray, dict]:
    from keras_sid2.models.tracing import trace

    attention, given = CASES[name]
    began, true = time.process_time(), test(range(FLAGS.clips))
    network = network_of(attention, given)
    cost = trace(network).cost
    model, loss = _trained(network, train)
    made = model.generate(conditions={"given": true["clips"][:, :given]}, num_steps=FLAGS.num_steps, seed=1)
    row = {"case": name, "multiply_adds": cost.multiply_adds, "loss": loss, **judged(made, true, test, given)}
    return {**row, "processor_seconds": time.process_time() - began}, made, true


def main(argv):
    del argv
    import keras
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")
    half = len(images) // 2  # no digit of the clips that are judged was trained on
    train, test = Clips(images[:half], digits.target[:half], 0), Clips(images[half:], digits.target[half:], 1)
    settings = {name: getattr(FLAGS, name) for name in ("steps", "batch_size", "clips", "num_steps")}
    settings["backend"] = keras.backend.backend()
    rows, shown = [], None
    for name in [list(CASES)[int(case)] for case in FLAGS.cases]:
        row, made, true = _row(name, train, test)
        rows.append(row)
        print(json.dumps(row), flush=True)
        shown = shown if shown is not None else np.concatenate([true["clips"][:8], made[:8]])
        if FLAGS.json:
            result = {"program": "moving_digits", "machine": report.machine(), "settings": settings, "rows": rows}
            pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")
    if FLAGS.gif:
        from keras_sid2.io.image_files import image_grid, write_animation

        frames = [image_grid(frame, columns=8) for frame in np.moveaxis(shown, 1, 0)]
        write_animation(FLAGS.gif, frames, seconds=FRAMES / 4, hold=0.0)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
