"""Images do not depend on the number of devices that draw them (jax, on virtual ones)."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import only_on_jax
from training_helpers import fit_steps, tiny_model

PROGRAM = """
import sys
import keras, numpy as np
from keras_sid2 import SampleRequest, Guidance

file, out, devices = sys.argv[1], sys.argv[2], int(sys.argv[3])
if devices > 1:
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=keras.distribution.list_devices()))
model = keras.saving.load_model(file)
drawn = {}
for count in (1, 7, 64):
    for sampler in ("ddpm", "dpmpp_2m"):
        request = SampleRequest(model, np.arange(count) % 3, num_steps=6, sampler=sampler, 
                          guidance=Guidance(1.5, (-3, 5)), dtype="float32")
        (in_it, batch), = request._parts()
        used = len(request._begin(request, batch, in_it).state[0].sharding.device_set)
        assert used == devices, used
        drawn[f"{sampler}_{count}"] = request.images()
np.savez(out, **drawn)
"""


@only_on_jax
@pytest.mark.slow
def test_one_device_and_eight_draw_the_same_images(tmp_path):
    model = tiny_model()
    fit_steps(model, epochs=3)
    model.save(tmp_path / "model.keras")
    drawn = []
    for devices in (1, 8):
        flags = f"--xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-c", PROGRAM, tmp_path / "model.keras", tmp_path / f"{devices}.npz", str(devices)]
        subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, check=True, timeout=300)
        with np.load(tmp_path / f"{devices}.npz", allow_pickle=False) as arrays:
            drawn.append(dict(arrays))
    assert {name: images.shape[0] for name, images in drawn[0].items()} == {
        f"{sampler}_{count}": count for count in (1, 7, 64) for sampler in ("ddpm", "dpmpp_2m")
    }
    for name, images in drawn[0].items():
        np.testing.assert_allclose(drawn[1][name], images, atol=1e-5)
