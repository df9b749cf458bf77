"""Question: how fast does `pipelines.make_dataset` read, beside what its decoding alone costs, a torch DataLoader, and
itself on one core? Does a consumer that is slower than it wait? What does start_step cost?

    python benchmarks/reading.py --images=256 --rounds=5 --json=result.json

Aims, of images a second: make_dataset / bare decoding at least 0.9; / DataLoader at least 1.5; on two cores / on one at
least 1.8. A consumer that takes 1.5 times as long as the reader waits less than 2 % of its time; a first batch costs
the same at any start_step. README.md says which are met, and why not the others.

Ratios are of speeds: the first of the two named is faster where a ratio exceeds 1. The bare loop is tf.data over the
same encoded images in memory, which it decodes (of a photograph: the window that is cropped) and batches. KERAS_BACKEND
does not matter: no model is there. The "backends" of the tables are the libraries that read, each in a process.
"""

import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time

import harness
import report
import textures
from absl import app, flags

FLAGS = flags.FLAGS
READER, DECODE, RESIZE, LOADER = "make_dataset", "decode", "decode and resize", "DataLoader"
CONSUMER = "1.5 times slower consumer"
STARTS = {"0": 0.0, "half an epoch": 0.5, "1000 epochs": 1000.0}  # start_step, in epochs
SKIP = 6  # batches at the start of a run that are not timed: earlier runs have filled buffers with some of them
IMAGENET = 1_281_167


def _define_flags():
    flags.DEFINE_integer("images", 256, "Images in each data set.", lower_bound=4)
    flags.DEFINE_integer("rounds", 5, "Every case runs once in each round.", lower_bound=1)
    flags.DEFINE_integer("batches", 6, "Timed batches a run.", lower_bound=1)
    flags.DEFINE_integer("batch_size", 64, "Images a batch.", lower_bound=1)
    flags.DEFINE_enum("size", "full", ["full", "tiny"], "tiny: images of an eighth of the sides, to try the program.")
    flags.DEFINE_integer("threads", 0, "Cores of every process; 0: all.", lower_bound=0)
    flags.DEFINE_string("json", None, "Where to write the result.")
    flags.DEFINE_string("folder", None, "Set by the program itself: where the data sets are.")
    flags.DEFINE_bool("worker", False, "Set by the program itself, in the processes that it starts.")


def _shrink() -> int:
    return 8 if FLAGS.size == "tiny" else 1


def _side() -> int:
    return textures.SIDE // _shrink()


def _window() -> tuple[int, int, int, int]:
    """(top, left, height, width) of the centre crop of a photograph."""
    height, width = textures.HEIGHT // _shrink(), textures.WIDTH // _shrink()
    return 0, (width - height) // 2, height, height


# -- readers, in the workers: each gives an endless iterator of batches -----------------------------------------


def _dataset(kind: str, **settings):
    import pipelines

    pattern = str(pathlib.Path(FLAGS.folder) / f"{kind}-*.tfrecord")
    return pipelines.make_dataset(pattern, batch_size=FLAGS.batch_size, image_size=_side(), training=True, **settings)


def _read(kind: str):
    batches = iter(_dataset(kind))
    images = next(batches)["image"].numpy()
    if images.shape != (FLAGS.batch_size, _side(), _side(), 3) or images.dtype != "uint8" or images.std() < 10:
        raise ValueError(f"these are no images: {images.shape}, {images.dtype}, deviation {images.std()}")
    return batches


def _bare(kind: str, resize: bool = False):
    """tf.data with nothing but the decoder, on as many threads as it likes."""
    import tensorflow as tf

    # TensorFlow's default method is less exact, and not what make_dataset gives.
    settings = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
    window = _window() if kind == "photos" else (0, 0, _side(), _side())

    def decode(data):
        if kind == "png":
            return tf.io.decode_png(data, channels=3)
        image = tf.io.decode_and_crop_jpeg(data, window, **settings)
        if resize:
            image = tf.image.resize(image, (_side(), _side()), method="bicubic", antialias=True)
            image = tf.saturate_cast(tf.round(image), tf.uint8)
        return image

    encoded = tf.data.Dataset.from_tensor_slices(textures.read_images(pathlib.Path(FLAGS.folder), kind)).repeat()
    images = encoded.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(images.batch(FLAGS.batch_size, drop_remainder=True).prefetch(2))


class _PillowImages:
    """A map-style data set over encoded images in memory, as one writes it for torch; without end."""

    def __init__(self, encoded: list[bytes], num_images: int, crop: bool):
        self._encoded, self._num_images, self._crop = encoded, num_images, crop

    def __len__(self) -> int:
        return self._num_images

    def __getitem__(self, number: int):
        import io

        import numpy as np
        import torch
        from PIL import Image

        image = Image.open(io.BytesIO(self._encoded[number % len(self._encoded)])).convert("RGB")
        if self._crop:
            top, left, height, width = _window()
            image = image.crop((left, top, left + width, top + height))
            image = image.resize((_side(), _side()), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))


def _load(kind: str):
    import torch

    encoded = textures.read_images(pathlib.Path(FLAGS.folder), kind)
    images = _PillowImages(encoded, 10**8, crop=kind == "photos")
    return iter(
        torch.utils.data.DataLoader(
            images, batch_size=FLAGS.batch_size, num_workers=report.num_cores(), persistent_workers=True
        )
    )


# -- cases, in the workers ---------------------------------------------------------------------------------------


def _cpu_seconds() -> float:
    """Processor time of this process and of those of the DataLoader, which are alive as long as it."""
    own, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    for child in multiprocessing.active_children():
        fields = pathlib.Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        own += (int(fields[11]) + int(fields[12])) / tick
    return own


def _settle(longest: float = 5.0):
    """Waits until no thread works ahead any more, which would slow down the case that comes next."""
    end, before = time.perf_counter() + longest, -1.0
    while time.perf_counter() < end and (now := _cpu_seconds()) - before > 0.005:
        before = now
        time.sleep(0.1)


def _timed(batches, num_batches: int) -> dict:
    """What `num_batches` cost in the steady state; buffers are as full at the end as at the beginning."""
    for _ in range(min(SKIP, num_batches)):
        next(batches)
    start, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(num_batches):
        next(batches)
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": _cpu_seconds() - cpu}
    return {**times, "units": num_batches * FLAGS.batch_size}


def _speed_case(batches):
    def run() -> dict:
        times = _timed(batches, FLAGS.batches)
        _settle()
        return times

    run()
    return run


def _consumer_case(kind: str):
    """A consumer that sleeps 1.5 times as long as the reader needs for a batch, as if an accelerator worked."""
    import pipelines

    dataset, meter = pipelines.measure_wait(_dataset(kind))
    batches = iter(dataset)

    def run() -> dict:
        pause = 1.5 * _timed(batches, FLAGS.batches)["seconds"] / FLAGS.batches
        for _ in range(3):  # what is read ahead is full after that
            next(batches)
            time.sleep(pause)
        meter.take()
        start = harness.now()
        for _ in range(FLAGS.batches):
            next(batches)
            time.sleep(pause)
        times = harness.since(start)
        waited = meter.take()
        _settle()
        share = waited / times["seconds"]
        return {**times, "units": FLAGS.batches * FLAGS.batch_size, "waiting": share, "pause": pause}

    run()
    return run


def _start_case(kind: str, epochs: float):
    """Opening the data set and reading the first batch at a start_step."""
    from pipelines.reading import order

    start_step = int(epochs * FLAGS.images / FLAGS.batch_size)

    def run() -> dict:
        order.permutation.cache_clear()  # a run that begins anew has none
        start = harness.now()
        next(iter(_dataset(kind, start_step=start_step)))
        times = harness.since(start)
        _settle()
        return {**times, "units": FLAGS.batch_size, "start_step": start_step}

    run()
    return run


def _start_name(start: str) -> str:
    return f"first batch at {start}"


def _facts():
    """A case that is no measurement of the reader: sizes, and what start_step computes for a large data set."""
    from pipelines.reading import order

    folder = pathlib.Path(FLAGS.folder)
    sizes = {kind: textures.read_images(folder, kind) for kind in textures.KINDS}
    facts = {f"bytes an image, {kind}": round(sum(map(len, s)) / len(s)) for kind, s in sizes.items()}
    start = time.perf_counter()
    order.permutation(0, 1000, IMAGENET)
    facts[f"seconds that start_step costs with {IMAGENET:,} images"] = round(time.perf_counter() - start, 3)
    return lambda: facts


def _make_case(name: str):
    if name == "facts":
        return _facts()
    kind, _, subject = name.partition(": ")
    for start, epochs in STARTS.items():
        if subject == _start_name(start):
            return _start_case(kind, epochs)
    if subject == CONSUMER:
        return _consumer_case(kind)
    readers = {READER: _read, DECODE: _bare, RESIZE: lambda kind: _bare(kind, resize=True), LOADER: _load}
    return _speed_case(readers[subject](kind))


# -- the table, in the parent ------------------------------------------------------------------------------------


def _plan(backends: list[str]) -> list[tuple[str, str]]:
    plan = []
    for kind in textures.KINDS:
        bare = [DECODE, RESIZE] if kind == "photos" else [DECODE]
        plan += [("tensorflow", f"{kind}: {case}") for case in (READER, *bare)] + [("torch", f"{kind}: {LOADER}")]
    plan.append(("tensorflow", f"photos: {CONSUMER}"))
    plan += [("tensorflow", f"photos: {_start_name(start)}") for start in STARTS]
    return [pair for pair in plan if pair[0] in backends]


def _run_cores(arguments: list[str], rounds: int) -> list[dict]:
    """The reader in one process on one core and in another on two, in turn."""
    if report.num_cores() < 2:
        return []
    case, samples = f"photos: {READER}", []
    workers = {
        name: harness.Worker(__file__, arguments, "tensorflow", n) for n, name in ((1, "1 core"), (2, "2 cores"))
    }
    try:
        for name, worker in workers.items():
            print(f"{name}: {case}", flush=True)
            worker.ask(prepare=case)
        for number in range(rounds):
            for name in list(workers)[:: 1 if number % 2 == 0 else -1]:
                samples.append({"backend": name, "case": case, "round": number, **workers[name].ask(run=case)})
    finally:
        for worker in workers.values():
            worker.close()
    return samples


def _ratios(samples: list[dict]) -> list[dict]:
    """Of speeds: the milliseconds of the second by those of the first."""
    rows = []
    for kind in textures.KINDS:
        reader = ("tensorflow", f"{kind}: {READER}")
        for backend, case in (("tensorflow", DECODE), ("tensorflow", RESIZE), ("torch", LOADER)):
            name = f"{kind}: {READER} / {case}"
            rows.append(report.ratio(samples, name, (backend, f"{kind}: {case}"), reader))
    cores = [(name, f"photos: {READER}") for name in ("1 core", "2 cores")]
    rows.append(report.ratio(samples, f"photos: {READER}, 2 cores / 1", *cores))
    first, *others = (("tensorflow", f"photos: {_start_name(start)}") for start in STARTS)
    for start, other in zip(list(STARTS)[1:], others, strict=True):
        rows.append(report.ratio(samples, f"time to the first batch at {start} / at 0", other, first))
    return [row for row in rows if row is not None]


def _more_facts(samples: list[dict]) -> dict:
    facts = {f"data set {kind!r}": what for kind, what in textures.KINDS.items()}
    for row in report.summary(samples):
        if "first" not in row["case"] and CONSUMER not in row["case"]:
            facts[f"images a second, {row['backend']}, {row['case']}"] = round(1000.0 / row["median_ms"])
    for name in ("1 core", "2 cores"):  # 1.0 of 2: another program had the second, and the ratio says nothing
        busy = [s["cpu_seconds"] / s["seconds"] for s in samples if s["backend"] == name]
        if busy:
            facts[f"cores that were busy, of {name}"] = round(statistics.median(busy), 2)
    shares = [s["waiting"] for s in samples if "waiting" in s]
    if shares:
        low, middle, high = (f"{f(shares):.4f}" for f in (min, statistics.median, max))
        facts["share of its time that the slower consumer waits"] = f"{middle} ({low} to {high})"
    return facts


def main(argv):
    del argv
    if FLAGS.worker:
        return harness.serve(_make_case)
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {FLAGS.images} images", flush=True)
        textures.write_datasets(pathlib.Path(folder), FLAGS.images, _shrink())
        arguments = [*sys.argv[1:], f"--folder={folder}"]
        with harness.Bench(__file__, arguments, ["tensorflow", "torch"], FLAGS.threads or report.num_cores()) as bench:
            facts = bench.facts("facts")
            bench.run(_plan(bench.backends), FLAGS.rounds)
        bench.samples += _run_cores(arguments, FLAGS.rounds)
    names = ("images", "rounds", "batches", "batch_size", "size", "threads")
    result = report.document(
        program="reading",
        question=__doc__.split("\n\n")[0],
        settings={name: FLAGS[name].value for name in names},
        facts=facts | _more_facts(bench.samples),
        bench=bench,
        ratios=_ratios(bench.samples),
    )
    report.show(result, "an image")
    report.write(result, FLAGS.json)


if __name__ == "__main__":
    _define_flags()
    app.run(main)
