"""sid2-demo: from nothing to digits that the model drew, and what they are worth.

    sid2-demo --workdir=runs/digits

writes scikit-learn's handwritten digits as TFRecord, trains `sid2_digits` on them, draws as many digits as there are
real ones, and prints quality against these: runs/digits/digits.png, .npz, quality.json. A second start continues, and
where all is done it prints the same again.
"""

import pathlib

import numpy as np
from absl import flags
from rich.console import Console

import pipelines
from keras_sid2 import SampleRequest
from keras_sid2.backend import steps_done
from keras_sid2.bin.common import SamplingProgress, check_folder, make_folder, run_program
from keras_sid2.bin.sample_files import is_finished
from keras_sid2.bin.train_settings import TrainSettings
from keras_sid2.bin.training_run import TrainingRun
from keras_sid2.evaluation import ImagesDigest, quality
from keras_sid2.generation.provenance import write_provenance
from keras_sid2.io.atomic import write_json
from keras_sid2.io.image_files import image_grid, write_npz, write_png
from keras_sid2.io.image_reading import iterate_npz

flags.DEFINE_string("workdir", "runs/digits", "folder of the run")
flags.DEFINE_integer("steps", 2500, "training steps")
flags.DEFINE_integer("num_steps", 128, "sampler steps")
flags.DEFINE_integer("seed", 0, "of everything random")

FLAGS = flags.FLAGS


def _train(workdir: pathlib.Path):
    """The trained model, and the folder of its data."""
    data = pipelines.prepare("digits", data_dir=str(workdir / "data"))
    settings = TrainSettings(
        preset="sid2_digits",
        workdir=str(workdir),
        data=str(data),
        eval_split="test",
        steps=FLAGS.steps,
        seed=FLAGS.seed,
        sample_every=1000,
        sample_steps=64,
    )
    return TrainingRun(settings).train(), data


def _real_digits(data: str):
    """(images uint8 [N, 8, 8, 1], labels int32 [N]) of both splits, read back from the TFRecord shards."""
    batches = [
        batch
        for split in ("train", "test")
        for batch in pipelines.make_dataset(data, split=split, batch_size=64, training=False).as_numpy_iterator()
    ]
    return tuple(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))


def _drawn(path: pathlib.Path, model, labels, console):
    """uint8 [N, 8, 8, 1], a digit for each label: what is in the .npz if it is that, else drawn and written there."""
    options = {"num_steps": FLAGS.num_steps, "seed": FLAGS.seed, "batch_size": min(len(labels), 600)}
    settings = SampleRequest(model, labels, **options).describe()
    if is_finished(path, settings):
        console.print(f"{path} holds these {len(labels)} digits already, nothing to draw.", soft_wrap=True)
        return np.concatenate(list(iterate_npz(path, len(labels))))
    with SamplingProgress(console, len(labels)) as line:
        drawn = model.generate(labels, progress=line.part(0, len(labels)), **options)
    digest = ImagesDigest()
    digest.add(drawn)
    # First, so that no end in between leaves digits without it.
    write_provenance(path, digest.hexdigest(), settings)
    write_npz(path, drawn, labels)
    return drawn


def _main(_):
    check_folder("workdir", FLAGS.workdir)
    if FLAGS.num_steps < 1:  # before the minutes of training
        raise ValueError(f"--num_steps must be at least 1, got {FLAGS.num_steps}.")
    workdir, console = pathlib.Path(FLAGS.workdir), Console(stderr=True)
    make_folder("workdir", workdir)
    model, data = _train(workdir)
    if steps_done(model) < FLAGS.steps:
        return 130  # stopped, and saved
    real, labels = _real_digits(data)
    drawn = _drawn(workdir / "digits.npz", model, labels, console)
    shown = [i for digit in range(10) for i in (labels == digit).nonzero()[0][:10]]
    write_png(workdir / "digits.png", image_grid(drawn[shown], [str(label) for label in labels[shown]], columns=10))
    how = {"images": len(drawn), "steps": FLAGS.steps, "sampler_steps": FLAGS.num_steps}
    result = {**quality(drawn, real, labels), **how}
    write_json(workdir / "quality.json", result)
    _report(result, workdir)
    return 0


def _report(result: dict, workdir: pathlib.Path):
    print(
        f"class accuracy    {result['accuracy']:.4f}  (real digits, held out: {result['accuracy_real']:.4f})\n"
        f"Frechet distance  {result['frechet']:.4f}  (one half of the real digits to the other: "
        f"{result['frechet_halves']:.4f}; ratio {result['frechet'] / result['frechet_halves']:.3f})\n"
        f"look at           {workdir / 'digits.png'}"
    )


def run():
    """The console program."""
    run_program(_main, "sid2-demo")


if __name__ == "__main__":
    run()
