"""sid2-evaluate: the quality of images beside real ones, with a signature that says how it was measured.

    sid2-evaluate --workdir=runs/mine --reference=data/imagenet --num_images=50000 --guidance_scale=1.3
    sid2-evaluate --samples=drawn.npz --reference=data/digits --features=classifier
    sid2-evaluate --workdir=runs/clips --reference=data/clips-2w3c --split=validation --features=i3d \
        --i3d_weights=i3d.npz --num_images=50000 --folds=4
    sid2-evaluate --workdir=runs/mine --reference=data/digits --features=classifier --num_images=2000 --sweep \
        --sweep_scales=1,1.5,2 --sweep_intervals=all,-3:5 --sweep_steps=32,128 --sweep_ema=true,false --out=sweep
    sid2-evaluate --samples=hearts.npz --reference=data/emoji --features=clip --clip=clip-vit-base-patch32 --out=hearts
    sid2-evaluate --samples=ensembles.npz --reference=truth.npz --features=fields --periodic=width --out=scores
    sid2-evaluate --compare=a.json,b.json

prints the metrics and the signature and writes them as JSON. A sweep writes out.jsonl, a line a setting, out.png and
out.json: the best one, measured anew with the next seed, because the lowest of many metrics is low by luck too. The
same command goes on where it was interrupted. --compare takes .jsonl files of sweeps and of sid2-train too, whole, or
line 3 as a.jsonl:3.

Several processes (flags or environment as of sid2-train), with all the same flags, each draw a part of the images and
take their features; the first one gets the features of all and writes. --mesh=data:8 spreads each batch over devices
(jax).
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from keras_sid2 import SiD2Model
from keras_sid2.bin import clip, measuring, measuring_fields, sampling_flags, signals, sweep
from keras_sid2.bin.common import SamplingProgress, make_folders, print_line, print_result, run_program
from keras_sid2.bin.compilation_cache import keep_compiled
from keras_sid2.bin.device_flags import check_same, together
from keras_sid2.bin.flag_table import check, names
from keras_sid2.bin.measurement_lines import SweepLines, read_measurements, sweep_lines
from keras_sid2.bin.sample_request import Request
from keras_sid2.bin.tables.evaluate import MOST_IMAGES, SWEEP_IMAGES, EvaluateFlags
from keras_sid2.bin.tables.shared import SamplingFlags
from keras_sid2.evaluation import ImagesDigest, Measurement, cannot_be_told, check_comparable, evaluate, folded
from keras_sid2.generation.provenance import provenance_path, read_provenance
from keras_sid2.parallel import processes


def _check(values):
    """ValueError for flags that are wrong, do nothing, or do not go together."""
    check(EvaluateFlags, values)
    if values.samples and (values.workdir or values.weights or values.num_images or values.sweep):
        raise ValueError("--samples are measured as they are: leave out --workdir, --weights, --num_images, --sweep.")
    if values.samples and processes.count() > 1:
        raise ValueError(f"--samples are measured by one process, and there are {processes.count()}: start one.")
    if values.features == "fields" and not values.samples:
        raise ValueError(
            "--features=fields are of files: give --samples, a file that sid2-sample wrote, or one of your own."
        )
    if values.samples and values.features != "fields" and measuring_fields.are_variables(values.samples):
        raise ValueError(f"--samples={values.samples} holds fields: give --features=fields, too.")
    if values.folds > 1 and (values.samples or values.sweep):
        raise ValueError("--folds draws a model's samples several times: leave out --samples and --sweep.")
    ineffective = {}
    if values.samples:
        ineffective |= dict.fromkeys(names(SamplingFlags), "--samples, which are drawn already")
    if measuring.are_files(values.reference) or values.features == "fields":
        of_data_sets = ("split", "data_dir", "crop")
        ineffective |= dict.fromkeys(of_data_sets, f"--reference={values.reference}, which is no data set")
    for name, beside in ineffective.items():
        if values[name].present:
            raise ValueError(f"--{name} does nothing with {beside}.")
    given = next((name for name in ("workdir", "samples", "weights", "preset") if getattr(values, name)), "workdir")
    if values.out is None and given != "workdir":
        raise ValueError(f"--out must be given with --{given}: where to write the metrics.")
    if values.out is not None:
        _check_out(values.out)
    if values.features != "fields":
        measuring.check_features(values.features)
    if values.features == "i3d" and values.i3d_weights is None:
        raise ValueError("--features=i3d needs --i3d_weights: none come with this library, and none are downloaded.")
    if values.features == "clip" and values.clip is None:
        raise ValueError("--features=clip needs --clip, the folder or name of a CLIP: none comes with this library.")


def _check_out(out: str | pathlib.Path):
    """ValueError if nothing can be written there, or out.json is no measurement, as it would be written over."""
    make_folders("out", out, pathlib.Path(out).parent)
    if pathlib.Path(f"{out}.json").exists():
        Measurement.read(f"{out}.json")


def _real_images(values, shape: tuple, console, image_size=None) -> measuring.Images:
    """The reference's, for images of a `shape` ((F,) H, W, C)."""
    reading = {"split": values.split, "data_dir": values.data_dir, "image_size": image_size, "crop": values.crop}
    real = measuring.open_images(values.reference, features=values.features, **reading)
    if unlike := measuring.check_alike(shape, real, values.features):
        print_line(console, f"Note: {unlike}")
    return real


def _measured_by(values, real: measuring.Images) -> dict:
    """Features and reference, as arguments of `evaluate`."""
    weights = {"i3d": values.i3d_weights, "clip": values.clip}.get(values.features, values.inception_weights)
    return measuring.measured_by(real, values.features, weights, values.cache, values.clip_size)


def _texts(how: dict, texts: list[str] | None, console) -> dict:
    """What images of these texts are compared with, as an argument of `evaluate`; none without CLIP."""
    features = how["features"]
    if not isinstance(features, clip.ClipFeatures):
        return {}
    if texts is None:
        told = "No texts are known that these images were drawn for: there is no clip_score."
        console.print(told, highlight=False, soft_wrap=True)
        return {}
    return {"texts": features.of_texts(texts)} if processes.index() == 0 else {}


def _measure_fields(values, console) -> int:
    options = {"periodic": tuple(values.periodic or ()), "by_latitude": values.by_latitude}
    return _report(
        console, measuring_fields.measure_field_files(values.samples, values.reference, **options), values.out
    )


def _are_told_of(provenance: dict, images: measuring.Images) -> bool:
    """Whether the provenance is of these images."""
    digest = ImagesDigest()
    for batch in images.batches():
        digest.add(batch)
    return digest.hexdigest() == provenance["images_digest"]


def _measure_files(values, console) -> int:
    images = measuring.open_images(values.samples, features=values.features)
    provenance = read_provenance(values.samples)
    real = _real_images(values, images.shape, console, tuple(images.shape[-3:-1]) if values.crop else None)
    how = _measured_by(values, real)
    texts = clip.texts_of_samples(provenance) if values.features == "clip" else None
    how |= _texts(how, texts if texts and _are_told_of(provenance, images) else None, console)
    found = evaluate(images.batches(), **how, drawn={"samples": images.name}, progress=signals.look)
    if provenance is not None and provenance["images_digest"] == found.drawn["images_digest"]:
        found = dataclasses.replace(found, drawn=provenance)
    elif provenance is not None:
        told = f"{provenance_path(values.samples)} tells how other images were drawn: it is left aside."
        print_line(console, told)
    return _report(console, found, values.out)


def _measure_model(values, console) -> int:
    with sampling_flags.drawing_devices(values):
        return _measure_on_devices(values, console)


def _measure_on_devices(values, console) -> int:
    options = sampling_flags.sampling_options(values)
    settings = sweep.settings(values, options) if values.sweep else None
    if settings is None:
        sampling_flags.check_width_flags(values)
    for width in [values.ema_width] if settings is None else {setting.ema_width for setting in settings}:
        sampling_flags.check_width(values, width)
    model = sampling_flags.load_model_from_flags(values)
    if settings is None:
        sampling_flags.take_width(model, values, values.ema_width)
        measured = Measuring(values, model, console)
        seeds = [(options["seed"] + fold) % 2**32 for fold in range(values.folds)]
        found = [measured(options | {"seed": seed}) for seed in seeds]
        if found[0] is None:  # another process has it
            return 0
        found = folded(found) if len(found) > 1 else found[0]
        return _report(console, found, _out(values, f"step_{found.drawn['training_step']:010d}_{found.digest()}"))
    if model.student_steps is not None:
        settings = sweep.settings(values, options, model.student_steps)
    out = _out(values, "sweep")
    _check_out(out)
    with _lines(out) as lines:
        return sweep.run(settings, Measuring(values, model, console), lines, out, console)


@contextlib.contextmanager
def _lines(out: pathlib.Path) -> Iterator[SweepLines | None]:
    """The first process's lines of a sweep; None in the others."""
    if processes.index() > 0:
        yield None
        return
    with sweep_lines(pathlib.Path(f"{out}.jsonl")) as lines:
        sweep.check_out(out, lines)
        yield lines


class Measuring:
    """Draws images with some settings and measures them as they come; none are kept. Each process draws its share.

    A model with other conditions than labels draws for those of the real examples, in their order, and their labels:
    the same whatever the number of processes.
    `how`: the features and the reference; the real images, or what is kept of them, are read.
    """

    def __init__(self, values, model: SiD2Model, console: Console):
        measuring.check_kind("What the model draws", len(model.sample_shape) == 4, values.features)
        measuring.check_no_fields("The model", model.channels, values.features)
        real = _real_images(values, model.sample_shape, console, model.sample_shape[-3:-1])
        self.how = _measured_by(values, real)
        most, reference = SWEEP_IMAGES if values.sweep else MOST_IMAGES, self.how["reference"]
        self.count = values.num_images or processes.from_first(min(most, reference.features.count) if reference else 0)
        processes.check_enough(self.count)
        self._values, self._model, self._console = values, model, console
        self._labels = np.arange(self.count) % model.num_classes if model.num_classes else None
        self._conditions, self._real = {}, {}
        if set(model.conditions) - {"label"}:
            self._conditions = measuring.conditions_of_real(model.conditions, real, self.count)
            self._labels = self._conditions.pop("label", None)
            self._real = {"conditions_of": "/".join(filter(None, (real.name, real.config)))}
        where = {name: values[name].value for name in ("reference", "split", "data_dir")}
        texts = clip.texts_of_real(model.conditions, self.count, **where) if values.features == "clip" else None
        self.how |= _texts(self.how, texts, console)

    def _request(self, options: dict) -> Request:
        return Request(self._model, self.count, 0, self._labels, options, {}, self._conditions)

    def take_width(self, width: float | None):
        """Draws with the average of this width from now on, if it is one."""
        name = None if width is None else f"{width:g}"
        if name is not None and not (self._model.reconstructed or "").startswith(f"{name} at"):
            sampling_flags.take_width(self._model, self._values, width)

    def describe(self, options: dict) -> dict:
        """What would be drawn."""
        return self._request(options).describe() | self._real

    def __call__(self, options: dict) -> Measurement | None:
        """In the first process; None in the others. ValueError if these were asked for something else."""
        request, several = self._request(options), processes.count() > 1
        drawn = self.describe(options)
        if several:
            check_same({"features": self.how["features"].identity, **drawn})
        part = request.part(*processes.share(self.count, options["batch_size"]))
        with SamplingProgress(self._console, part.count) as line:
            batches = part.batches(0, part.count, line)
            return evaluate(batches, **self.how, drawn=drawn, shared=several, progress=signals.look)


def _out(values, name: str) -> pathlib.Path:
    """--out, or a default one of that name."""
    return pathlib.Path(values.out or pathlib.Path(values.workdir) / "evaluation" / name)


def _report(console, measurement: Measurement, out: str | pathlib.Path) -> int:
    for name, value in measurement.metrics.items():
        print(f"{name:24} {value:.6g}")
    print_result(f"signature  {measurement.signature()}")
    measurement.write(f"{out}.json")
    print_line(console, f"written to {out}.json")
    return 0


def _compare(values, console) -> int:
    """Measurements side by side, if they were measured alike."""
    named = {name: measurement for text in values.compare for name, measurement in read_measurements(text).items()}
    if len(named) < 2:
        raise ValueError(f"--compare needs at least two measurements, got {', '.join(named) or 'none'}.")
    found = list(named.values())
    check_comparable(found, list(named))
    table = Table("", *(pathlib.Path(name).name.replace(".jsonl:", ":").removesuffix(".json") for name in named))
    for name in {key: None for m in found for key in m.metrics}:
        table.add_row(name, *(f"{m.metrics[name]:.6g}" if name in m.metrics else "" for m in found))
    for name in {key: None for m in found for key in m.drawn}:
        told = [str(m.drawn.get(name)) for m in found]
        if len(set(told)) > 1:
            table.add_row(name, *told, style="dim")
    console.print(table)
    for sentence in cannot_be_told(found, list(named)):
        print_line(console, f"Note: {sentence}")
    return 0


def main(values) -> int:
    """What the flags ask for; raises, in one sentence, what is wrong with them."""
    if values.compare is not None:
        return _compare(values, Console())
    _check(values)
    keep_compiled(values.compilation_cache, values.compile)
    wide = None if sys.stderr.isatty() else 120  # a file has no width; tables need some
    console = Console(stderr=True, width=wide, quiet=processes.index() > 0)
    of_files = _measure_fields if values.features == "fields" else _measure_files
    code = (of_files if values.samples else _measure_model)(values, console)
    processes.wait_for_all()  # which on jax end together
    return code


def _main_of_one(values) -> int:
    """The program in this process, which may be one of several; its exit code."""
    if values.compare is not None:
        return main(values)
    again = "the sweep goes on behind its last line" if values.sweep else "of a measurement nothing is kept"
    return together("sid2-evaluate", values, lambda: main(values), again)


run = functools.partial(run_program, _main_of_one, "sid2-evaluate", EvaluateFlags, looks=True)

if __name__ == "__main__":
    run()
