"""Question: does a network of clips go on as the frames that it is given tell, and what does attention in turn cost?

    python benchmarks/moving_digits.py --digits=1 --fastest=1 --steps=1200 --json=result.json --gif=result.gif

Scikit-learn's digits (--digits: how many) move through 16 x 16 pixels and turn back at the edges, 1 to --fastest pixels
a frame along each axis; of 16 frames the first 5 are given. What comes then is certain, so each made frame has a true
one. Networks are trained on windows of 6 frames, of which the last is made, and draw the 11 frames by sliding on.

    error       mean squared error of made frames, in [-1, 1], by that of a copy of the last given frame; first: of the
                first made one
    accuracy    share of the digits, cut out at their true places where they do not overlap, that a classifier of
                single digits takes for what they are; beside it the same of true frames and of the copy
    place       pixels from where a digit is found (the best match of its own 8 x 8 pixels) to where it should be;
                beside it the same of the last given frame (copy), and of going straight on and staying at the edge

Rows: 5 frames given and attention within frames and along time in turn, or over all positions of all frames; and one
frame given, which does not tell where to. Expected: the first two near the truth, the third far from it. After 1200
steps of one digit, a pixel a frame, only the first is.

The next frame is a function of the given ones, so it has to be told where noise leaves nothing of it to be seen. There
the usual sigmoid weighting has next to no weight: with it, direction was not learnt in 2500 steps. So the error in x
has the same weight at all noise levels here, the schedule is moved by a factor of 8 to noise, and its ends are cut,
where few draws would have very large weights.
"""

import json
import pathlib
import time

import numpy as np
import report
from absl import app, flags

FLAGS = flags.FLAGS
FRAMES, SIDE, DIGIT = 16, 16, 8
CASES = {"alternate, 5 given": ("alternate", 5), "all, 5 given": ("all", 5), "alternate, 1 given": ("alternate", 1)}


def _define_flags():
    flags.DEFINE_integer("steps", 3000, "Training steps of each row, by the hundred.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "Clips a step.", lower_bound=1)
    flags.DEFINE_integer("clips", 128, "Clips that are made and judged.", lower_bound=2)
    flags.DEFINE_integer("digits", 2, "Digits in a clip.", lower_bound=1)
    flags.DEFINE_integer("fastest", 2, "Most pixels a frame along an axis.", lower_bound=1)
    flags.DEFINE_integer("num_steps", 16, "Sampler steps of each window.", lower_bound=1)
    flags.DEFINE_list("cases", [str(i) for i in range(len(CASES))], "Which rows, from 0.")
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("gif", None, "Where to show eight clips: the true ones above those of the first row.")


def clips_of(images: np.ndarray, count: int, seed: int) -> dict[str, np.ndarray]:
    """Clips of digits uint8 [N, 8, 8]: "clips" uint8 [n, F, 16, 16, 1]; "digits" [n, D], numbers of images; "places"
    int [n, F, D, 2], and "straight", those without turning back."""
    rng, room, of_each = np.random.default_rng(seed), SIDE - DIGIT, (count, FLAGS.digits)
    digits, start = rng.integers(len(images), size=of_each), rng.integers(room + 1, size=(*of_each, 2))
    speed = rng.choice([-1, 1], size=start.shape) * rng.integers(1, FLAGS.fastest + 1, size=start.shape)
    steps = np.arange(FRAMES)[:, None, None]
    places = room - np.abs((start[:, None] + speed[:, None] * steps) % (2 * room) - room)
    heading = np.sign(places[:, 4] - places[:, 3]) * np.abs(speed)
    straight = np.clip(places[:, 4, None] + heading[:, None] * (steps - 4), 0, room)
    clips = np.zeros((count, FRAMES, SIDE, SIDE), "uint8")
    n, frame = (index[..., None, None] for index in np.indices((count, FRAMES)))
    for digit in range(FLAGS.digits):
        y, x = (places[:, :, digit, axis, None, None] for axis in (0, 1))
        at = n, frame, y + np.arange(DIGIT)[:, None], x + np.arange(DIGIT)
        clips[at] = np.maximum(clips[at], images[digits[:, digit], None])
    return {"clips": clips[..., None], "digits": digits, "places": places, "straight": straight}


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


def judged(made: np.ndarray, true: dict, images: np.ndarray, labels: np.ndarray, given: int) -> dict[str, float]:
    """Of clips [n, F, 16, 16, 1] made for the clips `true` of digits `images` with `labels`; see above."""
    from keras_sid2.evaluation import ImageClassifier

    classifier, rest = ImageClassifier(images[..., None], labels), slice(given, None)
    places, digits = true["places"][:, rest], images[true["digits"]]
    apart = np.ones(places.shape[:2], bool)
    if FLAGS.digits > 1:
        apart = (np.abs(places[..., 0, :] - places[..., 1, :]) >= DIGIT).any(-1)
    wanted = np.broadcast_to(labels[true["digits"]][:, None], places.shape[:3])[apart].ravel()
    copy = np.broadcast_to(true["clips"][:, given - 1 : given], true["clips"].shape)
    found = {"accuracy": made, "accuracy_true": true["clips"], "accuracy_copy": copy}
    found = {
        name: classifier.accuracy(_cut_out(clips[:, rest], places)[apart].reshape(-1, DIGIT, DIGIT, 1), wanted)
        for name, clips in found.items()
    }
    truth = true["clips"] / 127.5
    ours, copied = (np.square(clips / 127.5 - truth)[:, rest].mean((0, 2, 3, 4)) for clips in (made, copy))
    return {
        "error": float(ours.mean() / copied.mean()),
        "error_first": float(ours[0] / copied[0]),
        **found,
        "place": _distance(_found(made[:, rest], digits), places),
        "place_true": _distance(_found(true["clips"][:, rest], digits), places),
        "place_copy": _distance(true["places"][:, given - 1 : given], places),
        "place_straight": _distance(true["straight"][:, rest], places),
        "given_unchanged": bool((made[:, :given] == true["clips"][:, :given]).all()),
    }


def network_of(attention: str, given: int):
    from keras_sid2 import Level, ResidualUViT
    from keras_sid2.conditions import Frames

    shape = (given + 1, SIDE, SIDE, 1)
    levels = [Level("res", 32, 1), Level("transformer", 96, 4, head_dim=32, attention=attention)]
    return ResidualUViT(shape, 2, None, 96, levels, conditions={"given": Frames(shape, given)})


def _trained(network, clips: np.ndarray):
    import keras

    from keras_sid2 import AdamRecipe, SiD2Model
    from keras_sid2.diffusion import ConstantXWeighting, ShiftedCosineSchedule

    frames = network.sample_shape[0]

    class Windows(keras.utils.PyDataset):
        epoch = 0

        def __len__(self):
            return min(100, FLAGS.steps)

        def on_epoch_end(self):
            self.epoch += 1

        def __getitem__(self, step):
            rng = np.random.default_rng([7, self.epoch, step])
            clip, first = rng.integers([len(clips), FRAMES - frames + 1], size=(FLAGS.batch_size, 2)).T
            return {"video": clips[clip[:, None], first[:, None] + np.arange(frames)]}

    recipe = AdamRecipe(learning_rate=1.5e-3, warmup_steps=100, ema_decay=0.99, ema_warmup=True)
    schedule = ShiftedCosineSchedule(SIDE / 8, SIDE, logsnr_min=-4.0, logsnr_max=8.0)
    model = SiD2Model(network, schedule, ConstantXWeighting(), label_dropout=0.0, recipe=recipe)
    model.compile()
    history = model.fit(Windows(), epochs=max(1, FLAGS.steps // 100), shuffle=False, verbose=2)
    return model, float(history.history["loss"][-1])


def _row(name: str, train: np.ndarray, true: dict, images: np.ndarray, labels: np.ndarray) -> tuple[dict, np.ndarray]:
    from keras_sid2.models.tracing import trace

    attention, given = CASES[name]
    began, network = time.process_time(), network_of(attention, given)
    cost = trace(network).cost
    model, loss = _trained(network, train)
    trained = time.process_time()
    conditions = {"given": true["clips"][:, :given]}
    made = model.generate(conditions=conditions, num_frames=FRAMES, num_steps=FLAGS.num_steps, seed=1)
    row = {"case": name, "multiply_adds": cost.multiply_adds, "loss": loss}
    row |= judged(made, true, images, labels, given)
    seconds = {"training_seconds": trained - began, "drawing_seconds": time.process_time() - trained}
    return row | seconds, made


def main(argv):
    del argv
    import keras
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype("uint8")
    half = len(images) // 2  # no digit of the clips that are judged was trained on
    train, test = clips_of(images[:half], 20_000, 0)["clips"], (images[half:], digits.target[half:])
    true = clips_of(test[0], FLAGS.clips, 1)
    names = ("steps", "batch_size", "clips", "digits", "fastest", "num_steps")
    settings = {name: getattr(FLAGS, name) for name in names} | {"backend": keras.backend.backend()}
    rows, shown = [], None
    for name in [list(CASES)[int(case)] for case in FLAGS.cases]:
        row, made = _row(name, train, true, *test)
        rows.append(row)
        print(json.dumps(row), flush=True)
        if FLAGS.json:
            result = {"program": "moving_digits", "machine": report.machine(), "settings": settings, "rows": rows}
            pathlib.Path(FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")
        if FLAGS.gif and shown is None:
            shown = np.concatenate([true["clips"][:8], made[:8]])
            _show(shown)


def _show(clips: np.ndarray):
    from keras_sid2.io.image_files import image_grid, write_animation

    frames = [image_grid(frame, columns=8) for frame in np.moveaxis(clips, 1, 0)]
    write_animation(FLAGS.gif, frames, seconds=FRAMES / 4, hold=0.0)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
