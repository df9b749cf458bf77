"""A mesh as text and back, and what a backend or a number of devices cannot be."""

import keras
import pytest
from helpers import BACKEND
from hypothesis import given
from hypothesis import strategies as st
from training_helpers import tiny_model

from keras_sid2.parallel.mesh import Replicas, check_batch_size, check_model, current, distribute, distributed
from keras_sid2.parallel.rules import Mesh

sizes = st.integers(1, 10_000)


@pytest.mark.backend_free
@given(sizes, sizes, sizes)
def test_text_and_back(data, fsdp, model):
    mesh = Mesh(data, fsdp, model)
    assert Mesh.parse(str(mesh)) == mesh
    assert (mesh.size, mesh.batch_shards) == (data * fsdp * model, data * fsdp)


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "text, mesh",
    {"data:4,fsdp:2,model:1": Mesh(4, 2, 1), "fsdp:8": Mesh(1, 8, 1), " model:2 , data: 3": Mesh(3, 1, 2)}.items(),
)
def test_axes_in_any_order_and_one_where_not_named(text, mesh):
    assert Mesh.parse(text) == mesh


@pytest.mark.backend_free
@pytest.mark.parametrize(
    "text, message",
    {
        "": r"axes data, fsdp, model, as in data:4,fsdp:2,model:1; got ''\.",
        "batch:4": "axes data, fsdp, model.* got 'batch:4'",
        "data:4,": "axes data, fsdp, model.* got 'data:4,'",
        "data:4,data:2": "names each axis once, got data twice in 'data:4,data:2'",
        "data": "data axis must be an integer >= 1, got '' in 'data'",
        "data:-1": "data axis must be an integer >= 1, got '-1'",
        "fsdp:2.5": "fsdp axis must be an integer >= 1, got '2.5'",
        "model:0": "model axis must be an integer >= 1, got 0",
    }.items(),
)
def test_text_that_is_no_mesh(text, message):
    with pytest.raises(ValueError, match=message):
        Mesh.parse(text)


@pytest.mark.backend_free
@pytest.mark.parametrize("size", [0, -2, 1.0, "2", True, None])
def test_sizes_are_integers_from_one(size):
    with pytest.raises(ValueError, match="A mesh's fsdp axis must be an integer >= 1, got"):
        Mesh(fsdp=size)


def test_a_mesh_of_several_devices_is_refused_where_it_cannot_be():
    message = {
        "jax": r"The mesh data:1,fsdp:7,model:1 is one of 7 devices, and there are \d+\.",
        "tensorflow": "The mesh data:1,fsdp:7,model:1 needs the jax backend, got tensorflow, which can do meshes .*",
        "torch": "The mesh data:1,fsdp:7,model:1 needs the jax backend, got torch, which can do meshes along data .*",
    }[BACKEND]
    with pytest.raises(ValueError, match=f"^{message}$"), distributed(Mesh(fsdp=7)):
        raise AssertionError("accepted")
    with pytest.raises(ValueError, match=r"The mesh data:7,.* is one of 7 devices, and there are \d+"):
        distribute(Mesh(data=7))
    assert keras.distribution.distribution() is None


@pytest.mark.skipif(BACKEND != "torch", reason="keras's optimizers on tensorflow add up gradients of copies themselves")
def test_an_optimizer_that_would_let_processes_drift_apart_is_refused(monkeypatch):
    model = tiny_model(compiled=False)
    monkeypatch.setattr("keras_sid2.parallel.replicas.present", Replicas(Mesh(data=2), 2))
    with pytest.raises(ValueError, match="are averaged by EmaAdam, got Adam: compile"):
        model.compile(keras.optimizers.Adam())


def test_a_mesh_of_one_device_changes_nothing():
    assert distribute(Mesh()) is None
    assert current() is None and keras.distribution.distribution() is None


def test_without_a_mesh_nothing_is_checked():
    assert check_model(object()) is None
    check_batch_size(7)
    check_batch_size(7, 2)
