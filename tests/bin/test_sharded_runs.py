"""sid2-train --checkpoints=sharded (jax): a run that loses a checkpoint, and goes on with portable ones."""

import pytest
from helpers import BACKEND, only_on_jax
from run_helpers import run_in

from keras_sid2.checkpoints import ARRAYS, MODEL, checkpoints

EACH = {"log_every": 1, "checkpoint_every": 1}  # a checkpoint a step
pytestmark = pytest.mark.usefixtures("tiny_digits")


@only_on_jax
@pytest.mark.slow
def test_a_damaged_sharded_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(data, tmp_path):
    first = run_in(data, tmp_path / "run", **EACH, steps=3, checkpoints="sharded")
    first.train()
    newest = checkpoints(first.checkpoint_dir)[-1]
    file = max((newest / ARRAYS).rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again = run_in(data, tmp_path / "run", **EACH, steps=4)
    again.train()
    log = again.console.export_text()
    assert f"step_0000000003 is not sound: {file.relative_to(newest).as_posix()} has another SHA-256" in log
    assert "steps 2 to 4" in log
    assert [(path / MODEL).exists() for path in checkpoints(again.checkpoint_dir)] == [False, True, True]


@pytest.mark.skipif(BACKEND == "jax", reason="what the others say")
def test_other_backends_refuse_it_before_anything_is_written(data, tmp_path):
    with pytest.raises(ValueError, match=f"Sharded checkpoints need the jax backend, got {BACKEND}"):
        run_in(data, tmp_path / "run", **EACH, steps=4, checkpoints="sharded")
    assert not list(tmp_path.iterdir())
