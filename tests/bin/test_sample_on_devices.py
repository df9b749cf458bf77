"""sid2-sample and sid2-evaluate on several devices and in several processes: the images of one."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from evaluate_helpers import OWN_FEATURES, evaluate
from helpers import BACKEND, free_ports, only_on_jax
from run_helpers import one_of
from sample_helpers import command, draw, images_of, last_line
from training_helpers import stripes

from keras_sid2.bin import sample_files
from keras_sid2.io.image_files import NpzPieces, write_npz
from keras_sid2.io.image_reading import iterate_pngs
from keras_sid2.parallel import mesh, processes

TESTS = pathlib.Path(__file__).parent.parent
HOW = ("--num_images=18", "--num_steps=2", "--batch_size=4")
ON_TWO_DEVICES = """
import pathlib
import sys
from evaluate_helpers import evaluate
from sample_helpers import draw

folder, drawing, measuring = pathlib.Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
assert draw(*drawing, "--mesh=data:2")[0] == 0 and evaluate(folder, *measuring, "--mesh=data:2") == 0
"""


def environment(own: str = "", **more: str) -> dict:
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "bin", own)))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **more}


def run_two(out, *flags, program: str = "sample", own: str = "") -> list[tuple[int, str]]:
    """(exit code, what was printed) of sid2-sample, or another one, in each of two processes."""
    port, started = free_ports(2), []
    for index in range(2):
        of_one, told = one_of(index, 2, port)
        with open(out.with_name(f"{index}.log"), "w") as log:
            arguments = command(f"--out={out}", *flags, *of_one, program=program)
            started.append(subprocess.Popen(arguments, stdout=log, stderr=log, env=environment(own, **told)))
    try:
        codes = [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(code, out.with_name(f"{index}.log").read_text()) for index, code in enumerate(codes)]


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_beside_what_is_there(workdir, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert draw(f"--workdir={workdir}", f"--out={one}", *HOW)[0] == 0
    settings = json.loads((tmp_path / "one.npz.json").read_text())
    del settings["images_digest"]
    with np.load(f"{one}.npz") as arrays:
        images, labels = arrays["arr_0"], arrays["arr_1"]
    images[8] ^= 1  # the first one of the second process, which is there already, and so is not drawn
    with NpzPieces(f"{two}.npz", settings=settings, share=(1, 2)) as pieces:
        pieces.add(images[8:12], labels[8:12])
    flags = (f"--workdir={workdir}", *HOW, "--format=grid,npz,pngs", "--mesh=data:2")
    (code, said), (other_code, other_said) = run_two(two, *flags)
    assert (code, other_code) == (0, 0), said + other_said
    assert "18 images" in last_line(said) and "images" not in other_said
    assert not (tmp_path / "two.npz.pieces").exists()
    with np.load(f"{two}.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images)
        np.testing.assert_array_equal(arrays["arr_1"], labels)
    np.testing.assert_array_equal(np.concatenate(list(iterate_pngs(two, 4))), images)
    before = pathlib.Path(f"{two}.npz").stat().st_mtime_ns
    assert draw(*flags[:-1], f"--out={two}")[0] == 0  # which is the same request, and done
    assert pathlib.Path(f"{two}.npz").stat().st_mtime_ns == before


@pytest.mark.backend_free
@pytest.mark.slow
def test_two_processes_sweep_to_the_bit_as_one_does(workdir, tmp_path, monkeypatch):
    """Each of three measurements is of images that both draw, float64 features among them."""
    (tmp_path / "own_features.py").write_text(OWN_FEATURES)
    monkeypatch.syspath_prepend(tmp_path)
    write_npz(tmp_path / "real.npz", stripes(40)[0])
    images = (
        "--num_images=60",
        "--num_steps=2",
        "--batch_size=8",
        "--sweep",
        "--sweep_scales=1",
        "--sweep_ema=true,false",
    )
    measured = (f"--reference={tmp_path / 'real.npz'}", "--features=own_features:rows")
    flags = (f"--workdir={workdir}", *images, *measured)
    assert evaluate(tmp_path, *flags, f"--out={tmp_path / 'one'}") == 0
    flags = (*flags, f"--cache={tmp_path / 'none'}", "--mesh=data:2")
    (code, said), (other_code, other_said) = run_two(tmp_path / "two", *flags, program="evaluate", own=str(tmp_path))
    assert (code, other_code) == (0, 0), said + other_said
    assert "measured anew with seed 1" in said and "images 24/24" in said
    assert "measured" not in other_said and "images" not in other_said
    for kind in ("json", "jsonl"):
        assert (tmp_path / f"two.{kind}").read_bytes() == (tmp_path / f"one.{kind}").read_bytes()
    assert not {"two.jsonl.lock", "evaluation"} & {path.name for path in tmp_path.iterdir()}


@only_on_jax
@pytest.mark.slow
def test_two_devices_draw_and_measure_what_one_does(workdir, tmp_path, monkeypatch):
    (tmp_path / "own_features.py").write_text(OWN_FEATURES)
    monkeypatch.syspath_prepend(tmp_path)
    write_npz(tmp_path / "real.npz", stripes(40)[0])
    of_run = (f"--workdir={workdir}", "--num_images=23", "--num_steps=2", "--batch_size=5")
    measured = (f"--reference={tmp_path / 'real.npz'}", "--features=own_features:rows")
    drawing = {name: (*of_run, f"--out={tmp_path / name}", "--format=npz") for name in ("one", "two")}
    measuring = {name: (*of_run, *measured, f"--out={tmp_path / name}") for name in ("one", "two")}
    assert draw(*drawing["one"])[0] == 0 and evaluate(tmp_path, *measuring["one"]) == 0
    devices = environment(XLA_FLAGS="--xla_force_host_platform_device_count=2", own=str(tmp_path))
    arguments = [sys.executable, "-c", ON_TWO_DEVICES, tmp_path, *(" ".join(f["two"]) for f in (drawing, measuring))]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=300, env=devices)
    assert result.returncode == 0, result.stderr
    one, two = (np.array(images_of(tmp_path / f"{name}.npz")) for name in ("one", "two"))
    assert one.shape == (23, 4, 4, 1) and np.abs(one - two).max() <= 1
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["measured"] == two["measured"]
    np.testing.assert_allclose(two["metrics"]["frechet"], one["metrics"]["frechet"], rtol=1e-2)


@pytest.fixture
def of_two(monkeypatch):
    """This is the second of two processes."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "index", lambda: 1)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (("--num_images=18", "--format=grid"), "2 processes put their images into an .npz: add npz to --format"),
        (("--num_images=1",), "2 processes share 1 images out: start at most 1"),
        (("--mesh=data:3",), "give data:2, got data:3" if BACKEND == "jax" else "one of 3 processes, and there are 2"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(workdir, tmp_path, of_two, flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        draw(f"--workdir={workdir}", f"--out={tmp_path / 'a'}", *flags)
    assert not list(tmp_path.iterdir())


def test_what_several_processes_cannot_measure_is_refused(tmp_path, of_two):
    write_npz(tmp_path / "real.npz", stripes(40)[0])
    files = (f"--samples={tmp_path / 'real.npz'}", f"--reference={tmp_path / 'real.npz'}", f"--out={tmp_path / 'a'}")
    with pytest.raises(ValueError, match="--samples are measured by one process, and there are 2: start one"):
        evaluate(tmp_path, *files)
    with pytest.raises(ValueError, match="2 processes share 1 images out: start at most 1"):
        processes.check_enough(1)


@pytest.mark.parametrize(
    "given, sentence",
    [("data:4", "and there are 1"), ("data:2,fsdp:2", "and there are 1" if BACKEND == "jax" else "needs the jax")],
)
def test_a_mesh_that_one_process_does_not_have_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        mesh.drawing(mesh.Mesh.parse(given)).__enter__()


def test_processes_that_are_asked_for_different_images_all_end(tmp_path, of_two, monkeypatch):
    monkeypatch.setattr(processes, "summed", lambda value: value)
    monkeypatch.setattr(processes, "from_first", lambda value: 0)
    with pytest.raises(ValueError, match="Process 1 was asked for other images than process 0"):
        sample_files.open_npz(tmp_path / "a.npz", {"seed": 1})
    monkeypatch.setattr(processes, "from_first", lambda value: value)
    with pytest.raises(ValueError, match="Process 1 has no .*0_of_2: --out must be on a disk that all share"):
        sample_files.open_npz(tmp_path / "a.npz", {"seed": 1})


def test_shares_are_of_whole_batches_where_all_have_one(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    for count, size, expected in ((18, 4, [(0, 4), (4, 8), (8, 18)]), (11, 4, [(0, 3), (3, 7), (7, 11)])):
        found = []
        for index in range(3):
            monkeypatch.setattr(processes, "index", lambda index=index: index)
            found.append(processes.share(count, size))
        assert found == expected
