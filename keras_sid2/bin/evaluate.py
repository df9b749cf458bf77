"""sid2-evaluate: what images are worth beside real ones, with a signature that says how it was measured.

    sid2-evaluate --workdir=runs/mine --reference=data/imagenet --num_images=50000 --guidance_scale=1.3
    sid2-evaluate --samples=drawn.npz --reference=data/digits --features=classifier
    sid2-evaluate --workdir=runs/mine --reference=data/digits --features=classifier --num_images=2000 --sweep \
        --sweep_scales=1,1.5,2 --sweep_intervals=all,-3:5 --sweep_steps=32,128 --sweep_ema=true,false --out=sweep
    sid2-evaluate --compare=a.json,b.json

prints the metrics and the signature and writes them as JSON. A sweep writes out.jsonl, a line a setting, out.png and
out.json: the best one, measured anew with the next seed, because the lowest of many metrics is low by luck too. The
same command goes on where it was interrupted. --compare takes .jsonl files of sweeps and of sid2-train too, whole, or
line 3 as a.jsonl:3.
"""

import dataclasses
import pathlib
import sys

from absl import flags
from rich.console import Console
from rich.table import Table

from keras_sid2 import SampleRequest
from keras_sid2.bin import measuring, sampling_flags, signals, sweep
from keras_sid2.bin.common import SamplingProgress, check_writable, run_program
from keras_sid2.bin.measurement_lines import read_measurements, sweep_lines
from keras_sid2.evaluation import Measurement, cannot_be_told, check_comparable, evaluate
from keras_sid2.generation.provenance import provenance_path, read_provenance

_MOST = 50_000
_SWEEPS = ("sweep_scales", "sweep_intervals", "sweep_steps", "sweep_ema", "sweep_variance")


def define(values: flags.FlagValues = flags.FLAGS):
    """Defines the program's flags."""
    sampling_flags.define(values)
    flags.adopt_module_key_flags(sampling_flags, values)
    add = {"flag_values": values}
    text = "images to measure: an .npz in the ADM layout or a folder of PNG files, in place of a model"
    flags.DEFINE_string("samples", None, text, **add)
    flags.DEFINE_string("reference", None, "real images: a prepared data set, an .npz or a folder of PNG files", **add)
    flags.DEFINE_string("split", "train", "splits of a prepared data set, as train,test", **add)
    flags.DEFINE_string("data_dir", None, "where data sets lie that are given by name", **add)
    text = "center: cut and resize the images of a data set to the size of those that are measured"
    flags.DEFINE_enum("crop", None, ["center"], text, **add)
    text = "inception; classifier, fitted on real images with labels; or MODULE:FUNCTION that returns Features"
    flags.DEFINE_string("features", "inception", text, **add)
    text = "the FID's Inception-v3, a .pth or .npz file; downloaded if not given"
    flags.DEFINE_string("inception_weights", None, text, **add)
    text = f"to draw; as many as real ones if not given, {_MOST} at most, in a sweep {sweep.IMAGES} at most"
    flags.DEFINE_integer("num_images", None, text, **add)
    flags.DEFINE_string("out", None, "where to write, without suffix; not given: evaluation/ in the workdir", **add)
    flags.DEFINE_string("cache", measuring.CACHE, "folder that keeps the statistics of real images", **add)
    text = "only print these measurements side by side: .json files, .jsonl files, or lines of these as a.jsonl:3"
    flags.DEFINE_list("compare", None, text, **add)
    sweep.define(values)
    flags.adopt_module_key_flags(sweep, values)


def _check(values):
    """ValueError for flags that do not go together."""
    if values.reference is None:
        raise ValueError("--reference must be given: the real images to measure against (or --compare).")
    if values.samples and (values.workdir or values.weights or values.num_images or values.sweep):
        raise ValueError("--samples are measured as they are: leave out --workdir, --weights, --num_images, --sweep.")
    _refuse_what_does_nothing(values)
    if values.out is None and not values.workdir and (values.samples or values.weights or values.preset):
        given = "samples" if values.samples else "weights" if values.weights else "preset"
        raise ValueError(f"--out must be given with --{given}: where to write the metrics.")
    if values.out is not None:
        _check_out(values.out)
    measuring.check_features(values.features)
    sampling_flags.check_at_least(values, num_images=20)


def _check_out(out: str):
    """ValueError if nothing can be written there, or out.json is no measurement, as it would be written over."""
    check_writable(out)
    if pathlib.Path(f"{out}.json").exists():
        Measurement.read(f"{out}.json")


def _refuse_what_does_nothing(values):
    """ValueError for flags that say nothing beside the others."""
    ineffective = {}
    if values.samples:
        own = {flag.name for flag in values.get_key_flags_for_module(sampling_flags)}
        ineffective |= dict.fromkeys(own, "--samples, which are drawn already")
    if not values.sweep:
        ineffective |= dict.fromkeys(_SWEEPS, "no --sweep")
    if values.features != "inception":
        ineffective["inception_weights"] = f"--features={values.features}"
    if measuring.are_files(values.reference):
        of_data_sets = ("split", "data_dir", "crop")
        ineffective |= dict.fromkeys(of_data_sets, f"--reference={values.reference}, which is no data set")
    given = [name for name in ineffective if values[name].present]
    if given:
        raise ValueError(f"--{given[0]} does nothing with {ineffective[given[0]]}.")


def _open_images(path: str, **options) -> measuring.Images:
    """As measuring's; a signal may end the program between two batches."""
    found = measuring.open_images(path, **options)
    return dataclasses.replace(found, batches=lambda: signals.looking_between(found.batches()))


def _look(*_):
    """A signal may end the program between two distances, too."""
    signals.look()


def _open_reference(values, shape: tuple, console, image_size=None):
    """(Features, Reference) for images of a `shape` (H, W, C)."""
    reading = {"image_size": image_size, "crop": values.crop}
    real = _open_images(values.reference, split=values.split, data_dir=values.data_dir, **reading)
    if unlike := measuring.check_alike(shape, real, values.features):
        console.print(f"Note: {unlike}", highlight=False, soft_wrap=True)
    features = measuring.make_features(values.features, real, values.inception_weights)
    return features, measuring.make_reference(real, features, values.cache)


def _of_files(values, console) -> int:
    images, provenance = _open_images(values.samples), read_provenance(values.samples)
    cut_to = tuple(images.shape[:2]) if values.crop else None
    features, reference = _open_reference(values, images.shape, console, cut_to)
    drawn = {"samples": images.name}
    found = evaluate(images.batches(), features=features, reference=reference, drawn=drawn, progress=_look)
    if provenance is not None and provenance["images_digest"] == found.drawn["images_digest"]:
        found = dataclasses.replace(found, drawn=provenance)
    elif provenance is not None:
        told = f"{provenance_path(values.samples)} tells how other images were drawn: it is left aside."
        console.print(told, highlight=False, soft_wrap=True)
    return _report(console, found, values.out)


def _of_model(values, console) -> int:
    options = sampling_flags.sampling_options(values)
    settings = sweep.settings(values, options) if values.sweep else None
    model = sampling_flags.load_model_from_flags(values)
    if settings is None:
        found = _measuring(values, model, console)(options)
        name = f"step_{found.drawn['training_step']:010d}_{found.digest()}"
        return _report(console, found, values.out or _default_out(values, name))
    out = pathlib.Path(values.out or _default_out(values, "sweep"))
    _check_out(out)
    with sweep_lines(pathlib.Path(f"{out}.jsonl")) as lines:
        sweep.check_out(out, lines)
        return sweep.run(settings, _measuring(values, model, console), lines, out, console)


def _measuring(values, model, console) -> "Measuring":
    """Reads the real images, or what is kept of them."""
    features, reference = _open_reference(values, model.sample_shape, console, model.sample_shape[-3:-1])
    count = values.num_images or min(sweep.IMAGES if values.sweep else _MOST, reference.features.count)
    request = {"labels": [i % model.num_classes for i in range(count)] if model.num_classes else None}
    return Measuring(model, request | {"num_images": count}, features, reference, console)


class Measuring:
    """Draws images with some settings and measures them as they come; none are kept."""

    def __init__(self, model, request: dict, features, reference, console):
        self.model, self.request, self.features, self.reference = model, request, features, reference
        self._console = console

    def sample_request(self, options: dict, progress=None):
        return SampleRequest(self.model, progress=progress, **self.request, **options)

    def __call__(self, options: dict):
        """The Measurement."""
        count = self.request["num_images"]
        with SamplingProgress(self._console, count) as line:
            request = self.sample_request(options, line.part(0, count))
            kept = {"features": self.features, "reference": self.reference}
            return evaluate(request.batches(), **kept, drawn=request.describe(), progress=_look)


def _default_out(values, name: str) -> str:
    return str(pathlib.Path(values.workdir) / "evaluation" / name)


def _report(console, measurement, out: str) -> int:
    path = pathlib.Path(f"{out}.json")
    for name, value in measurement.metrics.items():
        print(f"{name:24} {value:.6g}")
    print(f"signature  {measurement.signature()}")
    measurement.write(path)
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
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
        console.print(f"Note: {sentence}", highlight=False, soft_wrap=True)
    return 0


def main(values: flags.FlagValues) -> int:
    """What the flags ask for; raises, in one sentence, what is wrong with them."""
    if values.compare is not None:
        return _compare(values, Console())
    _check(values)
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)  # a file has no width; tables need some
    return (_of_files if values.samples else _of_model)(values, console)


def run():
    """The console program."""
    define()
    run_program(lambda _: main(flags.FLAGS), "sid2-evaluate", looks=True)


if __name__ == "__main__":
    run()
