"""Training and sampling on a mesh of devices: data parallel, fully sharded, tensor parallel, and their products.

    distribute(Mesh.parse("data:4,fsdp:2"))      # then make the model, compile, fit, generate as on one device

Rows of a batch are split over the axes data and fsdp together; variables, with all that the optimizer keeps of them,
by the network's rules (rules.py). All noise is a function of (seed, step, example), so a mesh changes results by
rounding only.

jax can do every mesh: XLA adds the communication. tensorflow and torch can do meshes along data, with a replica of the
model on each device (replicas.py). With several processes `processes.start` comes first, and each feeds its own rows.
"""

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras

from keras_sid2 import backend
from keras_sid2.backend.platform import jax, tf
from keras_sid2.parallel import processes, replicas
from keras_sid2.parallel.replicas import Replicas
from keras_sid2.parallel.rules import AXES, Mesh, Rule, Table, place, table


class _RowsLayout(keras.distribution.TensorLayout):
    """First dimension over data and fsdp together, which keras's own layout, of one axis a dimension, cannot say."""

    def __init__(self, device_mesh):
        super().__init__(("data",), device_mesh)

    @property
    def backend_layout(self):
        return jax.sharding.NamedSharding(self.device_mesh.backend_mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


class MeshDistribution(keras.distribution.ModelParallel):
    """keras's distribution for a `Mesh`; variables made while it is set are laid out by `rules`, or by those of the
    network that is built. Each process feeds the rows of its own devices: the first ones are process 0's."""

    def __init__(self, mesh: Mesh, rules: Sequence[Rule] | None = None, devices: Sequence | None = None):
        self.mesh, self.rules = mesh, rules
        layouts = keras.distribution.LayoutMap(keras.distribution.DeviceMesh(mesh.shape, AXES, devices or _devices()))
        super().__init__(layout_map=layouts, batch_dim_name="data", auto_shard_dataset=False)

    @property
    def num_model_replicas(self) -> int:
        return self.mesh.batch_shards

    def get_data_layout(self, data_shape):
        return _RowsLayout(self.device_mesh)

    def get_variable_layout(self, variable):
        if getattr(variable, "_layout", None) is not None:  # what the optimizer keeps of a weight lies as the weight
            return variable._layout
        rules = _of_network("sharding_rules") if self.rules is None else self.rules
        return keras.distribution.TensorLayout(place(variable, self.mesh, rules).axes, self.device_mesh)

    def get_tensor_layout(self, path):
        streams = _of_network("streams")
        on_rows = streams and re.fullmatch(f"(?:.*/)?(?:{streams})/output", path)
        return _RowsLayout(self.device_mesh) if on_rows else None


def _of_network(attribute: str):
    """That of the outermost layer that is being built or called and has it; None without one."""
    scopes = keras.src.backend.common.global_state.get_global_attribute("name_scope_stack") or ()
    return next((getattr(s.caller, attribute) for s in scopes if hasattr(s.caller, attribute)), None)


def _devices() -> list:
    """All devices, process by process, so that on the leading axes each process has rows of its own."""
    return sorted(jax.devices(), key=lambda device: device.process_index)


def _local_devices() -> list:
    """tensorflow's GPUs, or where there are none its CPUs, which may be virtual."""
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def _device_count() -> int:
    if backend.name() == "torch":
        return processes.count()
    if processes.strategy:
        return processes.strategy.num_replicas_in_sync
    return len(_devices() if backend.name() == "jax" else _local_devices())


def _make(mesh: Mesh, rules: Sequence[Rule] | None, devices: Sequence | None = None):
    """The distribution of `mesh`, None for one device; ValueError where this backend and these devices cannot be it."""
    count = 1 if devices else processes.count()
    if mesh.size == 1 and count == 1:
        return None
    _check_backend(mesh)
    there = len(devices) if devices else _device_count()
    if mesh.size != there:
        where = f" in {count} processes" if count > 1 else ", one in each process" * (backend.name() == "torch")
        raise ValueError(f"The mesh {mesh} is one of {mesh.size} devices, and there are {there}{where}.")
    if mesh.batch_shards % count:
        raise ValueError(f"The {count} processes feed rows of their own and must divide data times fsdp, got {mesh}.")
    if backend.name() == "jax":
        return MeshDistribution(mesh, rules, devices)
    if backend.name() == "torch":
        return Replicas(mesh, count)
    strategy = processes.strategy or tf.distribute.MirroredStrategy([device.name for device in _local_devices()])
    return Replicas(mesh, count, strategy)


def _check_backend(mesh: Mesh):
    if backend.name() != "jax" and mesh.size > mesh.data:
        raise ValueError(
            f"The mesh {mesh} needs the jax backend, got {backend.name()}, which can do meshes along data alone: "
            "set KERAS_BACKEND=jax, or leave fsdp and model out."
        )


def _set(distribution: MeshDistribution | Replicas | None):
    replicas.present = distribution if isinstance(distribution, Replicas) else None
    if backend.name() == "jax":
        keras.distribution.set_distribution(distribution)


def distribute(mesh: Mesh, rules: Sequence[Rule] | None = None) -> MeshDistribution | Replicas | None:
    """Makes `mesh` the one that all models made from now on are on. A mesh of one device changes nothing. Raises
    ValueError for a mesh that the backend cannot do, and if it is for another number of devices than there are."""
    distribution = _make(mesh, rules)
    if distribution is not None:
        _set(distribution)
        if backend.name() == "tensorflow":
            tf.distribute.experimental_set_strategy(distribution.strategy)
    return distribution


@contextlib.contextmanager
def distributed(
    mesh: Mesh, rules: Sequence[Rule] | None = None, devices: Sequence | None = None
) -> Iterator[MeshDistribution | Replicas | None]:
    """`distribute` within a block, on jax also over `devices` alone; then the distribution is what it was before."""
    distribution = _make(mesh, rules, devices)
    if distribution is None:
        yield None
        return
    before, strategy = current(), getattr(distribution, "strategy", None)
    _set(distribution)
    try:
        with strategy.scope() if strategy else contextlib.nullcontext():
            yield distribution
    finally:
        _set(before)


@contextlib.contextmanager
def on_no_mesh() -> Iterator[None]:
    """Within it variables are made on a device of this process, which alone works with them (jax)."""
    before = keras.distribution.distribution() if backend.name() == "jax" else None
    if before is None:
        yield
        return
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def drawing(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Within it this process draws its images on its devices of `mesh`, which has those of all processes: on jax one
    batch is spread over them, elsewhere there is one; None is one everywhere. ValueError for what there is not."""
    count = processes.count()
    if mesh is None:
        return contextlib.nullcontext()
    if backend.name() == "jax" and count == 1:
        return distributed(mesh)
    _check_backend(mesh)
    if backend.name() != "jax":
        if mesh.size != count:
            each = f"On {backend.name()} each process draws on one device"
            raise ValueError(f"{each}: the mesh {mesh} is one of {mesh.size} processes, and there are {count}.")
        return contextlib.nullcontext()
    there = jax.local_devices()
    if mesh.size != len(there) * count or mesh.data % count:
        of = f"{count} processes, with {len(there)} devices each"
        raise ValueError(f"A mesh to draw on shares data out among {of}: give data:{len(there) * count}, got {mesh}.")
    return distributed(dataclasses.replace(mesh, data=mesh.data // count), devices=there)


def current() -> MeshDistribution | Replicas | None:
    """What `distribute` has set, if it has."""
    distribution = keras.distribution.distribution()
    return distribution if isinstance(distribution, MeshDistribution) else replicas.present


def check_model(model) -> Table | None:
    """The table of a compiled `model` on the current mesh, None without one. ValueError if the mesh cannot hold the
    model (see `rules.table`), it was made before `distribute`, or a weight was made outside of its network's build(),
    where the rules did not reach it."""
    distribution = current()
    if distribution is None:
        return None
    for variable in model.trainable_variables:
        if not _is_on(variable, distribution):
            raise ValueError(
                f"The model was made before distribute(), so {variable.path} is not on the mesh {distribution.mesh}: "
                "make or load the model after it."
            )
    if isinstance(distribution, Replicas):
        replicas.broadcast(model.variables)
        return table(model, distribution.mesh)
    found = table(model, distribution.mesh, distribution.rules)
    intended = {row.path: row.axes for row in found.rows}
    for variable in model.network.trainable_variables:
        if tuple(variable._layout.axes) != intended[variable.path]:
            raise ValueError(
                f"{variable.path} does not lie on the mesh as the sharding rules of its network say, because it was "
                "made outside of the network's build() and call(): make it there, or give distribute(mesh, rules=...)."
            )
    return found


def _is_on(variable, distribution: MeshDistribution | Replicas) -> bool:
    if backend.name() == "jax":
        return len(variable.value.sharding.device_set) == distribution.mesh.size
    if backend.name() == "tensorflow":
        return isinstance(variable.value, tf.distribute.DistributedValues)
    return True


def spread(data, rows: int):
    """Data for fit and evaluate as the mesh wants it; `rows` are those of a batch of this process. Several processes of
    tensorflow would share out again what each has read; ValueError for data of which that cannot be prevented."""
    distribution = replicas.present
    if distribution is None or distribution.num_processes == 1 or distribution.strategy is None:
        return data
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(
            "With several processes of tensorflow data must be a tf.data.Dataset of this process's part of every "
            f"batch, got {type(data).__name__}."
        )
    local = distribution.mesh.data // distribution.num_processes
    parts = data if local == 1 else data.rebatch(rows // local)
    return distribution.strategy.distribute_datasets_from_function(lambda _: parts)


def check_batch_size(rows: int, batch_size: int | None = None):
    """ValueError unless this process's devices divide its `rows` examples, or every `batch_size` of them."""
    distribution = current()
    if distribution is None:
        return
    shards = distribution.mesh.batch_shards // distribution.num_processes
    for size in {rows} if batch_size is None else {min(batch_size, rows), rows % batch_size}:
        if size % shards:
            raise ValueError(
                f"On the mesh {distribution.mesh} every batch of a process must be divisible by {shards}, the last one "
                f"too, got one of {size} examples."
            )


def bytes_on_devices(model) -> dict:
    """Bytes that the model's weights and its optimizer's state take on each device of this process, as they lie."""
    total = Counter()
    for variable in (*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables):
        for shard in variable.value.addressable_shards:
            total[shard.device] += shard.data.nbytes
    return dict(total)
