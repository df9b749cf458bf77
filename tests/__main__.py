"""python -m tests [pytest's arguments]: the whole suite once a backend, each in a process of its own.

    python -m tests                        all three
    python -m tests -k schedules -x        pytest's own arguments
    BACKENDS=torch,jax python -m tests     some of them
    python -m tests -n 0                   in one process, as for a debugger

Tests marked backend_free run with the first backend only. Files are shared out to as many processes as there are cores:
most of the time goes into compiling, which uses one.
"""

import os
import subprocess
import sys

BACKENDS = ("tensorflow", "jax", "torch")


def main() -> int:
    backends = os.environ.get("BACKENDS", ",".join(BACKENDS)).split(",")
    unknown = set(backends) - set(BACKENDS)
    if unknown:
        print(f"BACKENDS must be among {', '.join(BACKENDS)}, got {', '.join(sorted(unknown))}.", file=sys.stderr)
        return 2
    codes = []
    for i, backend in enumerate(backends):
        print(f"== KERAS_BACKEND={backend}", flush=True)
        selection = ["-m", "not backend_free"] if i else []
        command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *selection, *sys.argv[1:]]
        codes.append(subprocess.run(command, env={**os.environ, "KERAS_BACKEND": backend}, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
