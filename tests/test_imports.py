"""Arrows between the parts of the library point down only, and importing it is light."""

import ast
import graphlib
import os
import pathlib
import subprocess
import sys

import pytest

import keras_sid2

pytestmark = pytest.mark.backend_free

ROOT = pathlib.Path(keras_sid2.__file__).parent.parent
GROUND = {
    "backend",
    "channels",
    "conditions",
    "config",
    "io",
    "parallel",
    "policies",
    "renamed",
    "shapes",
    "starting",
    "threefry",
    "version",
}
# What each part may import beside the ground and itself; "" is keras_sid2/__init__.py.
MAY_IMPORT = {
    **dict.fromkeys(sorted(GROUND), set()),
    "distribution": set(),
    "diffusion": set(),
    "layers": set(),
    "models": {"layers"},
    "sampling": {"diffusion"},
    "generation": {"diffusion", "sampling"},
    "checkpoints": set(),
    "exporting": {"diffusion", "sampling"},
    "training": {"checkpoints", "diffusion", "exporting", "generation", "layers", "models", "sampling"},
    "callbacks": {"checkpoints", "generation", "training"},
    "presets": {"diffusion", "models", "sampling", "training"},
    "evaluation": {"generation"},
    "": {"bin", "diffusion", "distribution", "evaluation", "layers", "models", "presets", "sampling", "training"},
    "bin": None,  # anything
}
BACKENDS = {"jax", "tensorflow", "torch"}
LAZY = "keras_sid2.backend.platform."  # has them under the same names, tensorflow as tf


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def named_in(nodes):
    """Dotted names that import statements name; `from a import b` is a.b."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imports(path):
    """What a file imports, also inside functions."""
    return named_in(ast.walk(ast.parse(path.read_text())))


def part_of(path):
    """ "layers" of keras_sid2/layers/blocks.py, "backend" of keras_sid2/backend.py."""
    first = path.relative_to(ROOT / "keras_sid2").parts[0]
    return first.removesuffix(".py").removeprefix("__init__")


def broken_arrows(path):
    """What it imports of keras_sid2 that is neither its own part, nor the ground, nor below it."""
    allowed = MAY_IMPORT[part_of(path)]
    for name in imports(path):
        package, part, *_ = [*name.split("."), ""]
        if package == "keras_sid2" and allowed is not None and part not in {part_of(path), *GROUND, *allowed}:
            yield name


def test_every_part_has_its_place():
    assert {part_of(path) for path in sources("keras_sid2")} <= set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_arrows_point_down_only(part):
    files = [path for path in sources("keras_sid2") if part_of(path) == part]
    assert {path.name: names for path in files if (names := sorted(broken_arrows(path)))} == {}


def importers(package, wanted):
    return {
        str(path.relative_to(ROOT))
        for path in sources(package)
        if wanted & {n.removeprefix(LAZY).split(".")[0] for n in imports(path)}
    }


def test_only_the_backend_s_own_places_import_a_backend():
    outside = {p for p in importers("keras_sid2", BACKENDS | {"tf"}) if not p.startswith("keras_sid2/bin/")}
    # Orbax is jax's: what writes and reads through it needs jax's words for where arrays lie. Formats are of backends.
    places = ("backend/", "parallel/", "checkpoints/sharded.py", "exporting/formats.py", "exporting/runner.py")
    assert {p for p in outside if not p.startswith(tuple(f"keras_sid2/{place}" for place in places))} == set()


def test_a_backend_is_imported_when_it_is_needed_only():
    for path in sources("keras_sid2"):
        at_import = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not BACKENDS & {name.split(".")[0] for name in named_in(at_import)}, path


def test_data_and_library_do_not_know_each_other():
    assert not importers("pipelines", {"keras_sid2"})
    assert not {p for p in importers("keras_sid2", {"pipelines"}) if not p.startswith("keras_sid2/bin/")}


def import_graph():
    """{module: the modules that it imports, in functions and for type checkers too}, of both packages."""
    found = {}
    for path in [*sources("keras_sid2"), *sources("pipelines")]:
        found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = set(imports(path))
    return {
        module: {name if name in found else name.rpartition(".")[0] for name in names} & set(found)
        for module, names in found.items()
    }


def test_there_are_no_circles():
    graphlib.TopologicalSorter(import_graph()).prepare()


def test_the_check_sees_a_circle_through_a_function(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for name, text in (
        ("keras_sid2/a.py", "from pipelines.b import f"),
        ("pipelines/b.py", "def f():\n import keras_sid2.a"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    with pytest.raises(graphlib.CycleError, match="circle|cycle"):
        test_there_are_no_circles()


def test_the_check_sees_a_wrong_arrow(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    wrong = tmp_path / "keras_sid2" / "diffusion" / "gaussian.py"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("def f():\n    import torch\n    from keras_sid2.models import Level\n")
    assert list(broken_arrows(wrong)) == ["keras_sid2.models.Level"]
    assert importers("keras_sid2", BACKENDS) == {"keras_sid2/diffusion/gaussian.py"}


def test_importing_the_library_loads_nothing_heavy_beyond_keras():
    heavy = {"tensorflow", "tensorflow_datasets", "keras_cv", "matplotlib", "scipy", "sklearn", *BACKENDS}
    program = f"""
import sys, keras
assert "tensorflow" not in sys.modules
before = set(sys.modules)
import keras_sid2
print(*{heavy!r}.intersection(set(sys.modules) - before))
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    loaded = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
