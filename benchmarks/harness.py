"""Runs the cases of a benchmark in one long-lived worker process per backend, interleaved.

A program gives `serve` a function that makes a case ready (builds it, compiles it, runs it once) and returns
`run() -> {"seconds": ..., "units": ...}`. The parent starts the same program with --worker and KERAS_BACKEND
set, once per backend, and asks for the cases in turn, so that a slow minute of the machine falls on all.
Requests and answers are lines of JSON on the worker's stdin and stdout.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence

BACKENDS = ("jax", "tensorflow", "torch")
_ROOT = pathlib.Path(__file__).resolve().parent.parent


class WorkerError(Exception):
    """What a worker, or the death of one, had to say."""


# -- the worker's side -------------------------------------------------------------------------------------


def serve(make_case: Callable[[str], Callable[[], dict]]):
    """Answers requests until stdin closes: {"describe"}, {"prepare": case}, {"run": case}."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers
    runs: dict[str, Callable[[], dict]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _answer(request, runs, make_case)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(request: dict, runs: dict, make_case) -> dict:
    if "describe" in request:
        return describe_backend()
    if "prepare" in request:
        runs[request["prepare"]] = make_case(request["prepare"])
        return {}
    return runs[request["run"]]()


def describe_backend() -> dict:
    """Versions and device of the backend in this process."""
    import keras

    backend = keras.backend.backend()
    package = "tensorflow-cpu" if backend == "tensorflow" and not _installed("tensorflow") else backend
    version = importlib.metadata.version(package) if _installed(package) else "unknown"
    return {"keras": keras.__version__, "backend": backend, "version": version, "device": _device(backend)}


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _device(backend: str) -> str:
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> dict:
    """Seconds by the clock, and of processor time, which other programs on the machine do not lengthen."""
    wall, cpu = now()
    return {"seconds": wall - start[0], "cpu_seconds": cpu - start[1]}


def block(values):
    """Waits until the device has done everything that `values`, outputs of the last step, need."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(values)
    elif keras.backend.backend() == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        import tensorflow as tf

        tf.nest.map_structure(lambda v: v.numpy() if hasattr(v, "numpy") else v, values)


# -- the parent's side -------------------------------------------------------------------------------------


def importable(backends: Sequence[str]) -> tuple[list[str], list[str]]:
    """(backends that are installed, those that are not), without importing any."""
    found = [b for b in backends if importlib.util.find_spec(b) is not None]
    return found, [b for b in backends if b not in found]


def _environment(backend: str, threads: int, root: pathlib.Path) -> dict:
    """The worker's: one backend, the library of the folder `root`, as many threads as the others, no grabbing of a
    whole GPU's memory.

    OpenMP's threads must sleep while they wait: where they spin on shared cores, torch is 20 times slower.
    """
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    return {
        **os.environ,
        **{name: str(threads) for name in counts},
        "KERAS_BACKEND": backend,
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def _pin(threads: int) -> Callable[[], None] | None:
    """Run in the worker before it starts: jax takes as many threads as it may use cores."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return lambda: os.sched_setaffinity(0, cores)


class Worker:
    """One backend's process, in which cases are prepared once and run many times."""

    def __init__(self, program: str, arguments: Sequence[str], backend: str, threads: int, root: pathlib.Path = _ROOT):
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [sys.executable, program, "--worker", *arguments],
            env=_environment(backend, threads, root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            preexec_fn=_pin(threads),
        )

    def ask(self, **request) -> dict:
        """The worker's answer. Raises WorkerError with its message, or the end of its log if it died."""
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the worker died with status {self._process.wait()}:\n{self._end_of_log()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{answer['error']}\n{answer['traceback']}")
        return answer

    def _end_of_log(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-20:])

    def close(self):
        """Closing its stdin ends a worker that is idle."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Bench:
    """Workers and what came of them: `samples` (a dict a run), `failures` (text by case), `described`.

    `others` are folders of other commits, by name: a worker "torch NAME" runs the program with the library of there."""

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        backends: Sequence[str],
        threads: int,
        others: Mapping[str, str] | None = None,
    ):
        self.backends, self.skipped = importable(backends)
        self.samples: list[dict] = []
        self.failures: dict[str, str] = {}
        self.described: dict[str, dict] = {}
        self._ready: set[tuple[str, str]] = set()
        self._say = functools.partial(print, flush=True)
        if self.skipped:
            self._say(f"Not installed, left out: {', '.join(self.skipped)}.")
        self._workers = {b: Worker(program, arguments, b, threads, _ROOT) for b in self.backends}
        for name, folder in (others or {}).items():
            root = pathlib.Path(folder).resolve()
            self._workers |= {f"{b} {name}": Worker(program, arguments, b, threads, root) for b in self.backends}

    def __enter__(self) -> "Bench":
        for backend in self._workers:
            self.described[backend] = self._ask(backend, "describe", describe=True) or {}
        return self

    def __exit__(self, *_):
        for worker in self._workers.values():
            worker.close()

    def _ask(self, backend: str, about: str, **request) -> dict | None:
        try:
            return self._workers[backend].ask(**request)
        except WorkerError as error:
            self.failures[f"{backend}: {about}"] = str(error)
            self._say(f"{backend}: {about} failed: {str(error).splitlines()[0]}")
            return None

    def facts(self, case: str, backends: Sequence[str] | None = None) -> dict:
        """What the first worker that can, of `backends` or of all, answers to a case that is no measurement."""
        for backend in backends or self.backends:
            if self._ask(backend, case, prepare=case) is not None:
                return self._ask(backend, case, run=case) or {}
        return {}

    def ran(self, backend: str, case: str) -> bool:
        """Whether there is a sample of it."""
        return any((s["backend"], s["case"]) == (backend, case) for s in self.samples)

    def run(self, plan: Sequence[tuple[str, str]], rounds: int):
        """Each (backend, case) of `plan` once a round, every other round backwards: drift cancels."""
        for backend, case in (pair for pair in plan if pair not in self._ready):
            self._say(f"{backend}: {case}: compiling")
            if self._ask(backend, case, prepare=case) is not None:
                self._ready.add((backend, case))
        alive = [pair for pair in plan if pair in self._ready]
        for backend, case in alive:  # once more: making a case can empty the caches of those before it
            self._ask(backend, case, run=case)
        first = max((s["round"] for s in self.samples), default=-1) + 1
        for number in range(first, first + rounds):
            for backend, case in alive if number % 2 == 0 else alive[::-1]:
                if f"{backend}: {case}" in self.failures:
                    continue
                answer = self._ask(backend, case, run=case)
                if answer is not None:
                    self.samples.append({"backend": backend, "case": case, "round": number, **answer})
