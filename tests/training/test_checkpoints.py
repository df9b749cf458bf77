"""Checkpoints under faults: what is damaged is found, named and set aside, and the newest sound one is used."""

import errno
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
from training_helpers import Steps, fit_steps, same_weights, tiny_model

from keras_sid2.callbacks.saving import SaveCheckpoints
from keras_sid2.checkpoints import (
    ARRAYS,
    MANIFEST,
    MODEL,
    SHARDED,
    checkpoint_step,
    checkpoints,
    corrupt_checkpoints,
    fault,
    load_model,
    newest_sound,
    remove_unfinished,
    save_checkpoint,
)
from keras_sid2.checkpoints import manifest as module


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder, model = tmp_path_factory.mktemp("saved"), tiny_model()
    for _ in range(2):
        fit_steps(model, count=16)
        save_checkpoint(model, folder, keep=2, about={"run": {"seed": 3}})
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    return tmp_path / "copy"


def damage(path, rng):
    """Does one thing to one file of a checkpoint; says what."""
    file = path / rng.choice([MODEL, MANIFEST])
    data = bytearray(file.read_bytes())
    kind = rng.choice(["flip", "cut", "remove", "empty", "longer"])
    if kind == "remove":
        file.unlink()
    elif kind == "flip":
        place = int(rng.integers(len(data)))
        data[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
    else:
        file.write_bytes({"cut": data[: int(rng.integers(1, len(data)))], "empty": b"", "longer": data + b"x"}[kind])
    return f"{kind} {file.name}"


def test_a_manifest_says_what_there_is(saved):
    path = checkpoints(saved)[-1]
    manifest = json.loads((path / MANIFEST).read_text())
    assert (
        manifest["step"] == 2 and manifest["run"] == {"seed": 3} and set(manifest["versions"]) >= {"keras", "backend"}
    )
    assert fault(path) is None


@pytest.mark.backend_free
def test_a_hundred_faults_are_found_and_the_one_before_is_used(copy, saved):
    """A flip inside the manifest may leave its meaning as it was; then the checkpoint is sound, and the model too."""
    rng, harmless = np.random.default_rng(0), 0
    for _ in range(100):
        newest = checkpoints(copy)[-1]
        what, notes = damage(newest, rng), []
        found = newest_sound(copy, notes.append, set_aside=True)
        if checkpoint_step(found) == 2:
            assert what == f"flip {MANIFEST}" or what == f"longer {MANIFEST}" and not notes, what
            assert (found / MODEL).read_bytes() == (saved / newest.name / MODEL).read_bytes()
            harmless += 1
        else:
            assert checkpoint_step(found) == 1, what
            assert len(notes) == 1 and str(newest) in notes[0] and "set aside" in notes[0], (what, notes)
            assert [path.name for path in corrupt_checkpoints(copy)] == ["corrupt_step_0000000002"]
            shutil.rmtree(corrupt_checkpoints(copy)[0])
        shutil.rmtree(copy / newest.name, ignore_errors=True)
        shutil.copytree(saved / newest.name, copy / newest.name)
    assert harmless < 15


@pytest.mark.backend_free
def test_none_that_is_sound_is_none_and_several_are_set_aside(copy):
    for path in checkpoints(copy):
        (path / MANIFEST).unlink()
    notes = []
    assert newest_sound(copy, notes.append, set_aside=False) is None
    assert len(checkpoints(copy)) == 2 and "manifest.json is missing" in notes[0]
    assert newest_sound(copy, notes.append, set_aside=True) is None
    assert not checkpoints(copy) and len(corrupt_checkpoints(copy)) == 2


@pytest.mark.backend_free
def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(copy, monkeypatch):
    def refused(path="."):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refused)
    with pytest.raises(PermissionError):
        checkpoints(copy)
    assert checkpoints(copy / "nowhere") == []


@pytest.mark.backend_free
def test_one_under_another_name_is_not_taken_for_it(copy):
    (copy / "step_0000000002").rename(copy / "step_0000000009")
    assert "of another step" in fault(copy / "step_0000000009")


@pytest.mark.backend_free
def test_the_same_step_may_be_set_aside_twice_and_saved_again(copy):
    model = load_model(checkpoints(copy)[-1])
    for _ in range(2):
        (copy / "step_0000000002" / MODEL).write_bytes(b"no")
        assert checkpoint_step(newest_sound(copy, lambda _: None, set_aside=True)) == 1
        save_checkpoint(model, copy, keep=2)
    assert len(corrupt_checkpoints(copy)) == 2 and fault(checkpoints(copy)[-1]) is None
    assert same_weights(load_model(checkpoints(copy)[-1]), model)


@pytest.mark.backend_free
def test_the_last_n_and_every_kth_are_kept(tmp_path):
    model = tiny_model()
    for _ in range(5):
        fit_steps(model, count=16)
        save_checkpoint(model, tmp_path, keep=1, keep_every=2)
    assert [checkpoint_step(path) for path in checkpoints(tmp_path)] == [2, 4, 5]


@pytest.mark.backend_free
def test_what_a_kill_left_is_no_checkpoint_and_goes(copy):
    left = copy / ".writing-abc"
    shutil.copytree(copy / "step_0000000002", left)
    assert [checkpoint_step(path) for path in checkpoints(copy)] == [1, 2]
    remove_unfinished(copy)
    assert not left.exists() and len(checkpoints(copy)) == 2


@pytest.mark.backend_free
def test_the_same_step_is_there_still_when_the_second_rename_fails_or_a_kill_comes_before_it(copy, monkeypatch):
    path, rename = copy / "step_0000000002", module.os.rename
    before, model = (path / MODEL).read_bytes(), load_model(path)

    def fails(error, source, to):
        if to == path and not source.name.endswith("-old"):
            raise error
        rename(source, to)

    for error in (OSError("no"), KeyboardInterrupt()):  # a kill, but for the process, which goes on
        monkeypatch.setattr(module.os, "rename", lambda source, to, error=error: fails(error, source, to))
        with pytest.raises(type(error)):
            save_checkpoint(model, copy, keep=2)
        assert path.exists() == isinstance(error, OSError)
        remove_unfinished(copy)
        assert sorted(p.name for p in copy.iterdir()) == ["step_0000000001", path.name]
        assert fault(path) is None and (path / MODEL).read_bytes() == before
    monkeypatch.undo()
    shutil.copytree(path, copy / f".writing-{path.name}-old")  # a kill behind both
    remove_unfinished(copy)
    assert len(list(copy.iterdir())) == 2


@pytest.mark.backend_free
def test_the_manifest_says_of_which_kind_it_is_and_no_stray_file(copy):
    path = checkpoints(copy)[-1]
    (path / ARRAYS).mkdir()
    (path / ARRAYS / "stray").write_text("")
    assert fault(path) is None and load_model(path)
    module._write_manifest(path, 2, SHARDED, None, {})
    assert fault(path) == "its manifest lists no model"
    for text, sentence in (
        ("{", "can be read: it has no sound manifest.json"),
        ('{"format": 9}', "newer version"),
    ):
        (path / MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=sentence):
            load_model(path)


@pytest.mark.backend_free
def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    order = []
    flush, rename = module._flush, module.os.rename
    monkeypatch.setattr(module, "_flush", lambda path: (order.append(path.name), flush(path)))
    monkeypatch.setattr(module.os, "rename", lambda *names: (order.append("rename"), rename(*names)))
    model = tiny_model()
    fit_steps(model, count=16)
    save_checkpoint(model, tmp_path, keep=1)
    assert order[:2] == [MODEL, MANIFEST] and order[2].startswith(".writing-")
    assert order[3:] == ["rename", tmp_path.name]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.backend_free
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_says_so(small_disk):
    model, notes = tiny_model(), []
    save = SaveCheckpoints(small_disk / "run", every=4, keep=3, note=notes.append)
    model.fit(Steps(), shuffle=False, verbose=0, callbacks=[save])
    assert [checkpoint_step(path) for path in checkpoints(small_disk / "run")] == [4]
    filler = small_disk / "filler"
    with pytest.raises(OSError), open(filler, "wb") as file:
        while True:
            file.write(bytes(1024))
            file.flush()
    with pytest.raises(OSError, match="The checkpoint of step 12 could not be written .*the last whole one is .*4"):
        model.fit(Steps(), shuffle=False, verbose=0, epochs=2, callbacks=[save])
    assert (
        len(notes) == 2 and "checkpoint of step 8 could not be written" in notes[0] and "Training goes on" in notes[0]
    )
    assert [checkpoint_step(path) for path in checkpoints(small_disk / "run")] == [4]
    assert fault(checkpoints(small_disk / "run")[0]) is None
    filler.unlink()
    model.fit(Steps(), shuffle=False, verbose=0, callbacks=[save])
    assert checkpoint_step(newest_sound(small_disk / "run", notes.append, set_aside=False)) == 16


@pytest.mark.backend_free
@pytest.mark.parametrize("name", ["a.keras", "a.txt", "a.weights.h5", "a"])
def test_a_file_that_is_no_archive_is_refused_in_one_sentence(tmp_path, name):
    (tmp_path / name).write_text("no")
    with pytest.raises(ValueError, match=r"can be read: it is no zip archive, or not all of one\.$"):
        load_model(tmp_path / name)
