"""What every test needs before keras is imported."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Most of jax's time here is compiling what runs once: half as long without most optimizations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Tensors this small take torch far less time to compute than its threads take to wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis

# The same examples in every run, and no deadline: a shared machine has slow minutes.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, max_examples=200)
hypothesis.settings.load_profile("suite")
