"""Compiles train steps without allocating anything: variables are shapes, devices may be of a machine that is not here.

XLA's compiler for TPU is a file of libtpu and runs anywhere, so `--platform=tpu` needs `pip install libtpu` and no TPU.
Call `prepare` before jax or keras is imported.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence

UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def prepare(platform: str, devices: int = 1):
    """Sets the environment of this process; "cpu" gets so many virtual devices."""
    os.environ.update(KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    if platform == "cpu":
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={devices}".strip()
        return
    # There is no TPU: libtpu must not look for one, ask what it is, or lock it.
    settings = {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    os.environ.update({name: os.environ.get(name, value) for name, value in settings.items()})


def devices(platform: str, topology: str) -> list:
    """The devices of a TPU topology such as "v5p:2x2x1", or this process's virtual ones."""
    import jax

    if platform == "cpu":
        return jax.devices()
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(topology_name=topology, platform="tpu").devices)


@contextlib.contextmanager
def abstract_variables(sharding) -> Iterator[None]:
    """Variables of keras that are made within it hold a shape, a dtype and a sharding in place of numbers.

    `sharding` is that of a variable without a layout. It replaces two methods of keras's variable (3.15) on jax.
    """
    import jax
    from keras.src.backend.jax.core import JaxVariable

    def hold(variable, shape, dtype):
        variable._shape = tuple(shape)
        variable._initialize_layout()
        layout = variable._layout
        where = sharding if layout is None else layout.backend_layout
        variable._value = jax.ShapeDtypeStruct(variable._shape, dtype, sharding=where)

    kept = {name: getattr(JaxVariable, name) for name in ("_initialize_with_initializer", "_initialize")}
    JaxVariable._initialize_with_initializer = lambda self, initializer: hold(self, self._shape, self._dtype)
    JaxVariable._initialize = lambda self, value: hold(self, value.shape, self._dtype)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(JaxVariable, name, method)


@contextlib.contextmanager
def on_mesh(mesh, devices: Sequence) -> Iterator:
    """The library's `distributed(mesh)` over some of the devices that there are, or over none of this machine."""
    from keras_sid2.parallel import mesh as meshes

    kept, meshes._devices = meshes._devices, lambda: list(devices[: mesh.size])
    try:
        with meshes.distributed(mesh) as found:
            yield found
    finally:
        meshes._devices = kept


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Where a program's batch lies, and for which platform it is compiled."""

    platform: str
    rows: object  # a sharding

    def array(self, shape: tuple[int, ...], dtype: str):
        import jax

        return jax.ShapeDtypeStruct(shape, dtype, sharding=self.rows)

    def batch(self, model, size: int) -> tuple:
        """(uint8 images [size, H, W, C], int32 labels [size]), the latter only for a model with classes."""
        images = self.array((size, *model.image_shape), "uint8")
        return (images,) if model.num_classes is None else (images, self.array((size,), "int32"))


def compiled_train_step(model, shapes: Shapes, batch_size: int, options: dict | None = None):
    """The step that `fit` would compile for a compiled model whose variables are shapes."""
    model._make_function = lambda step, **_: step  # keras wraps the jitted step into a loop over batches here
    model.make_train_function()
    state = model._get_jax_state(True, True, True, True)
    traced = model.train_function.trace(state, shapes.batch(model, batch_size))
    return traced.lower(lowering_platforms=(shapes.platform,)).compile(options)


def compiled_forward(network, shapes: Shapes, batch_size: int, options: dict | None = None):
    """One evaluation of the network, as in sampling."""
    import jax

    def forward(weights, others, z_t, logsnr, label):
        return network.stateless_call(weights, others, (z_t, logsnr, label), training=False)[0]

    label = None if network.num_classes is None else shapes.array((batch_size,), "int32")
    inputs = shapes.array((batch_size, *network.image_shape), "float32"), shapes.array((batch_size,), "float32"), label
    values = ([v.value for v in group] for group in (network.trainable_variables, network.non_trainable_variables))
    traced = jax.jit(forward).trace(*values, *inputs)
    return traced.lower(lowering_platforms=(shapes.platform,)).compile(options)
