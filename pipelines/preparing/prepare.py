"""Writing data sets as TFRecord or ArrayRecord shards: with all cores of one machine, or with Apache Beam."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from pipelines.datasets import ENTRIES, dataset_names
from pipelines.extras import check_count, near, require, require_tfds, tfds_path
from pipelines.preparing.captions import check_captions
from pipelines.preparing.finishing import finish, finish_cleaning
from pipelines.preparing.shards import PARTS, REMEDY, BuilderSpec, Shard, cut, write_atomically, write_shard, written
from pipelines.reading.locating import INFO_FILE
from pipelines.reading.records import FORMATS

if TYPE_CHECKING:
    from etils import epath

    from pipelines.datasets.local_builder import Item, LocalBuilder, SourceConfig

EXAMPLES_PER_SHARD = 1024
_MAY_HAVE_BEEN_TRANSPARENT = ("RGBA", "grey with alpha", "palette", "PA")  # in reports of earlier versions
# Below so many examples starting processes costs more than they save.
WORTH_PROCESSES = 4000


def prepare(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    file_format: str = "tfrecord",
    workers: int | None = None,
    examples_per_shard: int = EXAMPLES_PER_SHARD,
    max_bad_sources: int | None = None,
    progress: bool = False,
    beam_runner: str | None = None,
    beam_options: Sequence[str] = (),
    text_encoder: str | None = None,
    **settings: Any,
) -> str:
    """Writes the data set `name` and returns its directory, `data_dir/name/version`, or `data_dir/name/config/version`
    for one that is made from the user's files. `report.json` in it says what was changed, left out or found twice.

    An interrupted run leaves no data set that looks prepared, and the same call continues it without doing finished
    shards again; however often that happens, and however many processes work, the result is the same to the byte. A
    data set that is already there is left as it is. Nothing is fetched from the network but a text encoder that is
    not here. Memory: one example a worker, 32 with an encoder, and about 500 bytes an example for the listing in this
    process.

    Args:
        name: one of `dataset_names()`.
        data_dir: the directory for prepared data sets, made if absent; None: the one that tfds uses.
        file_format: "tfrecord", or "array_record" (for grain and random access).
        workers: number of processes; None: one for each core, or this process alone for small sets.
        examples_per_shard: about so many; the last sets of a split have no fewer than others.
        max_bad_sources: how many sources (files, clips) that no example can be made of are left out and reported before
            it stops; None: what the data set says: 0, but any number for kinetics600.
        progress: show a progress bar on stderr.
        beam_runner: name of an Apache Beam runner ("DirectRunner", "DataflowRunner", ...) that writes the shards; its
            workers must see the source and `data_dir` under the same paths. None: this machine's cores do.
        beam_options: Beam's own options, as on a command line.
        text_encoder: name of the encoder (pipelines.text_encoder) that makes "text" of each example's caption; None:
            captions, where there are any, are kept as they are.
        **settings: of a data set that is made from the user's files, as its configuration documents them: `source`
            (needed), `config` (a name for the folder), `image_size`, `encoding`, ...

    Raises:
        ValueError: unknown name or setting, a setting out of range, something else in the data set's place, a source
            that is not laid out as it must be, or one that no example can be made of (`BadSource`).
        FileNotFoundError: there is no such source.
        BlockingIOError: another process is preparing the same data set.
        ImportError: a package is missing; the sentence says which extra installs it.
    """
    spec = _spec(name, data_dir, file_format, settings, text_encoder)
    check_count("workers", 1 if workers is None else workers, none=False)
    check_count("examples_per_shard", examples_per_shard, none=False)
    check_count("max_bad_sources", max_bad_sources, 0)
    builder = spec.build()
    final = builder.data_path
    if final.exists():
        return _already_there(final, spec, builder)
    allowed = builder.MAX_BAD_SOURCES if max_bad_sources is None else max_bad_sources
    listing = {split: items for split, items in builder.listing().items() if items}
    if not listing:
        raise ValueError(f"there are no examples for {name}" + (f" in {spec.config.source}" if spec.config else ""))
    check_captions(builder, listing, allowed, REMEDY)
    work = final.parent / f"incomplete.{final.name}"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work):
        if final.exists():  # another process was faster
            return os.fspath(final)
        shards = _planned(builder, spec, listing, work, examples_per_shard)
        total = sum(map(len, listing.values()))
        tasks = [(spec, os.fspath(work), shard, allowed) for shard in shards]
        if beam_runner is not None:
            done = _with_beam(tasks, beam_runner, beam_options)
        else:
            cores = len(os.sched_getaffinity(0)) if total >= WORTH_PROCESSES else 1
            done = _with_processes(tasks, min(workers or cores, len(shards)))
        _watched(done, total, allowed, progress)
        finish(builder, spec.settings, work, shards)
        _publish(work, final)
    finish_cleaning(final)
    return os.fspath(final)


def _publish(work: "epath.Path", final: "epath.Path") -> None:
    """Gives a finished work directory its name. Buckets copy a directory file by file, so what makes it a data set
    comes last."""
    if "://" not in os.fspath(final):
        work.rename(final)
        return
    final.mkdir(parents=True, exist_ok=True)
    for path in sorted(work.iterdir(), key=lambda path: path.name == INFO_FILE):
        if not path.is_dir():
            path.copy(final / path.name, overwrite=True)
    work.rmtree()


def _spec(name: str, data_dir: Any, file_format: str, settings: dict[str, Any], encoder: str | None) -> BuilderSpec:
    names = dataset_names()
    if name not in names:
        raise ValueError(f"unknown data set {name!r}: known are {', '.join(names)}{near(str(name), names)}")
    if data_dir is not None and not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(f"data_dir must be a path or None, got {data_dir!r}")
    if file_format not in FORMATS:
        raise ValueError(f"file_format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    require_tfds()
    root = tfds_path(data_dir)
    if root.exists() and not root.is_dir():
        raise ValueError(f"data_dir must be a directory, and {root} is a file")
    return BuilderSpec(name, _config(name, settings), os.fspath(root), file_format, encoder)


def _config(name: str, settings: dict[str, Any]) -> "SourceConfig | None":
    kind, known = ENTRIES[name].load().CONFIG, []
    if kind is not None:
        inherited = {field.name for field in dataclasses.fields(require_tfds().core.BuilderConfig)}
        known = ["config", *(field.name for field in dataclasses.fields(kind) if field.name not in inherited)]
    settings = {key: value for key, value in settings.items() if value is not None}
    for key in settings:
        if key not in known:
            accepted = f"it takes {', '.join(known)}" if known else "it has no settings"
            raise ValueError(f"{name} has no setting {key!r}: {accepted}{near(key, known)}")
    if kind is None:
        return None
    if "source" not in settings:
        raise ValueError(f"{name} is made from your files: give source (on the command line: --source=PATH)")
    if "config" in settings:
        settings["name"] = settings.pop("config")
    for field in dataclasses.fields(kind):
        needed = field.init and field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name in known and field.name not in settings:
            raise ValueError(f"{name} needs {field.name} (on the command line: --{field.name}=...; sid2-data --help)")
    return kind(**settings)


def _of_earlier_version(spec: BuilderSpec, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version did not know were as the defaults say (but that it dropped transparency)."""
    before = {key: getattr(type(spec.config), key, value) for key, value in spec.settings.items()}
    return before | {"text_encoder": None} | settings


def _what_names(spec: BuilderSpec) -> str:
    """What the user gives to have the data set in another place."""
    return "data_dir" if spec.config is None else "config name"


def _already_there(final: "epath.Path", spec: BuilderSpec, builder: "LocalBuilder") -> str:
    if not (final / INFO_FILE).exists():
        raise ValueError(f"{final} exists and holds no prepared data set: remove it, or give another data_dir")
    finish_cleaning(final)
    settings, path = spec.settings, final / "report.json"
    report = json.loads(path.read_text()) if path.exists() else {"settings": settings, "splits": {}}
    if "background" not in report["settings"]:
        changes = [item for part in report["splits"].values() for item in part["changes"].items()]
        dropped = sum(count for change, count in changes if change.startswith(_MAY_HAVE_BEEN_TRANSPARENT))
        if dropped:
            logging.warning(
                "%s was prepared by an earlier version, which dropped the transparency of images: %d of them were of "
                "kinds that may have it; give another config name to prepare it anew",
                final,
                dropped,
            )
    before = _of_earlier_version(spec, report["settings"])
    differing = [f"{key}={value!r} (there: {before[key]!r})" for key, value in settings.items() if before[key] != value]
    if "values" in settings and "values" not in report["settings"]:
        kept = json.loads((final / "features.json").read_text())["featuresDict"]["features"]
        if others := set(builder.values()) - set(kept):
            differing.append(f"values={','.join(sorted(others))} (there: none)")
    if differing:
        told = f"{final} was prepared with other settings: {', '.join(differing)}"
        raise ValueError(f"{told}; give another {_what_names(spec)}")
    return os.fspath(final)


@contextlib.contextmanager
def _locked(work: "epath.Path") -> Iterator[None]:
    """Holds the work directory against other processes of this machine."""
    if "://" in os.fspath(work):
        yield  # no such thing on remote storage
        return
    with open(work / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BlockingIOError(f"another process is preparing {work.parent}: wait until it has ended") from None
        yield


def _planned(
    builder: "LocalBuilder", spec: BuilderSpec, listing: "dict[str, list[Item]]", work: "epath.Path", length: int
) -> list[Shard]:
    """Settles what goes into which shard of about so many examples, or finds it settled."""
    digest, cuts = hashlib.blake2b(digest_size=16), []
    for split, items in sorted(listing.items()):
        digest.update(f"{split}\n".encode())
        for item in sorted(items):
            digest.update(json.dumps(item).encode())
        cuts += cut(split, items, length)
    plan = {"settings": spec.settings, "examples_per_shard": length, "listing": digest.hexdigest()}
    plan["notes"] = builder.notes()
    if (work / "plan.json").exists():
        begun = json.loads((work / "plan.json").read_text())
        begun["settings"] = _of_earlier_version(spec, begun["settings"])
        if json.dumps(begun, sort_keys=True) != json.dumps(plan, sort_keys=True):
            raise ValueError(
                f"{work} was begun from other files or with other settings: remove it to begin anew, or give "
                f"another {_what_names(spec)}"
            )
    else:
        (work / PARTS).mkdir(exist_ok=True)
        for shard, items in cuts:
            write_atomically(work / f"{shard.part}.items.json", json.dumps(items).encode())
        write_atomically(work / "plan.json", json.dumps(plan, indent=1).encode())
    return [shard for shard, _ in cuts]


Task = tuple[BuilderSpec, str, Shard, int | None]  # the arguments of write_shard, which returns a Done
Done = tuple[int, list[str]]


def _with_processes(tasks: list[Task], workers: int) -> Iterator[Done]:
    if workers == 1:
        return (write_shard(*task) for task in tasks)
    joblib = require("joblib", extra="data")
    # Workers of a killed run end by themselves when they have had nothing to do for so many seconds.
    with joblib.parallel_config("loky", idle_worker_timeout=10):
        run = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
        return run(joblib.delayed(write_shard)(*task) for task in tasks)


def _with_beam(tasks: list[Task], runner: str, options: Sequence[str]) -> Iterator[Done]:
    beam = require("apache_beam", extra="beam")
    flags = beam.options.pipeline_options.PipelineOptions([f"--runner={runner}", *options])
    with beam.Pipeline(options=flags) as pipeline:
        write = beam.Map(lambda task: write_shard(*task) and None)
        _ = pipeline | "Shards" >> beam.Create(tasks) | "Spread" >> beam.Reshuffle() | "Write" >> write
    return (written(directory, shard) for _, directory, shard, _ in tasks)


def _watched(done: Iterable[Done], total: int, allowed: int | None, progress: bool) -> None:
    """Lets the work run, shows how far it is, and stops it when too many sources are bad."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from pipelines.datasets.local_builder import BadSource

    bad: list[str] = []
    columns = *Progress.get_default_columns(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("preparing examples", total=total)
        for examples, reasons in done:
            bad += reasons
            if allowed is not None and len(bad) > allowed:
                count = f"{len(bad)} sources are bad, and max_bad_sources is {allowed}"
                raise BadSource(f"{count} ({REMEDY}); the last is {bad[-1]}")
            bar.advance(task, examples + len(reasons))
