"""Two processes save sharded checkpoints together, and others load them on other devices, to the bit (jax)."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import free_ports, only_on_jax

from keras_sid2.checkpoints import MANIFEST, checkpoint_step, checkpoints, fault

HERE = pathlib.Path(__file__).parent

pytestmark = [only_on_jax, pytest.mark.slow]


def start(*arguments) -> subprocess.Popen:
    """sharded_program.py on four virtual devices."""
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
    }
    return subprocess.Popen([sys.executable, HERE / "sharded_program.py", *map(str, arguments)], env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """What two processes saved over eight devices, and what one process made of it on four and on one."""
    folder, port = tmp_path_factory.mktemp("sharded"), free_ports(1)
    started = [start("save", folder, index, 2, port) for index in range(2)]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
        started.append(start("load", folder))
        assert started[-1].wait(timeout=300) == 0
    finally:
        for process in started:
            process.kill()
    return folder


def values(folder, case: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in np.load(folder / f"{case}.npz").items() if name != "bytes"}


@pytest.mark.parametrize("case", ["saved_1", "loaded_0", "loaded_1", "split_0", "one_0"])
def test_weights_averages_optimizer_and_counters_are_equal_to_the_bit(folder, case):
    saved, found = values(folder, "saved_0"), values(folder, case)
    assert len(saved) > 100 and found.keys() == saved.keys()
    for name, array in saved.items():
        assert array.dtype == found[name].dtype and array.tobytes() == found[name].tobytes(), name


def test_what_is_loaded_is_spread_over_the_devices_there_are(folder):
    held = {case: np.load(folder / f"{case}.npz")["bytes"] for case in ("saved_0", "loaded_1", "split_0", "one_0")}
    assert [len(held[case]) for case in held] == [4, 4, 4, 1]
    np.testing.assert_array_equal(held["loaded_1"], held["saved_0"])
    assert held["saved_0"].max() < held["one_0"][0] / 7 and held["split_0"].max() < held["one_0"][0] / 3.5


def test_both_wrote_their_part_and_every_checkpoint_is_sound(folder):
    found = checkpoints(folder / "run")
    assert [checkpoint_step(path) for path in found] == [4, 6, 7] and len(list((folder / "run").iterdir())) == 3
    for path in found:
        assert fault(path) is None
        files = json.loads((path / MANIFEST).read_text())["files"]
        written = [
            sum(file["bytes"] for name, file in files.items() if name.startswith(f"arrays/ocdbt.process_{index}/d/"))
            for index in range(2)
        ]
        assert min(written) > max(written) / 3


def test_what_one_process_cannot_write_all_of_them_do_without(folder):
    first, second = (json.loads((folder / f"said_{index}.json").read_text())["notes"] for index in range(2))
    assert len(first) == 1 and "checkpoint of step 2 could not be written (process 1 could not write" in first[0]
    assert len(second) == 1 and "checkpoint of step 2 could not be written (" in second[0]


def test_portable_ones_are_refused_where_no_process_has_all(folder):
    for index in range(2):
        said = json.loads((folder / f"said_{index}.json").read_text())["portable"]
        assert "residual_uvit" in said.split()[0] and "is split over devices of 2 processes" in said
        assert said.endswith("save sharded ones (--checkpoints=sharded).")
    assert not (folder / "portable").exists()
