"""sid2-sample: draws images from a trained model, as a PNG grid and as an .npz in the ADM layout.

    sid2-sample --workdir=runs/digits --labels=0,1,2,3,4,5,6,7,8,9 --out=digits
    sid2-sample --preset=sid2_digits --weights=mine.weights.h5 --num_images=64 --out=digits

writes digits.png and digits.npz (arr_0 uint8 [N, H, W, C]; arr_1 int [N], where there are classes).
"""

import pathlib

from absl import flags

from keras_sid2.bin.common import run_program

flags.DEFINE_string("workdir", None, "work directory of sid2-train; its newest checkpoint is used")
flags.DEFINE_string("weights", None, "a .keras file; or, with --preset, a .weights.h5 file, without averaged weights")
flags.DEFINE_string("preset", None, "model that a .weights.h5 file is for")
flags.DEFINE_string("out", "samples", "path of the two files, without suffix")
flags.DEFINE_integer("num_images", None, "how many; with classes and no --labels, the classes in turn")
flags.DEFINE_list("labels", None, "a class for each image, as 0,1,2")
flags.DEFINE_integer("num_steps", 512, "sampler steps")
flags.DEFINE_string("sampler", "ddpm", "ddpm or ddim")
flags.DEFINE_float("guidance_scale", 1.0, "1 is none")
flags.DEFINE_list("guidance_interval", None, "low,high in logsnr; everywhere if not given")
flags.DEFINE_bool("ema", True, "use the averaged weights")
flags.DEFINE_integer("seed", 0, "image i depends on (seed, i, its label, the settings)")
flags.DEFINE_integer("batch_size", 64, "images drawn at once")
flags.DEFINE_bool("grid", True, "write the PNG grid (of the first 400 images)")
flags.DEFINE_bool("npz", True, "write the .npz")

FLAGS = flags.FLAGS


def _load():
    """The model that the flags name; ValueError or FileNotFoundError, in one sentence, if they do not."""
    from keras_sid2 import SiD2Model
    from keras_sid2.training.checkpoints import checkpoints, load_model

    if bool(FLAGS.workdir) == bool(FLAGS.weights):
        raise ValueError("Give either --workdir, or --weights (with --preset for a .weights.h5 file).")
    if FLAGS.preset and (FLAGS.workdir or not FLAGS.weights.endswith(".weights.h5")):
        raise ValueError("--preset goes with --weights=NAME.weights.h5 only: other files hold their configuration.")
    if FLAGS.workdir:
        found = checkpoints(pathlib.Path(FLAGS.workdir) / "checkpoints")
        if not found:
            raise FileNotFoundError(f"--workdir={FLAGS.workdir} holds no checkpoints: train there with sid2-train.")
        return load_model(found[-1])
    if not pathlib.Path(FLAGS.weights).is_file():
        raise FileNotFoundError(f"--weights={FLAGS.weights} is no file.")
    if FLAGS.weights.endswith(".keras"):
        return load_model(FLAGS.weights)
    if not (FLAGS.preset and FLAGS.weights.endswith(".weights.h5")):
        raise ValueError(f"--weights={FLAGS.weights} must be a .keras file, or a .weights.h5 file with --preset.")
    model = SiD2Model.from_preset(FLAGS.preset)
    model.load_weights(FLAGS.weights)
    return model


def _numbers(flag: str, kind: type) -> list | None:
    texts = FLAGS[flag].value
    try:
        return None if texts is None else [kind(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"--{flag} must be numbers with commas between, got {','.join(texts)!r}.") from error


def _guidance():
    from keras_sid2 import Guidance

    interval = _numbers("guidance_interval", float)
    if interval is not None and FLAGS.guidance_scale == 1.0:
        raise ValueError("--guidance_interval does nothing at --guidance_scale=1: give a scale too.")
    return Guidance(FLAGS.guidance_scale, None if interval is None else tuple(interval))


def _request(num_classes: int | None) -> dict:
    """labels and num_images of `generate`."""
    labels = _numbers("labels", int)
    if labels is not None or num_classes is None:
        return {"labels": labels, "num_images": FLAGS.num_images if labels else FLAGS.num_images or 16}
    return {"labels": [i % num_classes for i in range(FLAGS.num_images or 16)]}


def _main(_):
    from rich.console import Console

    from keras_sid2.bin.common import sampling_progress
    from keras_sid2.files import image_grid, write_npz, write_png

    guidance = _guidance()
    model = _load()
    request = _request(model.num_classes)
    console = Console(stderr=True)
    with sampling_progress(console, "sampling steps") as progress:
        images = model.generate(
            **request,
            num_steps=FLAGS.num_steps,
            guidance=guidance,
            sampler=FLAGS.sampler,
            seed=FLAGS.seed,
            use_ema=FLAGS.ema,
            batch_size=FLAGS.batch_size,
            progress=progress,
        )
    labels = request["labels"]
    if FLAGS.grid:
        captions = None if labels is None else [str(label) for label in labels[:400]]
        write_png(f"{FLAGS.out}.png", image_grid(images[:400], captions))
    if FLAGS.npz:
        write_npz(f"{FLAGS.out}.npz", images, labels)
    written = [f"{FLAGS.out}.{kind}" for kind in ("png", "npz") if FLAGS["grid" if kind == "png" else kind].value]
    console.print(f"{len(images)} images: {', '.join(written) or 'nothing written'}")


def run():
    """The console program."""
    run_program(_main, "sid2-sample")


if __name__ == "__main__":
    run()
