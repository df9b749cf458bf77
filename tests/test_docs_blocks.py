"""Every code block of README.md and docs/ is run with small numbers, or says in its first line why it is not."""

import pathlib
import shutil

import docs_blocks
import pytest
from docs_blocks import ROOT, blocks, pages

pytestmark = pytest.mark.backend_free
START = ROOT / "docs" / "quickstart.md"


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> pathlib.Path:
    """The folder in which the quick start was run: where every other page begins."""
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "examples").symlink_to(ROOT / "examples")  # of the clone that it begins with
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        docs_blocks.run(START)
    return folder


def test_the_quick_start(started):
    assert (started / "runs").is_dir()


def of_pages(*left_out):
    """The test once for each page that has blocks."""
    found = [page for page in pages() if page not in left_out and blocks(page)]
    return pytest.mark.parametrize("page", found, ids=lambda page: str(page.relative_to(ROOT)))


@of_pages(START)
def test_the_blocks_of_a_page(page, started, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(started, folder, symlinks=True)
    monkeypatch.chdir(folder)
    docs_blocks.run(page)


@of_pages()
def test_a_block_that_is_not_run_says_what_it_lacks(page):
    for block in blocks(page):
        if block.mark is not None:
            reason = block.code.split("\n")[0].removeprefix(block.mark)
            assert any(word in reason for word in docs_blocks.LACKING), f"{block.name}: {reason}"
        if block.language == "python":
            docs_blocks.parsed(block)


@pytest.mark.parametrize(
    "code, told",
    [
        ("sid2-sample --workdirs=runs/mine", "Unknown command line flag 'workdirs'"),
        (
            "# The tests check the flags only: it needs a GPU.\nsid2-train --workdir=a --data=b --steps=0",
            "--steps must",
        ),
        ("torchrun -m keras_sid2.bin.train --workdir=a --data=b", "mark the block"),
        ('pip install "keras_sid2[flux]"', "no such extras"),
        ("rm -r data", "mark the block"),
        ("python examples/none.py", "no file"),
        ("python - <<'END'\nimport nothing_of_the_kind\nEND\n", "nothing_of_the_kind"),
    ],
)
def test_a_wrong_command_is_found(code, told):
    with pytest.raises(Exception, match=told):
        docs_blocks._run_shell(docs_blocks.Block(START, 1, "bash", f"{code}\n"))
