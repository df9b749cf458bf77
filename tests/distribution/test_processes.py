"""Several processes on this machine train as one process does, on every backend."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from helpers import BACKEND, free_ports

HERE = pathlib.Path(__file__).parent

pytestmark = pytest.mark.slow


def run(out: pathlib.Path, mesh: str, count: int, devices: int = 1) -> list[dict]:
    """What processes_program.py writes in each of `count` processes with so many virtual devices each."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "VIRTUAL_DEVICES": str(devices),
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
        "OMP_NUM_THREADS": "1",  # torch's threads spin where there are more of them than cores
    }
    port = free_ports(count)
    numbers = [[str(index), str(count), str(port)] for index in range(count)]
    commands = [[sys.executable, HERE / "processes_program.py", out, mesh, *given] for given in numbers]
    started = [subprocess.Popen(command, env=environment) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * count
    finally:
        for process in started:
            process.kill()
    return [dict(np.load(out / f"{BACKEND}_{count}_{index}.npz")) for index in range(count)]


def check_same(found: dict, one: dict):
    for part in ("losses", "weights", "averages", "optimizer", "loaded", "evaluation"):
        np.testing.assert_allclose(found[part], one[part], rtol=1e-4, atol=1e-5, err_msg=part)
    np.testing.assert_allclose(found["images"].astype(int), one["images"], atol=1)
    np.testing.assert_allclose(found["student"], one["student"], rtol=1e-2)  # by a central difference
    assert "halves each batch" in str(found["odd"])


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> dict:
    one = run(tmp_path_factory.mktemp("one"), "data:1", 1)[0]
    assert one["losses"][-5:].mean() < 0.9 * one["losses"][:5].mean()
    return one


def test_two_processes_train_as_one(one, tmp_path):
    both = run(tmp_path, "data:2", 2)
    for found in both:
        check_same(found, one)
        assert found["refused"] in ("FileExistsError", "NotADirectoryError", "OSError")
        assert list(found["agreed"]) == [3, 7]  # the sum of 1 and 2, and the first one's 7
        assert list(found["sent"]) == [1, 255]  # the last one's bytes
    np.testing.assert_array_equal(both[0]["weights"], both[1]["weights"])


@pytest.mark.skipif(BACKEND == "torch", reason="torch has one device in a process")
def test_several_devices_in_a_process(one, tmp_path):
    """On jax four processes of two devices each; on tensorflow two devices of one process, a MirroredStrategy."""
    count, mesh = (4, "data:8") if BACKEND == "jax" else (1, "data:2")
    for found in run(tmp_path, mesh, count, devices=2):
        check_same(found, one)
