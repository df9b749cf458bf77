"""Sharded checkpoints in one process: written behind training, whole or not at all, sound or named (jax)."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from helpers import BACKEND, only_on_jax
from test_checkpoints import small_disk  # noqa: F401
from training_helpers import Steps, all_weights, fit_steps, same_weights, tiny_model

from keras_sid2.backend import steps_done
from keras_sid2.callbacks.saving import SaveCheckpoints
from keras_sid2.checkpoints import (
    ARRAYS,
    CONFIG,
    MANIFEST,
    checkpoint_step,
    checkpoints,
    corrupt_checkpoints,
    fault,
    load_model,
    newest_sound,
    remove_unfinished,
)
from keras_sid2.checkpoints import sharded as module
from keras_sid2.checkpoints.sharded import ShardedSaver, check_available


@pytest.fixture(scope="module")
def trained():
    """One model for all tests: most of their time is compiling its training step."""
    return tiny_model()


@pytest.fixture
def model(trained):
    """It, after a number of steps that 4 divides."""
    while steps_done(trained) % 4:
        fit_steps(trained, count=16)
    return trained


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    """(a folder with the checkpoints of two steps, what the model had at each)."""
    folder, values = tmp_path_factory.mktemp("saved"), {}
    saver = ShardedSaver(folder, keep=2, about={"run": {"seed": 3}})
    for _ in range(2):
        fit_steps(trained, count=16)
        values[steps_done(trained)] = all_weights(trained)
        saver.save(trained)
    saver.wait()
    return folder, values


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.skipif(BACKEND == "jax", reason="what the others say")
def test_other_backends_refuse_them_and_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=f"need the jax backend, got {BACKEND}: set KERAS_BACKEND=jax"):
        SaveCheckpoints(tmp_path, every=1, keep=1, sharded=True)
    (tmp_path / "step_0000000001").mkdir()
    (tmp_path / "step_0000000001" / MANIFEST).write_text('{"format": 2}')
    with pytest.raises(ValueError, match="which jax alone reads, and this is .*KERAS_BACKEND=jax sid2-export"):
        load_model(tmp_path / "step_0000000001")


@only_on_jax
def test_without_orbax_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(
        ImportError, match=r"Sharded checkpoints need Orbax \(.*\): pip install 'keras_sid2\[orbax\]'\."
    ):
        check_available()


@only_on_jax
def test_what_is_saved_is_there_to_the_bit_and_the_manifest_lists_all_files(saved):
    folder, values = saved
    for path in checkpoints(folder):
        assert fault(path) is None
        for was, found in zip(values[checkpoint_step(path)], all_weights(load_model(path)), strict=True):
            assert was.dtype == found.dtype and was.tobytes() == found.tobytes()
        manifest = json.loads((path / MANIFEST).read_text())
        there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        assert manifest["run"] == {"seed": 3} and set(manifest["files"]) == there - {MANIFEST}
        assert all(
            (path / name).stat().st_size == file["bytes"] and not name.startswith(".")
            for name, file in manifest["files"].items()
        )


@only_on_jax
def test_where_a_loop_runs_already_as_in_a_notebook(model, tmp_path):
    saver, expected = ShardedSaver(tmp_path, keep=1), all_weights(model)

    async def cell():
        saver.save(model)
        saver.wait()
        return load_model(checkpoints(tmp_path)[0])

    for was, found in zip(expected, all_weights(asyncio.run(cell())), strict=True):
        assert was.tobytes() == found.tobytes()


@only_on_jax
def test_starts_do_not_write_into_one_another_s_folders(model, tmp_path, monkeypatch):
    """A process may outlive its run; a run seeds Python's random numbers alike at every start."""
    make, names = module._make, []
    monkeypatch.setattr(
        module, "_make", lambda temporary, model: (names.append(temporary.name), make(temporary, model))
    )
    monkeypatch.setattr(module, "_numbers", iter([0, 1, 0]))
    for saves in (2, 1):
        keras.utils.set_random_seed(0)
        saver = ShardedSaver(tmp_path, keep=1)
        for _ in range(saves):
            saver.save(model)
        saver.wait()
    first, second, other = (name.rsplit("-", 2)[1:] for name in names)
    assert first[0] == second[0] != other[0] and [first[1], second[1], other[1]] == ["0", "1", "0"]


@only_on_jax
def test_training_goes_on_to_the_bit_while_the_disk_waits(model, tmp_path, monkeypatch):
    """The writing of a step is held back until two more are done; what is written then is what that step was."""
    go_on, tell_part = threading.Event(), module._tell_part
    monkeypatch.setattr(module, "_tell_part", lambda *names: (go_on.wait(60), tell_part(*names)))
    expected, saver = all_weights(model), ShardedSaver(tmp_path, keep=1)
    saver.save(model)
    fit_steps(model, start=2)
    assert not checkpoints(tmp_path)
    go_on.set()
    saver.wait()
    loaded = load_model(checkpoints(tmp_path)[0])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(expected, all_weights(loaded), strict=True))
    fit_steps(loaded, start=2)
    assert same_weights(loaded, model)


def damage(path, rng) -> str:
    """Does one thing to one file of a checkpoint; says what."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    file = files[rng.integers(len(files))] if rng.random() < 0.8 else path / MANIFEST
    data, kind = bytearray(file.read_bytes()), rng.choice(["flip", "cut", "remove", "empty", "longer"])
    if kind == "remove":
        file.unlink()
    elif kind == "flip":
        data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)
    else:
        file.write_bytes({"cut": data[: int(rng.integers(len(data)))], "empty": b"", "longer": data + b"x"}[kind])
    return f"{kind} {file.relative_to(path)}"


@only_on_jax
def test_a_hundred_faults_are_found_and_the_one_before_is_used(copy, saved):
    rng, harmless = np.random.default_rng(0), 0
    before, newest = checkpoints(copy)
    for _ in range(100):
        what, notes = damage(newest, rng), []
        found = newest_sound(copy, notes.append, set_aside=True)
        if found == newest:  # the manifest means the same still
            assert what in (f"flip {MANIFEST}", f"longer {MANIFEST}") and not notes, what
            harmless += 1
        else:
            name = what.split()[1]
            assert found == before, what
            assert len(notes) == 1 and (name in notes[0] or name == MANIFEST and "its manifest" in notes[0]), notes
            shutil.rmtree(corrupt_checkpoints(copy)[0])
        shutil.rmtree(newest, ignore_errors=True)
        shutil.copytree(saved[0] / newest.name, newest)
    assert harmless < 5


@only_on_jax
@pytest.mark.parametrize("name", [CONFIG, ARRAYS, MANIFEST])
def test_a_part_that_is_gone_is_named_and_loads_as_nothing(copy, name):
    path = checkpoints(copy)[-1]
    shutil.rmtree(path / name) if name == ARRAYS else (path / name).unlink()
    assert f"{name}" in fault(path) and "is missing" in fault(path)
    if name != MANIFEST:
        with pytest.raises(ValueError, match="that can be read"):
            load_model(path)


@only_on_jax
def test_arrays_of_another_model_are_refused(copy):
    """Even with digests that are right: by paths, by shapes, and by types."""
    path = checkpoints(copy)[-1]
    config = json.loads((path / CONFIG).read_text())
    network = config["config"]["network"]["config"]
    for change in ({"embedding_dim": 16}, {"num_classes": None}, {"name": "other"}):
        network_before = dict(network)
        network.update(change)
        (path / CONFIG).write_text(json.dumps(config))
        with pytest.raises(ValueError, match="no sharded checkpoint of a SiD2Model that can be read: ."):
            load_model(path)
        network.clear()
        network.update(network_before)


@only_on_jax
def test_the_last_n_and_every_kth_are_kept(model, tmp_path):
    saver, step = ShardedSaver(tmp_path, keep=1, keep_every=2), steps_done(model)
    for _ in range(5):
        fit_steps(model, count=16)
        saver.save(model)
    saver.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step_{step + more:010d}" for more in (2, 4, 5)]


@only_on_jax
def test_a_full_disk_leaves_the_last_checkpoint_whole_and_says_so(model, small_disk):  # noqa: F811
    first, notes = steps_done(model) + 4, []
    save = SaveCheckpoints(small_disk / "run", every=4, keep=3, note=notes.append, sharded=True)
    model.fit(Steps(), shuffle=False, verbose=0, callbacks=[save])
    filler = small_disk / "filler"
    with pytest.raises(OSError), open(filler, "wb") as file:
        while True:
            file.write(bytes(1024))
            file.flush()
    sentence = rf"The checkpoint of step {first + 8} could not be written \(No space.*whole one is .*{first}\."
    with pytest.raises(OSError, match=sentence):
        model.fit(Steps(), shuffle=False, verbose=0, epochs=2, callbacks=[save])
    assert f"checkpoint of step {first + 4} could not be written" in notes[0] and "Training goes on" in notes[0]
    assert [path.name for path in (small_disk / "run").iterdir()] == [f"step_{first:010d}"]
    filler.unlink()
    model.fit(Steps(), shuffle=False, verbose=0, callbacks=[save])
    assert checkpoint_step(newest_sound(small_disk / "run", notes.append, set_aside=False)) == first + 12


@only_on_jax
def test_what_fails_behind_training_is_told_when_the_next_one_begins(model, tmp_path, monkeypatch):
    """Orbax finds a file where it wants a folder."""
    make, first, notes, blocked = module._make, steps_done(model) + 4, [], []

    def block(temporary, model):
        make(temporary, model)
        if not blocked:
            (temporary / ARRAYS / "ocdbt.process_0").write_text("")
            blocked.append(temporary)

    monkeypatch.setattr(module, "_make", block)
    save = SaveCheckpoints(tmp_path, every=4, keep=3, note=notes.append, sharded=True)
    model.fit(Steps(), shuffle=False, verbose=0, epochs=2, callbacks=[save])
    assert len(notes) == 1 and f"The checkpoint of step {first} could not be written (" in notes[0]
    assert [path.name for path in tmp_path.iterdir()] == [f"step_{first + 4:010d}"]


@only_on_jax
def test_why_a_process_could_not_write_its_part_is_told(tmp_path):
    for error, why in (
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
        (ValueError("RESOURCE_EXHAUSTED: pages\nof it"), "No space left on device"),
        (RuntimeError("x" * 1000 + "\nmore"), "x" * 299),
    ):
        module._leave_reason(tmp_path, error)
        with pytest.raises(OSError) as told:
            module._parts(tmp_path)
        assert told.value.strerror == f"process 0 could not write its part: {why}"
    module._leave_reason(tmp_path / "nowhere", error)


@only_on_jax
def test_an_orbax_with_other_names_for_its_folders_is_told(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_DATA", "elsewhere_{}/d")
    saver = ShardedSaver(tmp_path, keep=1)
    saver.save(model)
    with pytest.raises(OSError, match="this version of Orbax puts no files into arrays/elsewhere_0/d"):
        saver.wait()
    assert not list(tmp_path.iterdir())
    module._tell_part(tmp_path, writes=False)  # a process that holds second copies only
    assert module._parts(tmp_path) == {}


@only_on_jax
def test_a_program_that_ends_with_an_error_still_writes_what_it_began(tmp_path):
    program = (
        "import sys\nfrom training_helpers import tiny_model\n"
        "from keras_sid2.checkpoints.sharded import ShardedSaver\n"
        "ShardedSaver(sys.argv[1], keep=1).save(tiny_model())\nraise SystemExit(5)\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}", tmp_path]
    assert subprocess.run(command, timeout=300).returncode == 5
    assert fault(checkpoints(tmp_path)[0]) is None


@only_on_jax
def test_what_a_kill_left_is_no_checkpoint_and_goes(copy):
    shutil.copytree(checkpoints(copy)[-1], copy / ".writing-step_0000000099-7")
    assert len(checkpoints(copy)) == 2
    remove_unfinished(copy)
    assert len(list(copy.iterdir())) == 2


@only_on_jax
def test_variables_of_one_path_have_keys_of_their_own():
    variables = [keras.Variable(np.full(2, i), name="same") for i in range(3)]
    assert [v.path for v in variables] == ["same"] * 3
    assert list(module._by_path(variables)) == ["same", "same#2", "same#3"]
