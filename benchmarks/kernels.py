"""Kernels of a run by time, for --profile, in workers.

torch: torch.profiler; on a CPU, where there are no kernels, operators by their own time. jax: its profiler's file, read
by jax itself (jax.profiler.ProfileData), no TensorBoard needed; on a CPU the operations of XLA's threads. tensorflow:
none here, as its profiles need TensorBoard's plugin.
"""

import collections
import pathlib
import re
import tempfile

LONGEST = 30
# By words in the names of cuDNN's, cuBLAS's, XLA's, inductor's and torch's kernels; the first that fits counts.
FAMILIES = {
    "attention": "flash|fmha|sdpa|attention",
    "convolutions": "conv(?!ert)|fprop|dgrad|wgrad|implicit",
    "products": "gemm|nvjet|cublas|dot|matmul|addmm|::b?mm",
    "copies": "memcpy|memset|transpose|copy|nchwtonhwc|nhwctonchw",
    "reductions and norms": "reduce|norm|sum",
    "fusions": "fusion|triton|elementwise|multi_tensor",
}


def profile(case: str, steps: int, unit: str, run) -> dict:
    """What run(), of so many steps, spends its time in: {case, what, unit, families, longest, all_ms}."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _summed(case, unit, "no profile on tensorflow: it needs TensorBoard's plugin", {}, steps)
    try:
        what, found = (_of_torch if backend == "torch" else _of_jax)(run)
    except Exception as error:  # else the times, measured before, would be lost with it
        what, found = f"no profile, for {type(error).__name__}: {error}", {}
    return _summed(case, unit, what, found, steps)


def _summed(case: str, unit: str, what: str, found: dict[str, tuple[int, float]], steps: int) -> dict:
    """found: {name: (count, milliseconds)} of the whole run."""
    families = collections.Counter()
    for name, (_, milliseconds) in found.items():
        families[family_of(name)] += milliseconds / steps
    longest = sorted(found.items(), key=lambda item: -item[1][1])[:LONGEST]
    rows = [{"name": name, "count": count / steps, "ms": ms / steps} for name, (count, ms) in longest]
    total = {"all_ms": sum(families.values()), "kernels": sum(count for count, _ in found.values()) / steps}
    return {
        "case": case,
        "unit": unit,
        "what": what,
        **total,
        "families": dict(families.most_common()),
        "longest": rows,
    }


def family_of(name: str) -> str:
    return next((family for family, words in FAMILIES.items() if re.search(words, name.lower())), "others")


def _of_torch(run) -> tuple[str, dict]:
    import torch

    activities = torch.profiler.ProfilerActivity
    on_gpu = torch.cuda.is_available()
    chosen = [activities.CPU, activities.CUDA] if on_gpu else [activities.CPU]
    with torch.profiler.profile(activities=chosen) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    wanted = "CUDA" if on_gpu else "CPU"
    events = [e for e in profiler.key_averages() if e.device_type.name == wanted]
    clock = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    found = {e.key: (e.count, getattr(e, clock) / 1e3) for e in events if getattr(e, clock)}
    return "kernels" if on_gpu else "operators by their own time", found


def _of_jax(run) -> tuple[str, dict]:
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python would make the file large and the run slow
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            run()
        file = next(pathlib.Path(folder).rglob("*.xplane.pb"))
        planes = list(jax.profiler.ProfileData.from_file(str(file)).planes)
        on_device = [line for p in planes if "GPU" in p.name for line in p.lines if "Stream" in line.name]
        on_device += [line for p in planes if "TPU" in p.name for line in p.lines if line.name == "XLA Ops"]
        on_host = [line for p in planes if "CPU" in p.name for line in p.lines if "XLA" in line.name]
        found = collections.defaultdict(lambda: (0, 0.0))
        for line in on_device or on_host:
            for event in (event for event in line.events if event.duration_ns and "::" not in event.name):
                count, milliseconds = found[event.name]
                found[event.name] = count + 1, milliseconds + event.duration_ns / 1e6
    return "kernels" if on_device else "operations of XLA's threads, nested ones in both", dict(found)
