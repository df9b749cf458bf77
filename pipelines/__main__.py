"""Prepares data sets, and looks at them.

    sid2-data list                       the data sets that can be prepared
    sid2-data prepare NAME [flags]       writes one into --data_dir, with all cores; goes on where it was interrupted
    sid2-data verify NAME_OR_DIR         reads and decodes every record; exit code 1 if one is bad
    sid2-data stats NAME_OR_DIR          counts by class, size and kind, duplicates; decodes nothing
    sid2-data show NAME_OR_DIR           a picture of random examples, --out=examples.png

NAME_OR_DIR may also be a file or a quoted glob of TFRecord or ArrayRecord shards.

    sid2-data prepare digits --data_dir=data
    sid2-data prepare image_folder --source=photos --image_size=256 --data_dir=data
    sid2-data prepare image_folder --source=coco --splits=train=train2017,test=val2017 --data_dir=data
    sid2-data prepare imagenet --source=/downloads --image_size=512 --encoding=png --data_dir=data
    sid2-data prepare kinetics600 --source=/clips --annotations=/csv --image_size=128 --num_frames=16 --data_dir=data
    sid2-data verify data/image_folder

The same as `python -m pipelines ...`. Exit code 2: the command line is wrong; 1: the work failed; 130: Ctrl-C.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from absl import app, flags, logging

from pipelines.checking.verifying import random_grid, stats, verify
from pipelines.datasets import ENTRIES, dataset_names
from pipelines.extras import tfds_path
from pipelines.preparing.prepare import EXAMPLES_PER_SHARD, prepare
from pipelines.reading.faults import BadRecord
from pipelines.values import RecordFeatures

if TYPE_CHECKING:
    from etils import epath

# Flags of this program alone: several programs of the project may be imported into one process.
FLAGS = flags.FlagValues()
SETTINGS = {  # what only some data sets take: name: (kind, help); None: not given
    "source": ("string", "prepare: the folder or file of yours that it is made from"),
    "config": ("string", "prepare: name for the folder; default: from the settings"),
    "image_size": ("integer", "prepare: side of ADM's centre crop; show: of the images"),
    "encoding": ("string", "prepare: png, jpeg or original"),
    "quality": ("integer", "prepare: of JPEG, 1 to 100"),
    "channels": ("integer", "prepare, plain files: 3 (RGB) or 1 (grey); plain: 4"),
    "background": ("string", "prepare, plain files: colour on which transparent pictures are composited, #rrggbb or a "
                   "name; default: white. prepare: keep stores RGBA, with 4 channels"),
    "min_size": ("integer", "prepare: pictures with a shorter side are left out"),
    "animated": ("string", "prepare: of GIFs and others with several frames the first, or skip; default: first"),
    "splits": ("string", "prepare image_folder: train=FOLDER,test=FOLDER, or none: no folder is a split"),
    "classes": ("string", "prepare image_folder: top (the first folder below the split is the class), parent (the "
                "folder of the file), none"),
    "num_classes": ("integer", "prepare npz, plain files: labels are below it"),
    "values": ("string", "prepare npz: which other arrays, NAME,NAME or none; default: all"),
    "annotations": ("string", "prepare kinetics600: the official CSV files"),
    "num_frames": ("integer", "prepare kinetics600: frames a clip"),
    "stride": ("integer", "prepare kinetics600: every how manieth frame"),
}  # fmt: skip
OTHERS = {  # name: (kind, default, help)
    "data_dir": ("string", None, "directory for prepared data sets"),
    "help": ("boolean", False, "show this help"),
    "file_format": ("string", "tfrecord", "prepare: tfrecord or array_record"),
    "workers": ("integer", None, "prepare: processes; default: one for each core"),
    "examples_per_shard": ("integer", EXAMPLES_PER_SHARD, "prepare: about so many"),
    "max_bad_sources": ("integer", None, "prepare: how many bad files are left out"),
    "beam_runner": ("string", None, "prepare: Apache Beam runner, as DirectRunner"),
    "beam_option": ("multi_string", [], "prepare: an option of Beam's, as --project=x"),
    "split": ("string", None, "verify, stats, show: one split; default: all, show: train"),
    "image_key": ("string", None, "verify, stats, show: feature that holds the image"),
    "label_key": ("string", None, "verify, stats, show: feature that holds the label"),
    "out": ("string", "examples.png", "show: the picture"),
    "count": ("integer", 64, "show: how many examples"),
    "seed": ("integer", 0, "show: which examples"),
}
for _name, (_kind, _default, _help) in {**{n: (k, None, h) for n, (k, h) in SETTINGS.items()}, **OTHERS}.items():
    getattr(flags, f"DEFINE_{_kind}")(_name, _default, _help, flag_values=FLAGS)


def _list(*arguments: str) -> None:
    _expect(arguments, "list")
    for name in dataset_names():
        print(f"{name:16s}{ENTRIES[name].summary}")


def _prepare(*arguments: str) -> None:
    _expect(arguments, "prepare", "NAME")
    directory = prepare(
        arguments[0],
        FLAGS.data_dir,
        file_format=FLAGS.file_format,
        workers=FLAGS.workers,
        examples_per_shard=FLAGS.examples_per_shard,
        max_bad_sources=FLAGS.max_bad_sources,
        progress=True,
        beam_runner=FLAGS.beam_runner,
        beam_options=FLAGS.beam_option,
        **{name: FLAGS[name].value for name in SETTINGS if FLAGS[name].value is not None},
    )
    _print_report(tfds_path(directory) / "report.json")
    print(directory)


def _print_report(path: "epath.Path") -> None:
    """What the user should know of a preparation, on stderr: stdout has the directory alone."""
    if not path.exists():
        return
    report = json.loads(path.read_text())
    for split, part in report["splits"].items():
        said = [f"{part['examples']} examples"]
        said += [f"{count} {change}" for change, count in sorted(part["changes"].items())]
        said += [f"{count} left out {reason}" for reason, count in sorted(part["skipped"].items())]
        said += [f"{part['left_out']} bad ones left out"] * bool(part["left_out"])
        print(f"{split}: {', '.join(said)}", file=sys.stderr)
        for reason in part["left_out_first"][:10]:
            print(f"  left out: {reason}", file=sys.stderr)
    if report["duplicates"]:
        between = report["duplicates_between_splits"]
        print(f"{report['duplicates']} duplicates, {between} in more than one split, see {path}", file=sys.stderr)
    for note in report["notes"]:
        print(note, file=sys.stderr)


def _verify(*arguments: str) -> None:
    _expect(arguments, "verify", "NAME_OR_DIR")
    reports = verify(arguments[0], split=FLAGS.split, data_dir=FLAGS.data_dir, features=_features())
    print(*reports, sep="\n")
    bad = sum(len(report.faults) for report in reports)
    if bad:
        raise OSError(f"{bad} bad records in {arguments[0]}")


def _stats(*arguments: str) -> None:
    _expect(arguments, "stats", "NAME_OR_DIR")
    print(*stats(arguments[0], split=FLAGS.split, data_dir=FLAGS.data_dir, features=_features()), sep="\n")


def _show(*arguments: str) -> None:
    _expect(arguments, "show", "NAME_OR_DIR")
    from PIL import Image

    picture = random_grid(
        arguments[0],
        split=FLAGS.split or "train",
        data_dir=FLAGS.data_dir,
        features=_features(),
        count=FLAGS.count,
        image_size=FLAGS.image_size,
        seed=FLAGS.seed,
    )
    Image.fromarray(picture).save(FLAGS.out, format="PNG")
    print(FLAGS.out)


def _features() -> RecordFeatures | None:
    given = {"image": FLAGS.image_key, "label": FLAGS.label_key}
    given |= {name: FLAGS[name].value for name in ("channels", "background", "num_classes")}
    given = {name: value for name, value in given.items() if value is not None}
    return RecordFeatures(**given) if given else None


COMMANDS: dict[str, Callable[..., None]] = {
    "list": _list,
    "prepare": _prepare,
    "verify": _verify,
    "stats": _stats,
    "show": _show,
}


def _expect(arguments: tuple[str, ...], command: str, *names: str) -> None:
    if len(arguments) != len(names):
        usage = " ".join(["sid2-data", command, *names])
        given = f"{len(arguments)}: {' '.join(arguments)}" if arguments else "none"
        raise ValueError(
            f"{command} takes {len(names) or 'no'} argument{'s' * (len(names) != 1)} ({usage}), got {given}"
        )


def _main(argv: list[str]) -> None:
    if FLAGS.help:
        print(__doc__)
        print(FLAGS.get_help())
        return
    known = ", ".join(COMMANDS)
    if len(argv) < 2:
        raise ValueError(f"a command is missing: known are {known} (sid2-data --help)")
    if argv[1] not in COMMANDS:
        raise ValueError(f"unknown command {argv[1]!r}: known are {known} (sid2-data --help)")
    COMMANDS[argv[1]](*argv[2:])


def _is_bad_data(error: Exception) -> bool:
    """Whether an error is no fault of the command line, though it is a ValueError."""
    from pipelines.datasets.local_builder import BadSource

    return isinstance(error, (BadRecord, BadSource))


def _guarded(argv: list[str]) -> int:
    """Runs the program; what is the user's to mend ends in one line and not in a stack trace."""
    logging.set_verbosity(logging.WARNING)
    try:
        _main(argv)
        return 0
    except KeyboardInterrupt:
        print("sid2-data: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:  # not app.UsageError: absl prints the whole help before it
        print(f"sid2-data: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) and not _is_bad_data(error) else 1


def _parse(argv: list[str]) -> list[str]:
    flags.FLAGS(argv[:1])  # absl wants its own flags parsed too
    try:
        return FLAGS(argv)
    except flags.Error as error:
        print(f"sid2-data: {error} (sid2-data --help)", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Entry point of the console program `sid2-data`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before tensorflow is imported
    app.run(_guarded, flags_parser=_parse)


if __name__ == "__main__":
    run()
