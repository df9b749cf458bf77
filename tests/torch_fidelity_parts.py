"""torch-fidelity's modules one at a time, as a second opinion on this library's measurements.

Its package imports torchvision, which the formulas and the networks do not need and which must match torch to the
patch. So a module is loaded beside an empty package of the same name, and a stand-in for torch_fidelity.utils, the
cache and data loading part: whoever calls into that gets an AttributeError.
"""

import functools
import importlib
import importlib.util
import pathlib
import sys
import types

PACKAGE = "torch_fidelity"
# A reason to skip, for pytest.mark.skipif(torch_fidelity_parts.MISSING, reason=...). Finding does not import.
MISSING = importlib.util.find_spec(PACKAGE) is None
REASON = "torch-fidelity is not installed (pip install --no-deps torch-fidelity)"


@functools.cache
def load(name: str) -> types.ModuleType:
    """The module torch_fidelity.<name>, as "metric_fid"; sys.modules is left without any of torch_fidelity's."""
    before = _taken_out()
    try:
        sys.modules[PACKAGE] = _package()
        sys.modules[f"{PACKAGE}.utils"] = _utils()
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        _taken_out()
        sys.modules.update(before)


def _taken_out() -> dict[str, types.ModuleType]:
    """What sys.modules had of torch_fidelity."""
    names = [name for name in sys.modules if name.split(".")[0] == PACKAGE]
    return {name: sys.modules.pop(name) for name in names}


def _package() -> types.ModuleType:
    package = types.ModuleType(PACKAGE)
    package.__path__ = [str(pathlib.Path(importlib.util.find_spec(PACKAGE).origin).parent)]
    return package


def _utils() -> types.ModuleType:
    """Has every name that is imported from it; what is called raises."""
    utils = types.ModuleType(f"{PACKAGE}.utils")

    def stand_in(name: str):
        if name.startswith("__"):  # import machinery asks for these, and takes what it gets
            raise AttributeError(name)

        def absent(*_, **__):
            raise AttributeError(f"torch_fidelity.utils.{name} is not loaded here.")

        return absent

    utils.__getattr__ = stand_in
    return utils
