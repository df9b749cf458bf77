"""README.md and docs/: size, links, the strict build of the pages, and that those of the API miss nothing."""

import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import docs_blocks
import pytest

import keras_sid2

pytestmark = pytest.mark.backend_free
MODULES = ("diffusion", "evaluation", "layers", "models", "sampling", "training")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> pathlib.Path:
    """The pages, built without a warning: links and anchors within them lead somewhere (mkdocs.yml)."""
    folder = tmp_path_factory.mktemp("site")
    # Without --quiet, which hides warnings from --strict.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=docs_blocks.ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return folder


def test_readme_has_at_most_130_lines_and_the_two_commands():
    text = (docs_blocks.ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    demo = 'pip install -e ".[demo,torch]" && KERAS_BACKEND=torch sid2-demo --workdir=runs/digits'
    for command in (demo, 'pip install -e ".[test]" && python -m tests'):
        assert f"\n```bash\n{command}\n```\n" in text


@pytest.mark.parametrize("name", ["README.md", "BUILD.md"])
def test_files_that_a_page_outside_docs_links_to_are_there(name):
    links = re.findall(r"\]\(([^)#]+)(#[^)]*)?\)", (docs_blocks.ROOT / name).read_text())
    there = [link for link, _ in links if not link.startswith("https://")]
    assert there and not [link for link in there if not (docs_blocks.ROOT / link).exists()]


def public_names() -> list[str]:
    """Classes and functions that users are told of, by the names that they import."""
    found = []
    for module in [f"keras_sid2.{name}" for name in MODULES] + ["pipelines"]:
        values = importlib.import_module(module)
        objects = {name: getattr(values, name) for name in values.__all__}
        kinds = inspect.isclass, inspect.isfunction
        found += [f"{module}.{name}" for name, value in objects.items() if any(kind(value) for kind in kinds)]
    methods = [getattr(keras_sid2.SiD2Model, name) for name in ("adapt", "generate", "save_preset", "trajectory")]
    return found + [f"{method.__module__}.{method.__name__}" for method in methods]


def test_every_public_name_is_on_a_page_of_the_api(site):
    pages = "".join(path.read_text() for path in (site / "api").rglob("*.html"))
    shown = set(re.findall(r'id="([\w.]+)"', pages))
    # A function in a module of its name is shown as module.name.name.
    assert [name for name in public_names() if not {name, f"{name}.{name.split('.')[-1]}"} & shown] == []


def test_the_page_of_the_architecture_is_that_of_build_md(site):
    assert "Decisions that are not obvious from the code" in (site / "architecture" / "index.html").read_text()


def test_tables_and_lists_are_rendered(site):
    """MkDocs wants an empty line before them, where GitHub does without."""
    wrong = {}
    for path in site.rglob("*.html"):
        article = re.search(r"<article.*?</article>", path.read_text(), re.DOTALL)
        text = re.sub(r"<(pre|code|script|style)\b.*?</\1>", "", article[0] if article else "", flags=re.DOTALL)
        lines = re.sub(r"<[^>]+>", "", text).splitlines()
        wrong[str(path.relative_to(site))] = [line for line in lines if re.match(r"\s*(\||- |\d+\. |```)", line)]
    assert not {name: lines for name, lines in wrong.items() if lines}
