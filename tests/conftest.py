"""What every test needs before keras is imported."""

import collections
import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of jax's time here is compiling what runs once: half as long without most optimizations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Tensors this small take torch far less time to compute than its threads take to wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Readline gives them to the processes that pytest shares tests out to, and programs would wrap what they say.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

# Programs keep what they compile in the user's home, unless one of these is set; `python -m tests` names a folder.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), "keras_sid2_tests_inductor"))
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import hypothesis

# The same examples in every run, and no deadline: a shared machine has slow minutes.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, max_examples=200)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Where files are shared out to processes, those with slow tests come first, then those with many: one that begins
    last keeps one process busy and the others waiting."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow, count = {item.path for item in items if item.get_closest_marker("slow")}, collections.Counter()
        count.update(item.path for item in items)
        items.sort(key=lambda item: (item.path not in slow, -count[item.path]))
