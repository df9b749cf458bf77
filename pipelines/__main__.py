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
    sid2-data prepare image_folder --source=photos --captions=captions.csv --text_encoder=minilm --data_dir=data
    sid2-data prepare imagenet --source=/downloads --image_size=512 --encoding=png --data_dir=data
    sid2-data prepare kinetics600 --source=/clips --annotations=/csv --image_size=128 --num_frames=16 --data_dir=data
    sid2-data prepare npz --source=wind.npz --channel_names=u,v --data_dir=data
    sid2-data prepare fields --source=era --variables=u,v --condition_variables=low,mask --data_dir=data
    sid2-data verify data/image_folder

The same as `python -m pipelines ...`. Exit code 2: the command line is wrong; 1: the work failed; 130: Ctrl-C.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from absl import app, flags, logging
from PIL import Image

from pipelines.checking.verifying import random_grid, stats, verify
from pipelines.datasets import ENTRIES, dataset_names
from pipelines.datasets.opening import BadSource
from pipelines.extras import tfds_path
from pipelines.preparing.prepare import EXAMPLES_PER_SHARD, prepare
from pipelines.reading.faults import BadRecord
from pipelines.values import RecordFeatures

# Flags of this program alone: several programs of the project may be imported into one process.
FLAGS = flags.FlagValues()
PREPARE = {  # passed on if they are given: name: (kind, help)
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
    "captions": ("string", "prepare image_folder: a .csv or .jsonl with file and caption, txt (beside each) or names"),
    "text_encoder": ("string", "prepare: encodes the captions: words, minilm, transformers:PATH_OR_NAME, ..."),
    "num_classes": ("integer", "prepare npz, plain files: labels are below it"),
    "values": ("string", "prepare npz: which other arrays, NAME,NAME or none; default: all"),
    "channel_names": ("string", "prepare npz: of float samples in physical units, NAME,... for each channel"),
    "variables": ("string", "prepare fields: NAME,... of the samples' channels"),
    "condition_variables": ("string", "prepare fields: NAME,... of what is kept beside the samples"),
    "sample_dim": ("string", "prepare fields: the dimension that runs over samples; default: time"),
    "annotations": ("string", "prepare kinetics600: the official CSV files"),
    "num_frames": ("integer", "prepare kinetics600: frames a clip"),
    "stride": ("integer", "prepare kinetics600: 2 keeps every second frame; default: 1"),
    "windows": ("integer", "prepare kinetics600: examples of each clip along time; default: 1"),
    "crops": ("integer", "prepare kinetics600: 1, the middle, or 3, both ends too; default: 1"),
    "file_format": ("string", "prepare: tfrecord or array_record; default: tfrecord"),
    "workers": ("integer", "prepare: processes; default: one for each core"),
    "examples_per_shard": ("integer", f"prepare: about so many; default: {EXAMPLES_PER_SHARD}"),
    "max_bad_sources": ("integer", "prepare: how many bad files are left out"),
    "beam_runner": ("string", "prepare: Apache Beam runner, as DirectRunner"),
}  # fmt: skip
OTHERS = {  # name: (kind, default, help)
    "data_dir": ("string", None, "directory for prepared data sets"),
    "help": ("boolean", False, "show this help"),
    "beam_option": ("multi_string", [], "prepare: an option of Beam's, as --project=x"),
    "split": ("string", None, "verify, stats, show: one split; default: all, show: train"),
    "image_key": ("string", None, "verify, stats, show: feature that holds the image"),
    "label_key": ("string", None, "verify, stats, show: feature that holds the label"),
    "out": ("string", "examples.png", "show: the picture"),
    "count": ("integer", 64, "show: how many examples"),
    "seed": ("integer", 0, "show: which examples"),
}
for _name, (_kind, _default, _help) in {**{n: (k, None, h) for n, (k, h) in PREPARE.items()}, **OTHERS}.items():
    getattr(flags, f"DEFINE_{_kind}")(_name, _default, _help, flag_values=FLAGS)


def _given(names: Iterable[str]) -> dict[str, Any]:
    return {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}


def _list() -> None:
    for name in dataset_names():
        print(f"{name:16s}{ENTRIES[name].summary}")


def _prepare(name: str) -> None:
    directory = prepare(name, FLAGS.data_dir, progress=True, beam_options=FLAGS.beam_option, **_given(PREPARE))
    _print_report(directory)
    print(directory)


def _print_report(directory: str) -> None:
    """What the user should know of a preparation, on stderr: stdout has the directory alone."""
    path = tfds_path(directory) / "report.json"
    if not path.exists():
        return
    report, lines = json.loads(path.read_text()), []
    for split, part in report["splits"].items():
        said = [f"{part['examples']} examples"]
        said += [f"{count} {change}" for change, count in sorted(part["changes"].items())]
        said += [f"{count} left out {reason}" for reason, count in sorted(part["skipped"].items())]
        said += [f"{part['left_out']} bad ones left out"] * bool(part["left_out"])
        lines.append(f"{split}: {', '.join(said)}")
        lines += [f"  left out: {reason}" for reason in part["left_out_first"][:10]]
    if report["duplicates"]:
        between = report["duplicates_between_splits"]
        lines.append(f"{report['duplicates']} duplicates, {between} in more than one split, see {path}")
    print(*lines, *report["notes"], sep="\n", file=sys.stderr)


def _verify(name_or_dir: str) -> None:
    reports = verify(name_or_dir, **_where())
    print(*reports, sep="\n")
    bad = sum(len(report.faults) for report in reports)
    if bad:
        raise OSError(f"{bad} bad records in {name_or_dir}")


def _stats(name_or_dir: str) -> None:
    print(*stats(name_or_dir, **_where()), sep="\n")


def _show(name_or_dir: str) -> None:
    options = {"split": "train"} | _given(("split", "count", "image_size", "seed"))
    Image.fromarray(random_grid(name_or_dir, **_where() | options)).save(FLAGS.out, format="PNG")
    print(FLAGS.out)


def _where() -> dict[str, Any]:
    keys = {name.removesuffix("_key"): value for name, value in _given(("image_key", "label_key")).items()}
    given = keys | _given(("channels", "background", "num_classes"))
    return {"split": FLAGS.split, "data_dir": FLAGS.data_dir, "features": RecordFeatures(**given) if given else None}


COMMANDS = {  # and what each takes
    "list": (_list, ""),
    "prepare": (_prepare, "NAME"),
    "verify": (_verify, "NAME_OR_DIR"),
    "stats": (_stats, "NAME_OR_DIR"),
    "show": (_show, "NAME_OR_DIR"),
}


def _main(argv: list[str]) -> None:
    if FLAGS.help:
        print(__doc__)
        print(FLAGS.get_help())
        return
    known = f"known are {', '.join(COMMANDS)} (sid2-data --help)"
    if len(argv) < 2:
        raise ValueError(f"a command is missing: {known}")
    _, command, *arguments = argv
    if command not in COMMANDS:
        raise ValueError(f"unknown command {command!r}: {known}")
    function, takes = COMMANDS[command]
    if len(arguments) != bool(takes):
        usage = f"{'1 argument' if takes else 'no arguments'} (sid2-data {command} {takes}".rstrip()
        got = f"{len(arguments)}: {' '.join(arguments)}" if arguments else "none"
        raise ValueError(f"{command} takes {usage}), got {got}")
    function(*arguments)


def _guarded(argv: list[str]) -> int:
    """Runs the program; what is the user's to mend ends in one line and not in a stack trace."""
    logging.set_verbosity(logging.WARNING)
    try:
        _main(argv)
        return 0
    except KeyboardInterrupt:
        error, code = "interrupted; the same command goes on from here", 130
    except (BadRecord, BadSource, OSError, ImportError) as caught:
        error, code = caught, 1
    except ValueError as caught:  # not app.UsageError: absl prints the whole help before it
        error, code = caught, 2
    print(f"sid2-data: {error}", file=sys.stderr)
    return code


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
