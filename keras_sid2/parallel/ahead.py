"""Compiles a model's train step ahead of time, on jax alone: variables are shapes, and devices may not be here.

XLA's compiler for TPU is a file of libtpu and runs anywhere (`pip install libtpu`), that for GPU where there is a GPU.
Call `devices` before jax is used for anything else.
"""

import contextlib
import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Sequence

from keras_sid2 import backend
from keras_sid2.backend.platform import jax
from keras_sid2.conditions import in_data
from keras_sid2.parallel.mesh import Mesh, distributed

_NO_TPU_HERE = {  # libtpu must not look for one, ask what it is, or lock it
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def devices(platform: str, topology: str, count: int) -> list:
    """Those to compile for: "cpu" (`count` virtual ones) or "gpu" of here, or of a TPU `topology` such as "v5p:2x2x1".
    Raises ValueError on another backend than jax and where there are fewer than `count`, ImportError without libtpu."""
    if backend.name() != "jax":
        told = f"Compiling ahead of time needs the jax backend, got {backend.name()}"
        raise ValueError(f"{told}: set KERAS_BACKEND=jax, and no other --backend.")
    if platform != "gpu":
        jax.config.update("jax_platforms", "cpu")
    if platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise ImportError("Compiling for TPU needs XLA's compiler for it: pip install libtpu.")
        from jax.experimental import topologies

        os.environ.update({name: os.environ.get(name, value) for name, value in _NO_TPU_HERE.items()})
        found = list(topologies.get_topology_desc(topology_name=topology, platform="tpu").devices)
    else:
        jax.config.update("jax_num_cpu_devices", count)
        try:
            found = jax.devices(platform)
        except RuntimeError:  # there is none
            found = []
    if len(found) < count:
        raise ValueError(f"Compiling for {platform} needs {count} of them, and there are {len(found)}.")
    return found


@contextlib.contextmanager
def shapes_alone(sharding) -> Iterator[None]:
    """Variables that are made within it hold a shape, a dtype and a sharding, `sharding` without a layout; no numbers.
    It replaces two methods of keras's variable (3.15) on jax."""
    from keras.src.backend.jax.core import JaxVariable

    def hold(variable, shape, dtype):
        variable._shape = tuple(shape)
        variable._initialize_layout()
        where = sharding if variable._layout is None else variable._layout.backend_layout
        variable._value = jax.ShapeDtypeStruct(variable._shape, dtype, sharding=where)

    with backend.replaced(
        JaxVariable,
        _initialize_with_initializer=lambda self, initializer: hold(self, self._shape, self._dtype),
        _initialize=lambda self, value: hold(self, value.shape, self._dtype),
    ):
        yield


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Where a program's batch lies, and for which platform it is compiled."""

    platform: str
    rows: object  # a sharding

    def array(self, shape: tuple[int, ...], dtype: str):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.rows)

    def batch(self, model, size: int) -> dict:
        """Of uint8 samples with the model's conditions, as data sets give it."""
        given = {name: self.array((size, *c.shape), c.dtype) for name, c in in_data(model.conditions).items()}
        kind = "image" if len(model.sample_shape) == 3 else "video"
        return {kind: self.array((size, *model.sample_shape), "uint8"), **given}


@contextlib.contextmanager
def shapes_on(mesh: Mesh, devices: Sequence, platform: str) -> Iterator[Shapes]:
    """Models that are made within it are shapes on `mesh`, over the first of `devices`."""
    whole = jax.sharding.SingleDeviceSharding(devices[0])
    with distributed(mesh, devices=devices[: mesh.size]) as distribution, shapes_alone(whole):
        yield Shapes(platform, whole if distribution is None else distribution.get_data_layout(None).backend_layout)


def lowered_train_step(model, shapes: Shapes, batch_size: int):
    """The step that `fit` would compile for a compiled model whose variables are shapes, before XLA optimises it."""
    model._make_function = lambda step, **_: step  # keras wraps the jitted step into a loop over batches here
    model.make_train_function()
    state = model._get_jax_state(True, True, True, True)
    traced = model.train_function.trace(state, shapes.batch(model, batch_size))
    return traced.lower(lowering_platforms=({"gpu": "cuda"}.get(shapes.platform, shapes.platform),))


def compiled_train_step(model, shapes: Shapes, batch_size: int, options: dict | None = None):
    """The same, compiled."""
    return lowered_train_step(model, shapes, batch_size).compile(options)
