"""Draws by the exported step in argv[1], where Keras and this library cannot be imported, what the JSON in argv[2] asks
for, {name: arguments of Runner.generate}, into argv[3], an .npz file."""

import importlib.machinery
import json
import sys


class Blocked:
    """Finds them, as tensorflow looks where keras lies, and refuses to import them."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "keras_sid2"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        raise ImportError(f"{spec.name} must not be imported")

    exec_module = None


sys.meta_path.insert(0, Blocked())
sys.path[0] = sys.argv[1]

import numpy as np  # noqa: E402
from runner import Runner  # noqa: E402

runner = Runner()
np.savez(sys.argv[3], **{name: runner.generate(**arguments) for name, arguments in json.loads(sys.argv[2]).items()})
assert not {"keras", "keras_sid2"}.intersection(sys.modules)
