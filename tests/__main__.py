"""python -m tests [pytest's arguments]: the whole suite once a backend, each in a process of its own.

    python -m tests                        all three
    python -m tests -k schedules -x        pytest's own arguments
    BACKENDS=torch,jax python -m tests     some of them
    python -m tests -n 0                   in one process, as for a debugger

Tests marked backend_free run with the first backend only: torch, which compiles nothing. Files are shared out to as
many processes as there are cores: most of the time goes into compiling, which uses one.
"""

import os
import subprocess
import sys
import tempfile

BACKENDS = ("torch", "jax", "tensorflow")


def main() -> int:
    backends = os.environ.get("BACKENDS", ",".join(BACKENDS)).split(",")
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        print(f"BACKENDS must be among {', '.join(BACKENDS)}, got {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    codes = []
    with tempfile.TemporaryDirectory(prefix="compiled_by_jax_") as folder:
        for i, backend in enumerate(backends):
            print(f"== KERAS_BACKEND={backend}", flush=True)
            selection = ["-m", "not backend_free"] if i else []
            # Each file to one process, in the order of tests/conftest.py.
            sharing = ["-n", "auto", "--dist", "loadfile", "--no-loadscope-reorder"]
            command = [sys.executable, "-m", "pytest", *sharing, *selection, *sys.argv[1:]]
            # The same programs are compiled again and again, by tests and by the processes that they start.
            kept = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            environment = {**os.environ, **kept, "KERAS_BACKEND": backend}
            codes.append(subprocess.run(command, env=environment, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
