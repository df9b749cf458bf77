"""Training and sampling on a mesh of devices: data parallel, fully sharded, tensor parallel, and their products.

    distribute(Mesh.parse("data:4,fsdp:2"))      # then make the model, compile, fit, generate as on one device

Rows of a batch are split over the axes data and fsdp together; variables, with all that the optimizer keeps of them,
by the rules of sharding_rules.py. XLA adds the communication. All noise is a function of (seed, step, example), so a
mesh changes results by rounding only. Only jax can do this: on the other backends keras.distribution does nothing
without saying so, so a mesh is refused there.
"""

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import keras

from keras_sid2 import backend
from keras_sid2.sharding_rules import AXES, RULES, Mesh, Rule, Table, place, table

# What runs from block to block. Kept whole but for its rows, it needs one all-reduce a pair of layers on the model
# axis; left alone, XLA splits its channels here and there, and every block begins with an all-gather.
_STREAM = re.compile(
    r"(?:.*/)?(?:(?:un)?patchify|level\d+_(?:position|(?:down|up)sample|(?:down|middle|up)_block\d+))/output"
)


class _RowsLayout(keras.distribution.TensorLayout):
    """First dimension over data and fsdp together, which keras's own layout, of one axis a dimension, cannot say."""

    def __init__(self, device_mesh):
        super().__init__(("data",), device_mesh)

    @property
    def backend_layout(self):
        import jax

        return jax.sharding.NamedSharding(self.device_mesh.backend_mesh, jax.sharding.PartitionSpec(("data", "fsdp")))


class MeshDistribution(keras.distribution.ModelParallel):
    """keras's distribution for a `Mesh` over all devices; variables made while it is set are laid out by `rules`.

    With several processes each feeds the rows of its own devices: the first ones of a global batch are process 0's.
    """

    def __init__(self, mesh: Mesh, rules: Sequence[Rule] = RULES):
        self.mesh, self.rules = mesh, tuple(rules)
        device_mesh = keras.distribution.DeviceMesh(mesh.shape, AXES, _devices())
        super().__init__(
            layout_map=keras.distribution.LayoutMap(device_mesh), batch_dim_name="data", auto_shard_dataset=False
        )

    @property
    def num_model_replicas(self) -> int:
        """Parts of a batch."""
        return self.mesh.batch_shards

    def get_data_layout(self, data_shape):
        return _RowsLayout(self.device_mesh)

    def get_variable_layout(self, variable):
        if getattr(variable, "_layout", None) is not None:  # what the optimizer keeps of a weight lies as the weight
            return variable._layout
        return keras.distribution.TensorLayout(place(variable, self.mesh, self.rules).axes, self.device_mesh)

    def get_tensor_layout(self, path):
        return _RowsLayout(self.device_mesh) if _STREAM.fullmatch(path) else None


def _devices() -> list:
    """All devices, process by process, so that on the leading axes each process has rows of its own."""
    import jax

    return sorted(jax.devices(), key=lambda device: device.process_index)


def _check_mesh(mesh: Mesh):
    """ValueError unless this backend and these devices can be `mesh`; one device can on every backend."""
    if mesh.size == 1:
        return
    if backend.name() != "jax":
        raise ValueError(
            f"The mesh {mesh} needs the jax backend, got {backend.name()}, which this library trains on one device: "
            "set KERAS_BACKEND=jax, or leave the mesh out."
        )
    devices = _devices()
    if mesh.size != len(devices):
        raise ValueError(f"The mesh {mesh} is one of {mesh.size} devices, and there are {len(devices)}.")
    processes = devices[-1].process_index + 1
    if mesh.batch_shards % processes:
        raise ValueError(
            f"Each process feeds rows of its own, so the {processes} processes must divide data times fsdp, "
            f"got the mesh {mesh}."
        )


def distribute(mesh: Mesh, rules: Sequence[Rule] = RULES) -> MeshDistribution | None:
    """Makes `mesh` keras's distribution: all models made from now on are on it. A mesh of one device changes nothing.

    Raises ValueError on another backend than jax, and if the mesh is for another number of devices than there are.
    """
    _check_mesh(mesh)
    if mesh.size == 1:
        return None
    distribution = MeshDistribution(mesh, rules)
    keras.distribution.set_distribution(distribution)
    return distribution


@contextlib.contextmanager
def distributed(mesh: Mesh, rules: Sequence[Rule] = RULES) -> Iterator[MeshDistribution | None]:
    """`distribute` within a block; behind it the distribution is what it was before."""
    before = keras.distribution.distribution()
    try:
        yield distribute(mesh, rules)
    finally:
        keras.distribution.set_distribution(before)


def current() -> MeshDistribution | None:
    """The distribution that `distribute` has set, if one is."""
    distribution = keras.distribution.distribution()
    return distribution if isinstance(distribution, MeshDistribution) else None


def check_model(model) -> Table | None:
    """The table of `model` on the current mesh, None without one.

    ValueError if the mesh cannot hold the model (see `sharding_rules.table`), or does not: one that was made before
    `distribute` is on one device.
    """
    distribution = current()
    if distribution is None:
        return None
    for variable in model.trainable_variables:
        if len(variable.value.sharding.device_set) != distribution.mesh.size:
            raise ValueError(
                f"The model was made before distribute(), so {variable.path} is not on the mesh {distribution.mesh}: "
                "make or load the model after it."
            )
    return table(model, distribution.mesh, distribution.rules)


def check_batch_size(rows: int, batch_size: int | None = None):
    """ValueError unless the devices that share a batch divide `rows` examples, or every `batch_size` of them.

    Both are numbers of this process, whose devices are its part of the mesh.
    """
    distribution = current()
    if distribution is None:
        return
    shards = distribution.mesh.batch_shards // distribution.num_processes
    sizes = {rows} if batch_size is None else {min(batch_size, rows), rows % batch_size}
    wrong = [size for size in sizes if size % shards]
    if wrong:
        raise ValueError(
            f"On the mesh {distribution.mesh} every batch of a process must be divisible by {shards}, the last one "
            f"too, got one of {wrong[0]} examples."
        )


def bytes_on_devices(model) -> dict:
    """Bytes that the model's weights and its optimizer's state take on each device of this process, as they lie."""
    total = Counter()
    for variable in (*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables):
        for shard in variable.value.addressable_shards:
            total[shard.device] += shard.data.nbytes
    return dict(total)
