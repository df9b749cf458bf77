"""sid2-demo: from nothing to digits that the model drew, and their quality.

    sid2-demo --workdir=runs/digits

writes scikit-learn's handwritten digits as TFRecord, trains `sid2_digits` on them, draws as many digits as there are
real ones, and prints quality against these: runs/digits/digits.png, .npz, quality.json. A second start continues, and
where all is done it prints the same again.
"""

import functools
import pathlib

import numpy as np
from rich.console import Console

import pipelines
from keras_sid2.backend import steps_done
from keras_sid2.bin.common import make_folders, print_result, run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.flag_table import check
from keras_sid2.bin.measuring import open_images
from keras_sid2.bin.sample import Request, drawn
from keras_sid2.bin.sample_files import finish_npz, open_npz
from keras_sid2.bin.tables.demo import DemoFlags
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.evaluation import ImagesDigest, quality
from keras_sid2.io.atomic import write_json
from keras_sid2.io.image_files import image_grid, write_png


def _drawn_digits(path: pathlib.Path, model, labels: np.ndarray, options: dict) -> np.ndarray:
    """uint8 [N, 8, 8, 1], a digit for each label: what is in the .npz if it is that, else drawn and written there."""
    request = Request(model, len(labels), 0, labels, {"batch_size": min(len(labels), 600), **options}, given={})
    settings, digest = request.describe(), ImagesDigest()
    with open_npz(path, settings) as pieces:
        digits = np.concatenate(list(digest.passing(drawn(request, len(labels), pieces, Console(stderr=True)))))
        finish_npz(pieces, digest, settings)
    return digits


def main(values) -> int:
    check(DemoFlags, values)
    make_folders("workdir", values.workdir, values.workdir)
    keep_compiled(values.compilation_cache)
    workdir = pathlib.Path(values.workdir)
    data = str(pipelines.prepare("digits", data_dir=str(workdir / "data")))
    asked = {"workdir": values.workdir, "data": data, "eval_split": "test", "steps": values.steps, "seed": values.seed}
    model = TrainingRun(TrainSettings(preset="sid2_digits", **asked, sample_every=1000, sample_steps=64)).train()
    if steps_done(model) < values.steps:
        return 130  # stopped, and saved
    images = open_images(data, split="train,test")
    real, labels = np.concatenate(list(images.batches())), images.labels()
    digits = _drawn_digits(workdir / "digits.npz", model, labels, {"num_steps": values.num_steps, "seed": values.seed})
    shown = [i for digit in range(10) for i in (labels == digit).nonzero()[0][:10]]
    write_png(workdir / "digits.png", image_grid(digits[shown], [str(label) for label in labels[shown]], columns=10))
    how = {"images": len(digits), "steps": steps_done(model), "sampler_steps": values.num_steps}
    result = {**quality(digits, real, labels), **how}
    write_json(workdir / "quality.json", result)
    print_result(
        f"class accuracy    {result['accuracy']:.4f}  (real digits, held out: {result['accuracy_real']:.4f})\n"
        f"Frechet distance  {result['frechet']:.4f}  (one half of the real digits to the other: "
        f"{result['frechet_halves']:.4f}; ratio {result['frechet'] / result['frechet_halves']:.3f})\n"
        f"look at           {workdir / 'digits.png'}"
    )
    return 0


run = functools.partial(run_program, main, "sid2-demo", DemoFlags)

if __name__ == "__main__":
    run()
