"""The processes of one run: how they find one another, agree, and learn that one of them is gone.

`start` comes before anything else of the backend. jax: its arguments, or what jax finds by itself on TPU VMs, Slurm,
Kubernetes and Open MPI. torch: what torchrun sets, or the arguments. tensorflow: TF_CONFIG, with the addresses of all
workers. Without any of these there is one process.
"""

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta

import numpy as np

from keras_sid2 import backend
from keras_sid2.backend.platform import jax, tf, torch

HEARTBEAT_SECONDS = 30  # without a sign of life, after which a process counts as lost (jax)
TORCH_SECONDS = 3600  # that a process waits for the others, who wait while the first one saves
_AT_ONCE = 2**20  # numbers that `bytes_from` sends at a time, always as many: each shape is compiled once
_LOST = re.compile(
    r"closed by peer|reset by peer|Connection refused|Socket closed|heartbeat|task .* (?:died|disappeared)"
    r"|coordination service|CoordinationService|Collective ops is aborted|Broken pipe|preempted|Timed out waiting"
    r"|failed to connect to all addresses|UnavailableError|DEADLINE_EXCEEDED|Gloo",
    re.IGNORECASE,
)
strategy = None  # tensorflow's for several processes, which `start` makes, for it must come before anything else


def start(*, coordinator: str | None = None, count: int | None = None, index: int | None = None):
    """Makes this process number `index` of `count`, or one of those that the environment names; waits for the others.

    `coordinator` is "host:port" of process 0, reachable by all. Raises ValueError where the three do not go together,
    on tensorflow, which wants TF_CONFIG instead, and where the backend is in use already; ConnectionError if the others
    do not come.
    """
    given = {"coordinator": coordinator, "process_count": count, "process_id": index}
    named = [name for name, value in given.items() if value is not None]
    if named and len(named) < 3:
        told = " and ".join(named)
        raise ValueError(f"--coordinator, --process_count and --process_id go together, got {told} alone.")
    if named and not re.fullmatch(r"\S+:\d+", coordinator):
        raise ValueError(f"coordinator must be host:port, got {coordinator!r}.")
    if named and not 0 <= index < count:
        raise ValueError(f"process_id must be in [0, process_count), got {index} of {count}.")
    begin = {"jax": _start_jax, "tensorflow": _start_tensorflow, "torch": _start_torch}[backend.name()]
    try:
        begin(coordinator, count, index)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        if "must be called before" in reason or "program startup" in reason:
            raise ValueError(f"start() must come before anything else of {backend.name()}, which is in use.") from error
        raise ConnectionError(f"The processes of the run did not come together: {reason}") from error


def _start_jax(coordinator, count, index):
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_enable_preemption_service", False)  # it takes SIGTERM, which is ours: see Agreement
    times = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": HEARTBEAT_SECONDS}
    try:
        jax.distributed.initialize(coordinator, count, index, **times)
    except ValueError as error:  # without arguments one that something is not defined: no cluster that jax knows
        if coordinator is not None or not re.search("(should|must) be defined", str(error)):
            raise


def _start_torch(coordinator, count, index):
    if torch.distributed.is_initialized() or (coordinator is None and int(os.environ.get("WORLD_SIZE", 1)) == 1):
        return
    where = {} if coordinator is None else {"init_method": f"tcp://{coordinator}", "world_size": count, "rank": index}
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", (index or 0) % torch.cuda.device_count())))
    ways = "cpu:gloo,cuda:nccl" if cuda else "gloo"  # numbers of `summed` lie on the host, gradients on the device
    torch.distributed.init_process_group(ways, timeout=timedelta(seconds=TORCH_SECONDS), **where)


def _start_tensorflow(coordinator, count, index):
    global strategy
    if coordinator is not None:
        raise ValueError("On tensorflow processes are named by TF_CONFIG, with the addresses of all workers.")
    try:
        workers = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {}).get("worker", [])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"TF_CONFIG must be JSON as tensorflow wants it, got {os.environ['TF_CONFIG']!r}.") from error
    if len(workers) > 1 and strategy is None:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()


def count() -> int:
    """Processes of the run."""
    return _count_and_index()[0]


def index() -> int:
    """Of this process; 0 is the one that writes."""
    return _count_and_index()[1]


def _count_and_index() -> tuple[int, int]:
    if backend.name() == "jax":
        return (jax.process_count(), jax.process_index()) if jax.distributed.is_initialized() else (1, 0)
    if backend.name() == "torch":
        group = torch.distributed
        return (group.get_world_size(), group.get_rank()) if group.is_initialized() else (1, 0)
    if strategy is None:
        return 1, 0
    resolver = strategy.cluster_resolver
    return len(resolver.cluster_spec().as_dict()["worker"]), resolver.task_id


def summed(value: int) -> int:
    """The sum of an integer over all processes, each of which must ask; |sum| < 2^31. It waits for them."""
    return value if count() == 1 else _summing(value)()


def from_first(value: int) -> int:
    """What process 0 gives; all must ask."""
    return summed(value if index() == 0 else 0)


def bytes_from(sender: int, data: bytes = b"") -> bytes:
    """What process `sender` gives, fewer than 2^31 bytes; all must ask."""
    own, pieces = index() == sender, []
    size = summed(len(data) if own else 0)
    for start in range(0, size, 4 * _AT_ONCE):  # as a sum to which the others give zeros: every backend has that
        piece = data[start : start + 4 * _AT_ONCE] if own else b""
        pieces.append(_sum_of_arrays(np.frombuffer(piece.ljust(4 * _AT_ONCE, b"\0"), "int32")).tobytes())
    return b"".join(pieces)[:size]


def wait_for_all():
    """Returns when every process is here."""
    summed(0)


def check_enough(images: int):
    """ValueError where there are more processes than images, which they are to share out."""
    if images < count():
        raise ValueError(f"{count()} processes share {images} images out: start at most {images}.")


def share(images: int, size: int) -> tuple[int, int]:
    """This process's part of images that are drawn `size` at a time, first <= i < last. Of whole batches, if all have
    one: then each image is drawn beside those that one process draws it beside, and is the same to the last bit."""
    parts, size = count(), size if images // size >= count() else 1
    first, last = (images // size * k // parts * size for k in (index(), index() + 1))
    return first, images if index() + 1 == parts else last


class Agreement:
    """Lets all processes stop after the same step when one of them is asked to. After each step a number is added up,
    and it is looked at a step later, so that no accelerator waits for the host."""

    def __init__(self):
        self._before: Callable[[], int] | None = None

    def stop(self, asked: bool) -> bool:
        """Whether to stop here; every process asks after every step, and gets the same answer."""
        if count() == 1:
            return asked
        before, self._before = self._before, _summing(int(asked))
        return before is not None and before() > 0


def _summing(value: int) -> Callable[[], int]:
    """Begins to add up; what is returned waits for the sum."""
    if backend.name() == "torch":
        number = torch.tensor(value, dtype=torch.int64)
        work = torch.distributed.all_reduce(number, async_op=True)
        return lambda: (work.wait(), int(number))[1]
    return functools.partial(int, _jax_sum(value) if backend.name() == "jax" else _tensorflow_sum()(value))


def _sum_of_arrays(values: np.ndarray) -> np.ndarray:
    """Of int32 arrays of one shape over all processes; it waits for them."""
    if count() == 1:
        return values
    if backend.name() == "torch":
        numbers = torch.tensor(values)
        torch.distributed.all_reduce(numbers)
        return numbers.numpy()
    return np.asarray(_jax_sum(values) if backend.name() == "jax" else _tensorflow_sum()(values), "int32")


def _jax_sum(value: int | np.ndarray):
    split, add = _jax_adding()
    own = np.zeros((jax.local_device_count(), *np.shape(value)), "int32")
    own[0] = value
    return add(jax.make_array_from_process_local_data(split, own))


@functools.cache
def _jax_adding() -> tuple:
    """(where arrays [devices, ...] lie, the function that adds them up on all devices)."""
    mesh, spec = jax.sharding.Mesh(np.array(jax.devices()), ("devices",)), jax.sharding.PartitionSpec
    split, everywhere = (jax.sharding.NamedSharding(mesh, where) for where in (spec("devices"), spec()))
    return split, jax.jit(lambda values: values.sum(axis=0), out_shardings=everywhere)


@functools.cache
def _tensorflow_sum() -> Callable:
    replicas_here = strategy.num_replicas_in_sync // count()

    @tf.function(autograph=False)
    def add(number):
        def in_replica():
            on_device = tf.identity(number)  # an argument lies nowhere, and the sum goes where it lies
            return tf.distribute.get_replica_context().all_reduce("SUM", on_device)

        return strategy.experimental_local_results(strategy.run(in_replica))[0] // replicas_here

    return lambda value: add(tf.constant(value, "int64"))


def lost(error: BaseException) -> bool:
    """Whether an error says that another process of the run is gone."""
    return count() > 1 and _LOST.search(f"{type(error).__name__} {error}") is not None


def leave(code: int):
    """Ends this process at once, if it is one of several: a proper end would wait for the others, who wait for it."""
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
