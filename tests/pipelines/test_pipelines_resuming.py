"""Whatever happens while a data set is written, and whoever writes it: in the end it is the same, to the byte."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import pipelines

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(__file__).parents[2]
FORMATS = ["tfrecord", "array_record"]


def png(seed, side=16):
    file = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (side, side + 4, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def image_folder(root, count):
    """`count` images of three classes and two splits."""
    for number in range(count):
        path = root / ("test" if number % 5 == 0 else "train") / "abc"[number % 3] / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder that no test changes."""
    return image_folder(tmp_path_factory.mktemp("source") / "pictures", 60)


@pytest.fixture
def own_source(tmp_path):
    """A folder for the test alone, of 20 images; those of its train split are in four shards."""
    return image_folder(tmp_path / "pictures", 20)


def prepared(source, data_dir, **settings):
    settings = {"examples_per_shard": 8, "image_size": 8, **settings}
    return pathlib.Path(pipelines.prepare("image_folder", data_dir, source=source, **settings))


def contents(directory):
    """{path: digest} of all files below a directory."""
    files = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def work_directory(data_dir):
    (work,) = pathlib.Path(data_dir).glob("image_folder/*/incomplete.*")
    return work


def finished_shards(data_dir):
    """{path: time} of the shards that an unfinished run has left whole."""
    shards = work_directory(data_dir).glob("image_folder-*record-*")
    return {path.name: path.stat().st_mtime_ns for path in shards}


def assert_nothing_left(data_dir, directory):
    """There is the data set and nothing else: no locks, no plans, no temporary files."""
    assert not [path for path in pathlib.Path(data_dir).rglob("*") if "incomplete" in path.name]
    names = {path.name for path in directory.iterdir()}
    assert not [name for name in names if name.startswith(".")] and not names & {"parts", "plan.json"}


# Who writes makes no difference


@pytest.mark.parametrize("file_format", FORMATS)
def test_processes_make_no_difference(file_format, source, tmp_path):
    directories = [
        prepared(source, tmp_path / f"by {workers}", file_format=file_format, workers=workers) for workers in (1, 2)
    ]
    first, second = map(contents, directories)
    assert first == second
    assert sum(file_format in name for name in first) > 4
    for data_dir, directory in zip(("by 1", "by 2"), directories, strict=True):
        assert_nothing_left(tmp_path / data_dir, directory)


@pytest.mark.parametrize("file_format", FORMATS)
def test_bad_sources_make_no_difference(file_format, own_source, tmp_path):
    (own_source / "train/b/0001.png").write_text("no picture")
    (own_source / "train/c/0002.png").write_bytes(b"")
    settings = {"file_format": file_format, "max_bad_sources": 2}
    first, second = (
        prepared(own_source, tmp_path / f"by {workers}", workers=workers, **settings) for workers in (1, 2)
    )
    assert contents(first) == contents(second)
    reasons = json.loads((first / "report.json").read_text())["splits"]["train"]["left_out_first"]
    assert len(reasons) == 2 and not any("0x" in reason for reason in reasons)


@pytest.mark.parametrize(
    "options", [(), ("--direct_running_mode=multi_processing", "--direct_num_workers=2")], ids=["one", "two processes"]
)
@pytest.mark.parametrize("file_format", FORMATS)
def test_beam_makes_no_difference(file_format, options, source, tmp_path):
    pytest.importorskip("apache_beam")
    settings = {"file_format": file_format, "examples_per_shard": 16}
    here = prepared(source, tmp_path / "here", **settings)
    there = prepared(source, tmp_path / "there", beam_runner="DirectRunner", beam_options=options, **settings)
    assert contents(here) == contents(there)
    assert_nothing_left(tmp_path / "there", there)


def test_beam_stops_at_bad_sources_and_continues(own_source, tmp_path):
    pytest.importorskip("apache_beam")
    undisturbed = prepared(own_source, tmp_path / "here")
    bad = own_source / "train" / "b" / "0007.png"
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=r"train/b/0007.png is empty"):
        prepared(own_source, tmp_path / "there", beam_runner="DirectRunner")
    bad.write_bytes(whole)
    mended = prepared(own_source, tmp_path / "there", beam_runner="DirectRunner")
    assert contents(mended) == contents(undisturbed)


# Tfds


def our_examples(directory, split):
    batches = list(pipelines.make_dataset(directory, split=split, batch_size=7, training=False))
    return np.concatenate([b["image"] for b in batches]), np.concatenate([b["label"] for b in batches])


@pytest.mark.parametrize("file_format", FORMATS)
def test_tfds_reads_it_by_itself(file_format, source, tmp_path):
    import tensorflow_datasets as tfds

    directory = prepared(source, tmp_path, file_format=file_format)
    builder = tfds.builder_from_directory(directory)
    for split in ("train", "test"):
        if file_format == "tfrecord":
            read_config = tfds.ReadConfig(interleave_cycle_length=1)
            theirs = list(tfds.as_numpy(builder.as_dataset(split=split, read_config=read_config)))
        else:
            theirs = list(builder.as_data_source(split=split))
        images, labels = our_examples(directory, split)
        assert builder.info.splits[split].num_examples == len(theirs) == len(images)
        np.testing.assert_array_equal(np.stack([example["image"] for example in theirs]), images)
        np.testing.assert_array_equal([example["label"] for example in theirs], labels)
        assert builder.info.features["label"].names == ["a", "b", "c"]


def test_tfds_prepares_the_same_examples(source, tmp_path):
    from pipelines.datasets.image_folder import ImageFolder, ImageFolderConfig

    ours = prepared(source, tmp_path / "ours")
    builder = ImageFolder(data_dir=tmp_path / "theirs", config=ImageFolderConfig(source=str(source), image_size=8))
    builder.download_and_prepare()
    theirs = builder.data_path
    assert pathlib.Path(theirs).relative_to(tmp_path / "theirs") == ours.relative_to(tmp_path / "ours")
    for split in ("train", "test"):
        assert pipelines.describe(theirs, split=split) == pipelines.describe(ours, split=split)
        sets = []
        for directory in (ours, theirs):
            images, labels = our_examples(directory, split)
            sets.append(sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)))
        assert sets[0] == sets[1]


# Interrupted


@pytest.mark.parametrize("file_format", FORMATS)
def test_interrupted_run_keeps_its_finished_shards(file_format, own_source, tmp_path):
    settings = {"file_format": file_format, "examples_per_shard": 2, "workers": 1}
    undisturbed = prepared(own_source, tmp_path / "undisturbed", **settings)
    bad = {path.name: (path, path.read_bytes()) for path in sorted(own_source.rglob("*.png"))[::4]}
    for path, whole in bad.values():
        path.write_bytes(whole[:-60])
    left = []
    while bad:
        with pytest.raises(ValueError, match=r"^(train|test)/./.*.png cannot be decoded") as caught:
            prepared(own_source, tmp_path / "prepared", max_bad_sources=0, **settings)
        left.append(finished_shards(tmp_path / "prepared"))
        with pytest.raises(FileNotFoundError):  # no reader takes it for a data set
            pipelines.describe(tmp_path / "prepared")
        path, whole = bad.pop(str(caught.value).split(" ")[0].rpartition("/")[2])
        path.write_bytes(whole)
    assert max(map(len, left))
    for before, after in zip(left, left[1:], strict=False):
        assert before.items() <= after.items()
    directory = prepared(own_source, tmp_path / "prepared", **settings)
    assert {name: (directory / name).stat().st_mtime_ns for name in left[-1]} == left[-1]
    assert contents(directory) == contents(undisturbed)
    assert_nothing_left(tmp_path / "prepared", directory)


def unfinished(source, data_dir, **settings):
    """Leaves an unfinished run there, and its source sound."""
    bad = sorted(source.rglob("*.png"))[-1]
    whole = bad.read_bytes()
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        prepared(source, data_dir, config="same", **settings)
    bad.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 12},
        {"encoding": "jpeg"},
        {"quality": 50},
        {"channels": 1},
        {"examples_per_shard": 5},
        {"file_format": "array_record"},
    ],
    ids=str,
)
def test_changed_settings_do_not_continue_an_unfinished_run(change, own_source, tmp_path):
    undisturbed = prepared(own_source, tmp_path / "undisturbed", config="same")
    unfinished(own_source, tmp_path / "prepared")
    with pytest.raises(ValueError, match=r"incomplete.1.0.0 was begun from other files or with other settings: remove"):
        prepared(own_source, tmp_path / "prepared", config="same", **change)
    directory = prepared(own_source, tmp_path / "prepared", config="same")  # which the refusal has not harmed
    assert contents(directory) == contents(undisturbed)


@pytest.mark.parametrize("change", ["one more", "one less", "moved", "other folder"])
def test_changed_source_does_not_continue_an_unfinished_run(change, own_source, tmp_path):
    unfinished(own_source, tmp_path / "prepared")
    some = own_source / "train" / "b" / "0001.png"
    if change == "one more":
        (own_source / "train" / "b" / "new.png").write_bytes(png(99))
    elif change == "one less":
        some.unlink()
    elif change == "moved":
        some.rename(own_source / "train" / "c" / some.name)
    else:
        own_source = own_source.rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match="was begun from other files or with other settings: remove it to begin anew"):
        prepared(own_source, tmp_path / "prepared", config="same")


def test_existing_data_set_with_other_settings_is_refused(own_source, tmp_path):
    directory = prepared(own_source, tmp_path / "prepared", config="same")
    before = contents(directory)
    assert prepared(own_source, tmp_path / "prepared", config="same", examples_per_shard=3, workers=2) == directory
    for change, sentence in {
        ("image_size", 12): r"image_size=12 \(there: 8\)",
        ("encoding", "jpeg"): r"encoding='jpeg' \(there: 'png'\)",
    }.items():
        with pytest.raises(ValueError, match=f"was prepared with other settings: {sentence}; give another config name"):
            prepared(own_source, tmp_path / "prepared", config="same", **dict([change]))
    with pytest.raises(ValueError, match="is already in .*, and in another format than array_record: give another"):
        prepared(own_source, tmp_path / "prepared", config="same", file_format="array_record")
    other = image_folder(tmp_path / "elsewhere" / "pictures", 5)
    with pytest.raises(ValueError, match=r"other settings: source='.*elsewhere/pictures' \(there: "):
        prepared(other, tmp_path / "prepared", config="same")
    assert contents(directory) == before


# Bad sources


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_sources_are_counted_and_listed(workers, own_source, tmp_path):
    bad = ["train/b/0001.png", "train/c/0008.png", "test/a/0015.png"]
    for path in bad:
        (own_source / path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"^(train|test)/./00(01|08|15).png is empty \(--max_bad_sources=N "):
        prepared(own_source, tmp_path, workers=workers)
    with pytest.raises(ValueError, match=r"^3 sources are bad, and max_bad_sources is 2 .*; the last is .* is empty$"):
        prepared(own_source, tmp_path, workers=workers, max_bad_sources=2)
    directory = prepared(own_source, tmp_path, workers=workers, max_bad_sources=3)
    splits = json.loads((directory / "report.json").read_text())["splits"]
    assert sorted(splits["train"]["left_out_first"]) == [f"{path} is empty" for path in bad[:2]]
    assert splits["test"]["left_out_first"] == [f"{bad[2]} is empty"]
    assert (splits["train"]["left_out"], splits["train"]["examples"]) == (2, 14)
    assert (splits["test"]["left_out"], splits["test"]["examples"]) == (1, 3)
    assert sum(len(our_examples(directory, split)[1]) for split in splits) == 17


@pytest.mark.parametrize("allowed", [0, 1])
def test_mended_sources_are_read_again(allowed, own_source, tmp_path):
    undisturbed = prepared(own_source, tmp_path / "undisturbed")
    bad = [own_source / path for path in ("train/b/0001.png", "train/c/0008.png")]
    whole = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="2 sources are bad"):
        prepared(own_source, tmp_path / "prepared", max_bad_sources=1)
    for path, data in zip(bad, whole, strict=True):
        path.write_bytes(data)
    directory = prepared(own_source, tmp_path / "prepared", max_bad_sources=allowed)
    assert contents(directory) == contents(undisturbed)


# Two and kill


CHILD = """
import sys
import pipelines
sys.stdin.readline()
pipelines.prepare("image_folder", {data_dir!r}, source={source!r}, image_size=8, examples_per_shard={per_shard},
                  workers={workers})
"""


@contextlib.contextmanager
def child(source, data_dir, workers=1, per_shard=8):
    """A process that prepares when it is told to; killed at the end if it still runs, without those it has started."""
    code = CHILD.format(source=str(source), data_dir=str(data_dir), workers=workers, per_shard=per_shard)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,  # a process group of its own
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stderr.close()


def end_workers(process):
    """Ends what a killed process has left behind: joblib's processes would wait for minutes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def start(process):
    process.stdin.write(b"\n")
    process.stdin.flush()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_second_process_is_told_to_wait(source, tmp_path):
    slow = image_folder(tmp_path / "slow", 6)
    first = sorted(slow.rglob("*.png"))[0]
    os.remove(first)
    os.mkfifo(first)  # who reads it waits until somebody writes
    with child(slow, tmp_path / "prepared") as process:
        start(process)
        with open(first, "wb") as file:  # both have it open: the other process is in the middle of its work
            with pytest.raises(BlockingIOError, match=r"another process is preparing .*slow-8-png: wait until it has"):
                prepared(slow, tmp_path / "prepared")
            file.write(png(0))
        assert process.wait(60) == 0, process.stderr.read().decode()
    directory = prepared(slow, tmp_path / "prepared")
    assert_nothing_left(tmp_path / "prepared", directory)
    first.unlink()
    first.write_bytes(png(0))
    assert contents(directory) == contents(prepared(slow, tmp_path / "again"))


@pytest.fixture
def started():
    """Processes whose own processes are ended after the test; not before: they must not harm its result."""
    processes = []
    yield processes
    for process in processes:
        end_workers(process)


@pytest.mark.slow
def test_killed_at_random_moments(started, tmp_path):
    kills = {1: 12, 2: 8}  # by number of processes
    source = image_folder(tmp_path / "pictures", 400)
    with child(source, tmp_path / "undisturbed", per_shard=2) as process:
        start(process)
        assert process.wait(60) == 0
    (undisturbed,) = (tmp_path / "undisturbed").glob("image_folder/*/1.0.0")
    expected = contents(undisturbed)
    chance = random.Random(0)
    for workers, wanted in kills.items():
        data_dir, number, killed, during = tmp_path / f"by {workers}", 0, 0, 0
        while killed < wanted:
            root = data_dir / str(number) / "image_folder" / "pictures-8-png"
            with child(source, data_dir / str(number), workers, per_shard=2) as process:
                started.append(process)
                start(process)
                wait_for(lambda root=root, process=process: root.exists() or process.poll() is not None)
                # One process writes for a fraction of a second; two take longer to start.
                time.sleep(chance.uniform(0, 0.25 if workers == 1 else 1.2))
                during += (root / "incomplete.1.0.0").exists()
                killed += process.poll() is None
                process.kill()
            if (root / "1.0.0").exists() and process.returncode == 0:
                assert contents(root / "1.0.0") == expected
                number += 1  # it was done: the next begins anew
        assert during >= wanted // 2, (during, wanted)
        with child(source, data_dir / str(number), workers, per_shard=2) as process:
            start(process)
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()
        for directory in data_dir.glob("*/image_folder/*/1.0.0"):
            assert contents(directory) == expected
            assert_nothing_left(directory.parent, directory)
        assert [path.name for path in root.iterdir()] == ["1.0.0"]
